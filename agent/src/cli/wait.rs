//! Waiting for an object to come to a state: by watching it, never by polling.

use std::time::Duration;

use serde_json::Value;

use super::{context::Context, error::CliError, row, target::Target};
use crate::client::ClientError;

/// What to wait for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Goal {
    /// It is gone, or another of the same name is there than the one with this UID.
    Gone(String),
    /// No process of it runs.
    Stopped,
    /// A process of it runs, or it has ended well.
    Running,
    /// A process of it runs that was not there at the state given here.
    Restarted(Value),
    /// It is ready, or has ended well, as its present generation declares; what only holds values is so at once.
    Ready,
    /// A condition has a status, of its present generation; an object that is not there yet may still come.
    Condition(String, String),
}

impl Goal {
    /// Whether an object, or its absence, is it; what makes it impossible is an error.
    fn reached(&self, object: Option<&Value>) -> Result<bool, String> {
        let Some(object) = object else {
            return match self {
                Self::Gone(_) | Self::Stopped => Ok(true),
                Self::Condition(..) => Ok(false),
                _ => Err("it was removed".to_owned()),
            };
        };
        let state = &object["status"]["state"];
        let running = state["running"].is_object();
        let phase = object["status"]["phase"].as_str().unwrap_or_default();
        Ok(match self {
            Self::Gone(uid) => object["metadata"]["uid"] != uid.as_str(),
            Self::Stopped => !running,
            Self::Running => running || phase == "Succeeded",
            Self::Restarted(before) => running && state["running"] != before["status"]["state"]["running"],
            Self::Condition(name, wanted) => {
                let current = object["status"]["observedGeneration"] == object["metadata"]["generation"];
                let is = |condition: &Value| {
                    condition["status"].as_str().is_some_and(|status| status.eq_ignore_ascii_case(wanted))
                };
                current && row::condition(object, name).is_some_and(is)
            }
            Self::Ready if object["kind"] == "ConfigMap" || object["kind"] == "Secret" => true,
            Self::Ready => {
                let current = object["status"]["observedGeneration"] == object["metadata"]["generation"];
                if current && phase == "Failed" {
                    return Err(format!("it failed ({})", row::word(object)));
                }
                let ready = row::condition(object, "Ready").is_some_and(|ready| ready["status"] == "True");
                current && (ready || phase == "Succeeded")
            }
        })
    }
}

/// Waits until the goal is reached; a `timeout` of zero is for ever. Gives the object as it is then.
pub(super) async fn until(
    context: &Context,
    target: &Target,
    goal: Goal,
    timeout: Duration,
) -> Result<Option<Value>, CliError> {
    let mut last = None;
    let watching = watch(context, target, &goal, &mut last);
    if timeout.is_zero() {
        return watching.await;
    }
    match tokio::time::timeout(timeout, watching).await {
        Ok(result) => result,
        Err(_) => Err(CliError::Message(format!(
            "timed out waiting for {target}{}",
            last.map_or(String::new(), |word| format!(" (it is {word})"))
        ))),
    }
}

async fn watch(
    context: &Context,
    target: &Target,
    goal: &Goal,
    last: &mut Option<String>,
) -> Result<Option<Value>, CliError> {
    let check = |object: Option<&Value>| {
        goal.reached(object).map_err(|why| CliError::Message(format!("{target}: {why}")))
    };
    loop {
        let field = format!("metadata.name={}", target.name);
        let url = target.resource.list(Some(&target.namespace)).query("fieldSelector", &field);
        let mut list = context.client.get(url.as_str()).await?;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let object = super::target::items(&mut list).pop();
        *last = object.as_ref().map(row::word);
        if check(object.as_ref())? {
            return Ok(object);
        }
        let url = url.query("watch", "true").query("resourceVersion", &version);
        let mut stream = context.client.stream(hyper::Method::GET, url.as_str(), None).await?;
        loop {
            let mut event = match stream.event().await {
                Ok(Some(event)) => event,
                // The agent ends a watch that fell behind, and when it stops itself.
                Ok(None) => break,
                Err(error) if error.is_gone() => break,
                Err(error @ ClientError::Status(_)) => return Err(error.into()),
                Err(error) => return Err(error.into()),
            };
            let object = match event["type"].as_str() {
                Some("DELETED") => None,
                Some("ADDED" | "MODIFIED") => Some(event["object"].take()),
                _ => continue,
            };
            *last = object.as_ref().map(row::word);
            if check(object.as_ref())? {
                return Ok(object);
            }
        }
    }
}

#[cfg(test)]
mod tests;
