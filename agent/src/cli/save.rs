//! `stower image save`: images as one archive.

use serde_json::json;

use super::{archive, context::Context, error::CliError};
use crate::{
    args::SaveArgs,
    client::{Content, Url},
};

pub(super) async fn run(context: &Context, args: &SaveArgs) -> Result<(), CliError> {
    let output = args.output.as_deref();
    archive::refuse_terminal(output)?;
    let content = Content::json(&json!({"references": args.references}));
    let url = Url::new(&["v1", "images", "save"]);
    archive::receive(context, hyper::Method::POST, &url, Some(content), output).await
}
