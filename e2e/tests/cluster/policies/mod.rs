//! What the chart's roles and admission policies let an agent and a tenant do, asked of a real API server.

mod tenants;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stower_e2e::cluster::{AGENT_NAMESPACE, Cluster, Mark, Request, counted};
use stower_e2e::{http, process, wait_for};

use crate::support::{self, Agent};

/// A cluster with the kinds, and what the chart has beside the DaemonSet.
fn cluster(values: &str) -> Result<Cluster> {
    let cluster = Cluster::builder().controllers().start()?;
    cluster.apply_kinds()?;
    for name in ["work", "other"] {
        cluster.namespace(name, "privileged")?;
    }
    cluster.apply_chart(values)?;
    Ok(cluster)
}

fn container(namespace: &str, name: &str, spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "stower.dev/v1alpha1", "kind": "Container",
        "metadata": {"namespace": namespace, "name": name}, "spec": {"image": "example.org/a:1"},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object
}

/// That a request was done, or what the server says when it refuses.
fn done(answer: &http::Response) -> Result<Result<(), String>> {
    if matches!(answer.status, 200 | 201) {
        return Ok(Ok(()));
    }
    let told: Value = serde_json::from_slice(&answer.body).with_context(|| answer.text())?;
    Ok(Err(told["message"].as_str().with_context(|| answer.text())?.to_owned()))
}

/// A change that the holder of a token makes, of a Container or, where it is of the `status`, of that; what the server says when it refuses.
fn patch(
    cluster: &Cluster,
    token: &str,
    (namespace, name): (&str, &str),
    patch: &Value,
) -> Result<Result<(), String>> {
    let part = if patch["status"].is_null() { "" } else { "/status" };
    let type_ = if patch.is_array() { "application/json-patch+json" } else { "application/merge-patch+json" };
    let path = format!("/apis/stower.dev/v1alpha1/namespaces/{namespace}/containers/{name}{part}");
    done(&cluster.request_as(
        token,
        "PATCH",
        &path,
        &[("Content-Type", type_)],
        patch.to_string().as_bytes(),
    )?)
}

/// Makes an object as the holder of a token, or by server-side apply has it be so, made or changed; what the server says when it refuses.
fn write(cluster: &Cluster, token: &str, method: &str, object: &Value) -> Result<Result<(), String>> {
    let text = |value: &Value| {
        value.as_str().map(str::to_owned).context("an object without a word that it must have")
    };
    let (version, kind) = (text(&object["apiVersion"])?, text(&object["kind"])?.to_lowercase());
    let (namespace, name) = (text(&object["metadata"]["namespace"])?, text(&object["metadata"]["name"])?);
    let root = if version.contains('/') { "apis" } else { "api" };
    let collection = format!("/{root}/{version}/namespaces/{namespace}/{kind}s");
    let (path, type_) = match method {
        "POST" => (collection, "application/json"),
        "PUT" => (format!("{collection}/{name}"), "application/json"),
        _ => (format!("{collection}/{name}?fieldManager=tenant&force=true"), "application/apply-patch+yaml"),
    };
    let body = object.to_string();
    done(&cluster.request_as(token, method, &path, &[("Content-Type", type_)], body.as_bytes())?)
}

fn create(cluster: &Cluster, token: &str, object: &Value) -> Result<Result<(), String>> {
    write(cluster, token, "POST", object)
}

/// Waits until a new policy is one that the API server goes by.
fn wait_refused(what: &str, mut ask: impl FnMut() -> Result<Result<(), String>>) -> Result<String> {
    wait_for(format!("{what} to be refused"), || Ok(ask()?.err()))
}

fn lease(name: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
           "metadata": {"namespace": AGENT_NAMESPACE, "name": name}, "spec": {"holderIdentity": "x", "leaseDurationSeconds": 45}})
}

fn event(name: &str, host: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Event", "metadata": {"namespace": "work", "name": name},
           "involvedObject": {"kind": "Container", "namespace": "work", "name": "a"}, "reason": "Started",
           "message": "x", "type": "Normal", "source": {"component": "stower", "host": host}})
}

#[test]
fn an_agents_token_changes_only_what_is_of_its_node() -> Result<()> {
    let cluster = cluster("readNamespaces: [work]")?;
    for node in ["a", "b"] {
        cluster.apply(
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}).to_string(),
            &[],
        )?;
        let mut object = container("work", node, &json!({"nodeName": node}));
        object["metadata"]["finalizers"] = json!(["example.org/other"]);
        cluster.apply(&object.to_string(), &[])?;
    }
    cluster.apply(&container("work", "nowhere", &json!({})).to_string(), &[])?;
    let token = cluster.node_token(AGENT_NAMESPACE, "stower", "a")?;
    let status = json!({"status": {"phase": "Running"}});
    let finalizers = json!({"metadata": {"finalizers": ["example.org/other", "stower.dev/agent"]}});
    let said = wait_refused("another node's status", || patch(&cluster, &token, ("work", "b"), &status))?;
    ensure!(said.contains("the agent of node a cannot change an object whose spec.nodeName is b"), "{said}");

    let refused = |what: &str, asked: Result<(), String>, why: &str| -> Result<()> {
        match asked {
            Ok(()) => anyhow::bail!("{what} was accepted"),
            Err(said) => ensure!(said.contains(why), "{what}: {said}"),
        }
        Ok(())
    };
    let change = |name: &str, body: &Value| patch(&cluster, &token, ("work", name), body);
    let allowed =
        |what: &str, asked: Result<(), String>| asked.map_err(|said| anyhow::anyhow!("{what}: {said}"));
    allowed("the status of its own", change("a", &status)?)?;
    allowed("the finalizer of its own", change("a", &finalizers)?)?;
    refused("the finalizer of another node's", change("b", &finalizers)?, "spec.nodeName is b")?;
    refused("the status of nobody's", change("nowhere", &status)?, "spec.nodeName is not set")?;
    refused(
        "the spec of its own",
        change("a", &json!({"spec": {"image": "example.org/b:1"}}))?,
        "does not change the spec",
    )?;
    refused(
        "taking an object over",
        change("nowhere", &json!({"spec": {"nodeName": "a"}}))?,
        "spec.nodeName is not set",
    )?;
    refused(
        "a finalizer of others",
        change("a", &json!({"metadata": {"finalizers": ["stower.dev/agent"]}}))?,
        "no finalizer but stower.dev/agent",
    )?;
    refused(
        "making an object",
        create(&cluster, &token, &container("work", "new", &json!({"nodeName": "a"})))?,
        "forbidden",
    )?;
    let words = ["--token", &token, "delete", "containers.stower.dev", "-n", "work", "a"];
    ensure!(cluster.refused(words)?.contains("Forbidden"));

    allowed("its own Lease", create(&cluster, &token, &lease("a"))?)?;
    refused("another node's Lease", create(&cluster, &token, &lease("b"))?, "another Lease than a")?;
    allowed("an Event of its own", create(&cluster, &token, &event("one", "a"))?)?;
    refused("an Event of another node", create(&cluster, &token, &event("two", "b"))?, "source.host")?;

    // The same account without a node: any pod that got hold of it.
    let bare = cluster.ok(["create", "token", "stower", "-n", AGENT_NAMESPACE])?;
    for (what, asked) in [
        ("a status", patch(&cluster, bare.trim(), ("work", "a"), &status)?),
        ("a Lease", create(&cluster, bare.trim(), &lease("c"))?),
        ("an Event", create(&cluster, bare.trim(), &event("three", "a"))?),
    ] {
        refused(what, asked, "must name its node")?;
    }

    // Secrets where the values say, and nowhere else.
    for namespace in ["work", "other"] {
        cluster.ok(["create", "secret", "generic", "s", "-n", namespace, "--from-literal=key=value"])?;
    }
    cluster.ok(["--token", &token, "get", "secret", "s", "-n", "work"])?;
    for words in [
        vec!["get", "secret", "s", "-n", "other"],
        vec!["get", "secrets", "-A"],
        vec!["get", "configmaps", "-n", AGENT_NAMESPACE],
    ] {
        let said = cluster.refused(["--token", &token].into_iter().chain(words))?;
        ensure!(said.contains("Forbidden") || said.contains("forbidden"), "{said}");
    }

    // It is the policies that refuse.
    for part in ["objects", "lease", "events"] {
        let binding = format!("stower.{AGENT_NAMESPACE}.node-{part}");
        cluster.ok(["delete", "validatingadmissionpolicybinding", &binding])?;
    }
    wait_for("another node's status to be free without the policy", || {
        Ok(patch(&cluster, &token, ("work", "b"), &json!({"status": {"phase": "Failed"}}))?.ok())
    })?;
    wait_for("another node's Lease to be free without the policy", || {
        Ok(create(&cluster, &token, &lease("b"))?.ok())
    })?;
    wait_for("an Event of another node to be free without the policy", || {
        Ok(create(&cluster, &token, &event("two", "b"))?.ok())
    })
}

/// All that an agent asks in the life of an object is allowed by the chart, and it asks nothing that is not.
#[test]
fn an_agent_has_the_rights_for_all_that_it_does() -> Result<()> {
    let cluster = cluster("readNamespaces: [default]")?;
    cluster.namespace("default", "privileged")?;
    let agent = Agent::start(&cluster, "node-a")?;
    let mark = cluster.mark()?;
    cluster.ok(["create", "configmap", "settings", "--from-literal=a=one"])?;
    cluster.ok(["create", "secret", "generic", "words", "--from-literal=word=open"])?;
    let names = |kind: &str, name: &str, spec: Value| {
        json!({"apiVersion": "stower.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
            .to_string()
    };
    cluster.apply(&names("Volume", "room", json!({"nodeName": "node-a"})), &[])?;
    let data = json!({"nodeName": "node-a", "volumes": [{"mountPath": "/data"}]});
    cluster.apply(&names("DataContainer", "data", data), &[])?;
    let spec = json!({
        "env": [
            {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "words", "key": "word"}}},
            {"name": "MAP", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "a"}}},
        ],
        "volumes": [{"name": "room", "volume": {"name": "room"}}],
        "volumeMounts": [{"name": "room", "mountPath": "/room"}],
        "volumesFrom": [{"name": "data"}],
        "hostPID": true,
    });
    cluster.apply(&support::container("web", "node-a", &["stay"], &spec), &[])?;
    cluster.ok(["wait", "--for=condition=Ready", "--timeout=120s", "sctr/web"])?;
    let told = wait_for("an Event of its start", || {
        let told = cluster.ok(["events", "--for", "containers.stower.dev/web"])?;
        Ok(told.contains("Started").then_some(told))
    })?;
    ensure!(told.contains("Container/web"), "{told}");
    // It starts once more: an Event that is counted.
    let first = agent.node.wait_running("web")?;
    process::kill9(first)?;
    agent.node.wait_restarted("web", first)?;
    for (kind, name) in [("sctr", "web"), ("sdc", "data"), ("svol", "room")] {
        let held = |object: &Value| object["metadata"]["finalizers"] == json!(["stower.dev/agent"]);
        support::wait_object(&cluster, kind, name, "held by its agent", held)?;
    }
    for (kind, name) in [("sctr", "web"), ("sdc", "data"), ("svol", "room")] {
        cluster.ok(["delete", kind, name, "--timeout=60s"])?;
        support::wait_gone(&cluster, kind, name)?;
    }
    let lease = cluster.object("lease", AGENT_NAMESPACE, "node-a")?.context("no Lease")?;
    ensure!(lease["spec"]["holderIdentity"].as_str().is_some_and(|it| !it.is_empty()), "{lease:#}");

    let account = format!("system:serviceaccount:{AGENT_NAMESPACE}:stower");
    let asked = |since| -> Result<Vec<_>> {
        Ok(cluster.requests_since(since)?.into_iter().filter(|it| it.user == account).collect())
    };
    // It is renewed, too.
    wait_for("the Lease to be renewed", || {
        Ok(asked(mark)?
            .iter()
            .any(|it| it.verb == "update" && it.uri.contains("/leases/node-a"))
            .then_some(()))
    })?;
    let requests = asked(Mark::default())?;
    let nameless = requests.iter().find(|it| !it.agent.starts_with("stower-agent/"));
    ensure!(nameless.is_none(), "it does not say who it is: {nameless:?}");
    // Who may watch one Secret may list all of a namespace, so that is what the chart does not give; then it is read.
    let refused: Vec<_> = requests.iter().filter(|it| it.code == 403).collect();
    let expected =
        |it: &Request| it.verb == "watch" && it.uri.starts_with("/api/v1/namespaces/default/secrets?");
    ensure!(!refused.is_empty() && refused.iter().all(|it| expected(it)), "refused: {refused:#?}");
    let counts = counted(&requests);
    println!("an agent from its start to the end of its object: {counts:?}");
    for what in [
        "list containers",
        "watch containers",
        "patch containers",
        "patch containers/status",
        "list volumes",
        "watch volumes",
        "patch volumes",
        "patch volumes/status",
        "list datacontainers",
        "watch datacontainers",
        "patch datacontainers",
        "patch datacontainers/status",
        "get namespaces",
        "get configmaps",
        "watch configmaps",
        "get secrets",
        "create events",
        "patch events",
        "get leases",
        "create leases",
        "update leases",
    ] {
        ensure!(counts.contains_key(what), "it never asked to {what}: {counts:#?}");
    }
    agent.node.wait_gone("web")
}
