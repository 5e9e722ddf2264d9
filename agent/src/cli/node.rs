//! `stower node`: what concerns a node of a cluster as a whole.

use hyper::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use stower_crds::{API_VERSION, FINALIZER};

use super::{
    age,
    context::{Context, note, now, println},
    error::{CliError, Failures},
    target::{RESOURCES, Target, items},
    volume::confirmed,
};
use crate::{
    args::{NodeArgs, NodeCommand, NodeForgetArgs},
    client::{ClientError, Content, Url},
};

/// How often a change is tried again that met another one.
const TRIES: usize = 5;
/// How much of a list of paths an Event names.
const NAMED: usize = 16;

pub(super) async fn run(context: &Context, args: &NodeArgs) -> Result<(), CliError> {
    match &args.command {
        NodeCommand::Forget(args) => forget(context, args).await,
    }
}

async fn forget(context: &Context, args: &NodeForgetArgs) -> Result<(), CliError> {
    if !context.client.is_cluster() {
        return Err(CliError::Message(
            "node forget is asked of a cluster, not of an agent: name one with --context or --kubeconfig"
                .to_owned(),
        ));
    }
    let lease = lease(context, args).await?;
    if let Some(alive) = lease.as_ref().and_then(|lease| alive(lease, now())).filter(|_| !args.force) {
        return Err(CliError::Message(format!(
            "node {} is not gone: {alive}. Stop its agent, or delete its objects and let the agent remove them; --force forgets it \
             all the same",
            args.name
        )));
    }
    let (deleted, staying) = objects(context, &args.name).await?;
    if deleted.is_empty() && lease.is_none() {
        note(format!("Nothing of node {} waits for its agent.", args.name));
        return told_staying(&args.name, &staying);
    }
    for (target, object) in &deleted {
        println(format!("{target} in namespace {}: {}", target.namespace, given_up(object)))?;
    }
    if !args.yes && !args.dry_run {
        note(format!(
            "The agent of node {} will not remove these any more; it must be gone for good.",
            args.name
        ));
        if !confirmed()? {
            return Err(CliError::Message("nothing was changed".to_owned()));
        }
    }
    // The Lease first: an agent that came back meanwhile has changed it, and nothing is forgotten.
    if let Some(lease) = &lease {
        remove_lease(context, args, lease).await?;
    }
    let mut failures = Failures::default();
    for (target, object) in &deleted {
        if let Err(error) = release(context, args, target, object).await {
            failures.add(error)?;
        }
    }
    told_staying(&args.name, &staying)?;
    failures.end()
}

fn told_staying(node: &str, staying: &[Target]) -> Result<(), CliError> {
    if !staying.is_empty() {
        let names: Vec<_> =
            staying.iter().map(|target| format!("{target} in namespace {}", target.namespace)).collect();
        note(format!(
            "Not deleted, and so kept: {}. Delete what node {node} shall not run when it comes back.",
            names.join(", ")
        ));
    }
    Ok(())
}

fn lease_url(args: &NodeForgetArgs) -> Url {
    Url::new(&[
        "apis",
        "coordination.k8s.io",
        "v1",
        "namespaces",
        &args.lease_namespace,
        "leases",
        &args.name,
    ])
}

async fn lease(context: &Context, args: &NodeForgetArgs) -> Result<Option<Value>, CliError> {
    match context.client.get(lease_url(args).as_str()).await {
        Ok(lease) => Ok(Some(lease)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Why the holder of a Lease is not gone; `None` when it has run out.
fn alive(lease: &Value, now: Timestamp) -> Option<String> {
    let spec = &lease["spec"];
    let holder = spec["holderIdentity"].as_str().filter(|holder| !holder.is_empty())?;
    let renewed = age::parse(&spec["renewTime"])?;
    let duration = spec["leaseDurationSeconds"].as_i64().unwrap_or(0);
    let since = now.as_second() - renewed.as_second();
    (since < duration).then(|| {
        let place = format!(
            "{}/{}",
            lease["metadata"]["namespace"].as_str().unwrap_or_default(),
            lease["metadata"]["name"].as_str().unwrap_or_default()
        );
        format!(
            "its agent {holder} renewed the Lease {place} {} ago, and holds it for {duration}s",
            age::human(since.max(0))
        )
    })
}

/// The node's objects: those that wait for its agent to be gone, and those that nobody deleted.
async fn objects(context: &Context, node: &str) -> Result<(Vec<(Target, Value)>, Vec<Target>), CliError> {
    let (mut deleted, mut staying) = (Vec::new(), Vec::new());
    let field = format!("spec.nodeName={node}");
    for resource in RESOURCES.iter().filter(|resource| !resource.is_core()) {
        let url = resource.list(None).query("fieldSelector", &field);
        let mut list = context.client.get(url.as_str()).await?;
        for object in items(&mut list) {
            let target = Target::of(&object, "")?;
            if object["metadata"]["deletionTimestamp"].is_null() {
                staying.push(target);
            } else if is_held(&object) {
                deleted.push((target, object));
            }
        }
    }
    Ok((deleted, staying))
}

fn is_held(object: &Value) -> bool {
    let finalizers = object["metadata"]["finalizers"].as_array();
    finalizers.is_some_and(|finalizers| finalizers.iter().any(|finalizer| finalizer == FINALIZER))
}

/// The data of an object that nobody will remove or keep any more.
fn given_up(object: &Value) -> String {
    let (spec, status) = (&object["spec"], &object["status"]);
    let paths = |list: &Value| {
        let all = list.as_array().into_iter().flatten();
        let mut paths: Vec<_> = all.filter_map(|volume| volume["mountPath"].as_str()).collect();
        let more = paths.len().saturating_sub(NAMED);
        paths.truncate(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}", paths.join(", "))
    };
    match object["kind"].as_str() {
        Some("Volume") => {
            let driver = spec["driver"].as_str().unwrap_or("local");
            let at = status["path"].as_str().map_or(String::new(), |path| format!(" at {path}"));
            format!("gives up the data of this {driver} volume{at}")
        }
        Some("DataContainer") => format!("gives up the data of {}", paths(&spec["volumes"])),
        _ => "gives up its writable layer, its anonymous and emptyDir volumes, and its log".to_owned(),
    }
}

async fn remove_lease(context: &Context, args: &NodeForgetArgs, lease: &Value) -> Result<(), CliError> {
    let metadata = &lease["metadata"];
    let mut options = json!({
        "apiVersion": "v1", "kind": "DeleteOptions",
        "preconditions": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
    });
    if args.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    let place = format!("lease.coordination.k8s.io/{}", args.name);
    let url = lease_url(args);
    match context.client.json(Method::DELETE, url.as_str(), Some(Content::json(&options))).await {
        Ok(_) => println(format!("{place} deleted{}", dry(args))),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) if error.is_conflict() => Err(CliError::Message(format!(
            "node {} came back meanwhile: its agent renewed the Lease {}/{}. Nothing was forgotten",
            args.name, args.lease_namespace, args.name
        ))),
        Err(error) => Err(error.into()),
    }
}

fn dry(args: &NodeForgetArgs) -> &'static str {
    if args.dry_run { " (server dry run)" } else { "" }
}

/// Tells by an Event what is given up, and takes the agent's finalizer off an object. Others' stay.
async fn release(
    context: &Context,
    args: &NodeForgetArgs,
    target: &Target,
    object: &Value,
) -> Result<(), CliError> {
    let uid = object["metadata"]["uid"].clone();
    tell(context, args, target, object).await?;
    let mut object = object.clone();
    for _ in 0..TRIES {
        if object["metadata"]["uid"] != uid || !is_held(&object) {
            break;
        }
        let url = target.url();
        let url = if args.dry_run { url.query("dryRun", "All") } else { url };
        match context.client.json(Method::PATCH, url.as_str(), Some(Content::merge(&without(&object)))).await
        {
            Ok(_) => return println(format!("{target} forgotten{}", dry(args))),
            Err(error) if error.is_not_found() => break,
            Err(error) if error.is_conflict() => match context.client.get(target.url().as_str()).await {
                Ok(now) => object = now,
                Err(error) if error.is_not_found() => break,
                Err(error) => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
    println(format!("{target} is gone"))
}

/// The change that takes the agent's finalizer off, of the object as it was read and no other.
fn without(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let all = metadata["finalizers"].as_array().into_iter().flatten();
    let others: Vec<_> = all.filter(|finalizer| *finalizer != FINALIZER).collect();
    json!({"metadata": {
        "uid": metadata["uid"],
        "resourceVersion": metadata["resourceVersion"],
        "finalizers": others,
    }})
}

async fn tell(
    context: &Context,
    args: &NodeForgetArgs,
    target: &Target,
    object: &Value,
) -> Result<(), CliError> {
    let now = now();
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let metadata = &object["metadata"];
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {
            "name": format!("{}.{:x}", target.name, now.as_nanosecond()),
            "namespace": target.namespace,
        },
        "involvedObject": {
            "apiVersion": API_VERSION, "kind": target.resource.kind,
            "namespace": target.namespace, "name": target.name,
            "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"],
        },
        "type": "Warning",
        "reason": "NodeForgotten",
        "message": format!("node {} is gone for good; this {}", args.name, given_up(object)),
        "count": 1, "firstTimestamp": time, "lastTimestamp": time,
        "source": {"component": "stower"}, "reportingComponent": "stower",
    });
    let url = Url::new(&["api", "v1", "namespaces", &target.namespace, "events"]);
    let url = if args.dry_run { url.query("dryRun", "All") } else { url };
    match context.client.json(Method::POST, url.as_str(), Some(Content::json(&event))).await {
        Ok(_) => Ok(()),
        // In a namespace that goes nothing new is taken; the object goes all the same.
        Err(ClientError::Status(status)) if status.code == 403 || status.code == 404 => {
            note(format!("{target}: no Event tells of it: {}", status.message));
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
