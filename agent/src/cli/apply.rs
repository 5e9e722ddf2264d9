//! `stower apply -f`: declares objects in the agent's own source, or in a cluster by server-side apply.

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

/// Who manages the fields that people apply.
const FIELD_MANAGER: &str = "stower";

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
        refuse_redacted(context, document.object()).map_err(place)?;
        targets.push(target);
    }
    let mut failures = Failures::default();
    let mut applied = Vec::new();
    for (document, target) in documents.iter().zip(&targets) {
        match send(context, target, document.object(), args.dry_run, args.force_conflicts).await {
            Ok((mut object, outcome)) => {
                if let Some(metadata) = object["metadata"].as_object_mut() {
                    metadata.remove("managedFields");
                }
                if args.output.is_none_or(|output| output == Output::Wide) {
                    println(report(target, &outcome, args.dry_run))?;
                }
                applied.push((target.clone(), object));
            }
            Err(ClientError::Status(mut status)) => {
                status.message = format!("{}: {}", document.place(), status.message);
                if status.code == 409 && status.message.contains("conflict") && !args.force_conflicts {
                    status.message.push_str("; --force-conflicts takes these fields over");
                }
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

/// Refuses a Secret that was read without its values, as the agent does.
pub(super) fn refuse_redacted(context: &Context, object: &Value) -> Result<(), CliError> {
    let redacted = &object["metadata"]["annotations"][crate::api::REDACTED_ANNOTATION];
    if context.client.is_cluster() && object["kind"] == "Secret" && redacted.is_string() {
        return Err(CliError::Message(format!(
            "{} says that the values were left out: read it as root, or take the annotation off",
            crate::api::REDACTED_ANNOTATION
        )));
    }
    Ok(())
}

/// Applies one object, and tells what that changed.
pub(super) async fn send(
    context: &Context,
    target: &Target,
    object: &Value,
    dry_run: DryRun,
    force: bool,
) -> Result<(Value, String), ClientError> {
    let url = target.url().query("fieldManager", FIELD_MANAGER);
    let url = if dry_run == DryRun::Server { url.query("dryRun", "All") } else { url };
    if !context.client.is_cluster() {
        return context.client.apply(url.as_str(), object).await;
    }
    // Fields that it does not know, an API server would only warn of.
    let url = url.query("fieldValidation", "Strict");
    let url = if force { url.query("force", "true") } else { url };
    // It does not tell what an apply came to.
    let before = match context.client.get(target.url().as_str()).await {
        Ok(before) => Some(Some(before)),
        Err(error) if error.is_not_found() => Some(None),
        // Who may change an object need not be one who may see it.
        Err(ClientError::Status(status)) if status.code == 403 => None,
        Err(error) => return Err(error),
    };
    let (after, _) = context.client.apply(url.as_str(), &declared(object)).await?;
    let outcome = match before {
        None => "serverside-applied",
        Some(None) => "created",
        Some(Some(before)) if essence(&before) == essence(&after) => "unchanged",
        Some(Some(_)) => "configured",
    };
    Ok((after, outcome.to_owned()))
}

/// What people declare of an object: without what servers write into it, so that what `get` printed can be applied.
fn declared(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    let Some(metadata) = object["metadata"].as_object_mut() else { return object };
    for field in [
        "managedFields",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
    ] {
        metadata.remove(field);
    }
    if let Some(finalizers) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
        // It is the agent's.
        finalizers.retain(|finalizer| finalizer != stower_crds::FINALIZER);
    }
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        for name in [crate::api::SOURCE_ANNOTATION, stower_controllers::LEVEL_ANNOTATION] {
            annotations.remove(name);
        }
    }
    for field in ["finalizers", "annotations"] {
        let empty = match metadata.get(field) {
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Object(items)) => items.is_empty(),
            _ => false,
        };
        if empty {
            metadata.remove(field);
        }
    }
    object
}

/// What an apply changes of an object, where it changes anything.
fn essence(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["managedFields", "resourceVersion", "generation"] {
            metadata.remove(field);
        }
    }
    object
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
