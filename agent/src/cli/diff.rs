//! `stower diff`: what a container has changed in its root filesystem.

use super::{
    context::{Context, println},
    error::CliError,
    target,
};
use crate::args::DiffArgs;

pub(super) async fn run(context: &Context, args: &DiffArgs) -> Result<(), CliError> {
    let target = target::single(context, &args.name)?;
    let url = target.sub(&["diff"]);
    // It takes as long as there is to look at.
    let mut stream = context.client.stream(hyper::Method::GET, url.as_str(), None).await?;
    let mut answer = Vec::new();
    while let Some(piece) = stream.chunk().await? {
        answer.extend_from_slice(&piece);
    }
    let list: serde_json::Value = serde_json::from_slice(&answer)
        .map_err(|error| CliError::Message(format!("the agent's answer is not JSON: {error}")))?;
    for change in list["items"].as_array().into_iter().flatten() {
        // As Docker has them: added, changed, deleted.
        let letter = match change["kind"].as_str() {
            Some("Added") => 'A',
            Some("Deleted") => 'D',
            _ => 'C',
        };
        println(format!("{letter} {}", shown(change["path"].as_str().unwrap_or_default())))?;
    }
    Ok(())
}

/// A container chooses its names; none of them may write to a terminal what is not one line of text.
fn shown(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests;
