//! `stower wait`: until a condition holds, or an object is gone.

use super::{
    age,
    context::{Context, println},
    error::{CliError, Failures},
    target::select,
    wait::{self, Goal},
};
use crate::{args::WaitForArgs, client::ClientError};

pub(super) async fn run(context: &Context, args: &WaitForArgs) -> Result<(), CliError> {
    let timeout = age::duration(&args.timeout).map_err(CliError::Message)?;
    let condition = match args.condition.split_once('=') {
        Some(("condition", what)) if !what.is_empty() => Some(what.split_once('=').unwrap_or((what, "True"))),
        None if args.condition == "delete" => None,
        _ => {
            return Err(CliError::Message(format!(
                "--for={}: must be condition=NAME, condition=NAME=STATUS or delete",
                args.condition
            )));
        }
    };
    let mut failures = Failures::default();
    for target in select(context, &args.selection).await? {
        let goal = match condition {
            Some((name, status)) => Goal::Condition(name.to_owned(), status.to_owned()),
            None => match context.client.get(target.url().as_str()).await {
                Ok(object) => Goal::Gone(object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()),
                Err(ClientError::Status(status)) if status.code == 404 => {
                    println(format!("{target} deleted"))?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            },
        };
        match wait::until(context, &target, goal, timeout).await {
            Ok(_) => {
                println(format!(
                    "{target} {}",
                    if condition.is_some() { "condition met" } else { "deleted" }
                ))?;
            }
            Err(error) => failures.add(error)?,
        }
    }
    failures.end()
}
