//! What `stop`, `start` and `restart` have in common: a word to the agent for each container, then perhaps waiting.

use serde_json::{Value, json};

use super::{
    age,
    context::{Context, println},
    error::{CliError, Failures},
    target::{Target, select},
    wait::{self, Goal},
};
use crate::{
    args::{Selection, WaitArgs},
    client::{ClientError, Content},
};

/// A verb of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Stop,
    Start,
    Restart,
}

impl Verb {
    fn action(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Start => "start",
            Self::Restart => "restart",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Stop => "stopped",
            Self::Start => "started",
            Self::Restart => "restarted",
        }
    }

    fn goal(self, before: Option<Value>) -> Goal {
        match self {
            Self::Stop => Goal::Stopped,
            Self::Start => Goal::Running,
            Self::Restart => Goal::Restarted(before.unwrap_or_default()),
        }
    }
}

pub(super) async fn run(
    context: &Context,
    verb: Verb,
    selection: &Selection,
    grace: Option<u32>,
    wait: &WaitArgs,
) -> Result<(), CliError> {
    // A stop always ends, with the kill if need be; a start may fail for ever.
    let (waits, limit) = if verb == Verb::Stop { (true, "0") } else { (false, "5m") };
    let waits = wait.wait.unwrap_or(waits);
    let timeout = age::duration(wait.timeout.as_deref().unwrap_or(limit)).map_err(CliError::Message)?;
    let mut body = json!({"action": verb.action()});
    if let Some(seconds) = grace {
        body["gracePeriodSeconds"] = seconds.into();
    }
    let mut failures = Failures::default();
    let mut asked = Vec::new();
    for target in select(context, selection).await? {
        match ask(context, &target, &body, waits && verb == Verb::Restart).await {
            Ok(before) => asked.push((target, before)),
            Err(error) => failures.add(error.into())?,
        }
    }
    // All are asked first, so that they stop at the same time.
    for (target, before) in asked {
        let result =
            if waits { wait::until(context, &target, verb.goal(before), timeout).await } else { Ok(None) };
        match result {
            Ok(_) => println(format!("{target} {}", verb.done()))?,
            Err(error) => failures.add(error)?,
        }
    }
    failures.end()
}

async fn ask(
    context: &Context,
    target: &Target,
    body: &Value,
    look_first: bool,
) -> Result<Option<Value>, ClientError> {
    let before = if look_first { Some(context.client.get(target.url().as_str()).await?) } else { None };
    let url = target.sub(&["hold"]);
    context.client.json(hyper::Method::POST, url.as_str(), Some(Content::json(body))).await?;
    Ok(before)
}
