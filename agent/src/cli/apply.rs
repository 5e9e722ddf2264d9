//! `stower apply -f`: declares objects in the agent's own source.

use serde_json::Value;

use super::{
    age,
    context::{Context, list_of, print, println, to_json, to_yaml},
    error::{CliError, Failures},
    files,
    target::Target,
    wait::{self, Goal},
};
use crate::{
    args::{ApplyArgs, DryRun, Output},
    client::ClientError,
};

pub(super) async fn run(context: &Context, args: &ApplyArgs) -> Result<(), CliError> {
    let timeout = age::duration(&args.timeout).map_err(CliError::Message)?;
    // All of it is read before any of it is sent: a typing error in the last file changes nothing.
    let documents = files::documents(&files::read(&args.filename, args.recursive)?)?;
    let mut targets = Vec::new();
    for document in &documents {
        let place = |error: CliError| CliError::Message(format!("{}: {error}", document.place()));
        let target = Target::of(document.object(), context.namespace()).map_err(place)?;
        if context.namespace.as_ref().is_some_and(|wanted| *wanted != target.namespace) {
            return Err(place(CliError::Message(format!(
                "the namespace from the document ({:?}) does not match the namespace {:?} of -n",
                target.namespace,
                context.namespace()
            ))));
        }
        targets.push(target);
    }
    let mut failures = Failures::default();
    let mut applied = Vec::new();
    for (document, target) in documents.iter().zip(&targets) {
        let url = target.sub(&[]).query("fieldManager", "stower");
        let url = if args.dry_run == DryRun::Server { url.query("dryRun", "All") } else { url };
        match context.client.apply(url.as_str(), document.object()).await {
            Ok((object, outcome)) => {
                if args.output.is_none_or(|output| output == Output::Wide) {
                    println(report(target, &outcome, args.dry_run))?;
                }
                applied.push((target.clone(), object));
            }
            Err(ClientError::Status(mut status)) => {
                status.message = format!("{}: {}", document.place(), status.message);
                failures.add(ClientError::Status(status).into())?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if args.wait && args.dry_run == DryRun::None {
        for (target, object) in &mut applied {
            match wait::until(context, target, Goal::Ready, timeout).await {
                Ok(now) => *object = now.unwrap_or(Value::Null),
                Err(error) => failures.add(error)?,
            }
        }
    }
    show(args.output, applied)?;
    failures.end()
}

pub(super) fn report(target: &Target, done: &str, dry_run: DryRun) -> String {
    let dry = if dry_run == DryRun::Server { " (server dry run)" } else { "" };
    format!("{target} {done}{dry}")
}

fn show(output: Option<Output>, applied: Vec<(Target, Value)>) -> Result<(), CliError> {
    let data = |objects: Vec<(Target, Value)>| {
        let mut objects: Vec<_> = objects.into_iter().map(|(_, object)| object).collect();
        if objects.len() == 1 { objects.remove(0) } else { list_of(objects) }
    };
    match output {
        None | Some(Output::Wide) => Ok(()),
        Some(Output::Name) => applied.iter().try_for_each(|(target, _)| println(target.to_string())),
        Some(Output::Json) => print(to_json(&data(applied))?),
        Some(Output::Yaml) => print(to_yaml(&data(applied))?),
    }
}
