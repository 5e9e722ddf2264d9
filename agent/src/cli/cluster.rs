//! `stower cluster`: what a release's hooks ask of the API server.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Preconditions},
    core::GroupVersionKind,
};

use super::{
    age::duration,
    context::{Context, now, println},
    error::CliError,
};
use crate::args::{ClusterArgs, ClusterCheckArgs, ClusterCommand, ClusterPurgeArgs};

/// Containers first, so that what they use is free when its turn comes.
const KINDS: [&str; 3] = ["Container", "DataContainer", "Volume"];
/// How many objects are asked for at once.
const PAGE: u32 = 500;
/// How long to wait before looking again.
const PAUSE: Duration = Duration::from_secs(1);
/// How many objects a message names.
const NAMED: usize = 10;

pub(super) async fn run(context: &Context, args: ClusterArgs) -> Result<(), CliError> {
    match args.command {
        ClusterCommand::Purge(args) => purge(context, &args).await,
        ClusterCommand::Check(args) => check(context, &args).await,
    }
}

/// That of the cluster which was named, or is meant.
fn client(context: &Context) -> Result<Client, CliError> {
    context.client.of_kube().cloned().ok_or_else(|| {
        CliError::Message("this is asked of a cluster, not of an agent: leave --socket out".to_owned())
    })
}

fn api(client: &Client, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(crate::api::GROUP, crate::api::VERSION, kind);
    Api::all_with(client.clone(), &ApiResource::from_gvk(&kind))
}

fn timeout(text: &str) -> Result<Duration, CliError> {
    duration(text).map_err(|error| CliError::Message(format!("--timeout: {error}")))
}

/// An object that is still there.
struct Left {
    name: String,
    node: Option<String>,
    metadata: ObjectMeta,
}

async fn left(client: &Client, kind: &str) -> Result<Vec<Left>, CliError> {
    let api = api(client, kind);
    let mut params = ListParams::default().limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = match api.list(&params).await {
            Ok(page) => page,
            // Without the definition there are no objects.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(all),
            Err(error) => return Err(CliError::Message(format!("cannot list every {kind}: {error}"))),
        };
        all.extend(page.items.into_iter().map(|object| Left {
            name: format!(
                "{kind} {}/{}",
                object.metadata.namespace.as_deref().unwrap_or_default(),
                object.metadata.name.as_deref().unwrap_or_default()
            ),
            node: object.data["spec"]["nodeName"].as_str().map(str::to_owned),
            metadata: object.metadata,
        }));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}

async fn purge(context: &Context, args: &ClusterPurgeArgs) -> Result<(), CliError> {
    let timeout = timeout(&args.timeout)?;
    let client = client(context)?;
    let begin = Instant::now();
    let mut deleted = 0_usize;
    loop {
        let mut waiting = Vec::new();
        for kind in KINDS {
            for object in left(&client, kind).await? {
                if object.metadata.deletion_timestamp.is_none() {
                    delete(&client, kind, &object).await?;
                    deleted += 1;
                }
                waiting.push(object);
            }
        }
        if waiting.is_empty() {
            return println(format!("{deleted} objects deleted, and torn down by their agents"));
        }
        if begin.elapsed() >= timeout {
            return Err(CliError::Message(unfinished(&waiting)));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn delete(client: &Client, kind: &str, object: &Left) -> Result<(), CliError> {
    let api: Api<DynamicObject> = {
        let kind = GroupVersionKind::gvk(crate::api::GROUP, crate::api::VERSION, kind);
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(&kind))
    };
    let uid = object.metadata.uid.clone();
    let params = DeleteParams::default().preconditions(Preconditions { uid, resource_version: None });
    match api.delete(object.metadata.name.as_deref().unwrap_or_default(), &params).await {
        Ok(_) => Ok(()),
        // Gone, or another one by now, which the next look finds.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(CliError::Message(format!("cannot delete {}: {error}", object.name))),
    }
}

fn unfinished(waiting: &[Left]) -> String {
    let names: Vec<&str> = waiting.iter().take(NAMED).map(|object| object.name.as_str()).collect();
    let more = waiting.len().saturating_sub(NAMED);
    let nodes: BTreeSet<&str> = waiting.iter().filter_map(|object| object.node.as_deref()).collect();
    let nodes: Vec<&str> = nodes.into_iter().take(NAMED).collect();
    format!(
        "{} objects are not torn down yet: {}{}. Are the agents of these nodes well: {}? For a node that is gone for good there is `stower node forget NODE`",
        waiting.len(),
        names.join(", "),
        if more > 0 { format!(" and {more} more") } else { String::new() },
        nodes.join(", "),
    )
}

async fn check(context: &Context, args: &ClusterCheckArgs) -> Result<(), CliError> {
    let timeout = timeout(&args.timeout)?;
    let client = client(context)?;
    let namespace = context.namespace();
    let begin = Instant::now();
    loop {
        let unwell = match look(&client, namespace, &args.selector).await? {
            Ok(agents) => {
                return println(format!("the kinds are served, and {agents} agents renew their Leases"));
            }
            Err(unwell) => unwell,
        };
        if begin.elapsed() >= timeout {
            return Err(CliError::Message(unwell));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// How many agents are well, or what is wrong.
async fn look(client: &Client, namespace: &str, selector: &str) -> Result<Result<usize, String>, CliError> {
    for kind in KINDS {
        let kind = GroupVersionKind::gvk(crate::api::GROUP, crate::api::VERSION, kind);
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        if let Err(error) = api.list(&ListParams::default().limit(1)).await {
            return Ok(Err(format!(
                "{} are not served: {error}; install the chart stower-crds",
                resource.plural
            )));
        }
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods
        .list(&ListParams::default().labels(selector))
        .await
        .map_err(|error| CliError::Message(format!("cannot list the agents' pods: {error}")))?;
    let nodes: BTreeMap<String, String> =
        pods.items.into_iter().filter_map(|pod| Some((pod.spec?.node_name?, pod.metadata.name?))).collect();
    if nodes.is_empty() {
        return Ok(Err(format!("no pod in {namespace} has the labels {selector}")));
    }
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    for (node, pod) in &nodes {
        let lease = leases
            .get_opt(node)
            .await
            .map_err(|error| CliError::Message(format!("cannot get the Lease {node}: {error}")))?;
        let Some(spec) = lease.and_then(|lease| lease.spec) else {
            return Ok(Err(format!(
                "the agent of node {node} has no Lease: see `kubectl logs -n {namespace} {pod}`"
            )));
        };
        let seconds = i64::from(spec.lease_duration_seconds.unwrap_or(0));
        let renewed = spec.renew_time.map_or(0, |time| time.0.as_second());
        if renewed + seconds < now().as_second() {
            return Ok(Err(format!(
                "the agent of node {node} does not renew its Lease: see `kubectl logs -n {namespace} {pod}`"
            )));
        }
    }
    Ok(Ok(nodes.len()))
}
