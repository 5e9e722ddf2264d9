//! `stower image import`: images from a directory or archive on this machine.

use serde_json::json;

use super::{
    context::{Context, println},
    error::CliError,
};
use crate::{args::ImportArgs, client::Content};

pub(super) async fn run(context: &Context, args: &ImportArgs) -> Result<(), CliError> {
    // The agent reads it, and has another working directory.
    let path = std::fs::canonicalize(&args.path)
        .map_err(|error| CliError::Message(format!("cannot read {}: {error}", args.path.display())))?;
    let Some(path) = path.to_str() else {
        return Err(CliError::Message(format!("{}: a path must be UTF-8", path.display())));
    };
    let mut body = json!({"path": path});
    if let Some(name) = &args.name {
        body["name"] = name.as_str().into();
    }
    let mut stream =
        context.client.stream(hyper::Method::POST, "/v1/images/import", Some(Content::json(&body))).await?;
    let Some(answer) = stream.event().await? else {
        return Err(CliError::Message("the agent did not say what it imported".to_owned()));
    };
    for image in answer["items"].as_array().into_iter().flatten() {
        println(format!(
            "imported {}@{}",
            image["reference"].as_str().unwrap_or("<none>"),
            image["digest"].as_str().unwrap_or_default()
        ))?;
    }
    Ok(())
}
