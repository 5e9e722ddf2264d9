//! `stower commit`: a container's changes as a new image.

use super::{
    context::{Context, println},
    error::CliError,
    target,
};
use crate::{args::CommitArgs, client::Content, rootfs::CommitOptions};

pub(super) async fn run(context: &Context, args: &CommitArgs) -> Result<(), CliError> {
    let target = target::single(context, &args.name)?;
    let options = CommitOptions {
        reference: args.reference.clone(),
        author: args.author.clone(),
        message: args.message.clone(),
        changes: args.change.clone(),
        pause: args.pause,
    };
    let url = target.sub(&["commit"]);
    let content = Content::json(&serde_json::json!(options));
    // It takes as long as there is to read and to pack.
    let mut stream = context.client.stream(hyper::Method::POST, url.as_str(), Some(content)).await?;
    let Some(image) = stream.event().await? else {
        return Err(CliError::Message("the agent did not say what it made".to_owned()));
    };
    println(image["digest"].as_str().unwrap_or_default())
}
