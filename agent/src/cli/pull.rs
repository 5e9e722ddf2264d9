//! `stower pull`: fetches images, and shows how far it is.

use serde_json::json;

use super::{
    context::{Context, note, on_terminal, print, println},
    error::{CliError, Failures},
    progress::Progress,
};
use crate::{args::PullArgs, client::Content};

pub(super) async fn run(context: &Context, args: &PullArgs) -> Result<(), CliError> {
    let mut failures = Failures::default();
    for reference in &args.references {
        if let Err(error) = pull(context, reference, args.quiet).await {
            failures.add(error)?;
        }
    }
    failures.end()
}

async fn pull(context: &Context, reference: &str, quiet: bool) -> Result<(), CliError> {
    let body = Content::json(&json!({"reference": reference}));
    let mut stream = context.client.stream(hyper::Method::POST, "/v1/images/pull", Some(body)).await?;
    if !quiet {
        note(format!("Pulling {reference}"));
    }
    let mut progress = Progress::new(on_terminal());
    while let Some(event) = stream.event().await? {
        match event["type"].as_str() {
            Some("PROGRESS") if !quiet => print(progress.update(&event["object"]))?,
            Some("DONE") => {
                let image = &event["object"];
                let digest = image["digest"].as_str().unwrap_or_default();
                return if quiet {
                    println(digest)
                } else {
                    println(format!("{}@{digest}", image["reference"].as_str().unwrap_or(reference)))
                };
            }
            _ => {}
        }
    }
    Err(context.client.broken(format!("the agent stopped while it pulled {reference}")).into())
}
