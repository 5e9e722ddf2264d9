//! What the chart's roles and admission policies let an agent and a tenant do, asked of a real API server.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stower_e2e::cluster::{AGENT_NAMESPACE, Cluster, helm::Helm};
use stower_e2e::{http, wait_for};

/// A cluster with the kinds, and what the chart has beside the DaemonSet.
fn cluster(values: &str) -> Result<Cluster> {
    let cluster = Cluster::builder().controllers().start()?;
    cluster.apply_kinds()?;
    cluster.namespace(AGENT_NAMESPACE, "privileged")?;
    for name in ["work", "other"] {
        cluster.namespace(name, "privileged")?;
    }
    let made = Helm::get()?.template(values)?;
    let kept: Vec<&str> = made
        .split("\n---\n")
        .filter(|document| !document.contains("kind: DaemonSet") && !document.contains("helm.sh/hook"))
        .collect();
    cluster.apply(&kept.join("\n---\n"), &[])?;
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

/// What each level asks, one violation each, with what the refusal has to say.
fn violations() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("baseline", json!({"hostNetwork": true}), "spec.hostNetwork must not be true"),
        ("baseline", json!({"hostPID": true}), "spec.hostPID must not be true"),
        ("baseline", json!({"hostIPC": true}), "spec.hostIPC must not be true"),
        (
            "baseline",
            json!({"securityContext": {"privileged": true}}),
            "spec.securityContext.privileged must not be true",
        ),
        (
            "baseline",
            json!({"securityContext": {"capabilities": {"add": ["CHOWN", "SYS_ADMIN"]}}}),
            "spec.securityContext.capabilities.add must not have SYS_ADMIN",
        ),
        (
            "baseline",
            json!({"volumes": [{"name": "root", "hostPath": {"path": "/"}}]}),
            "spec.volumes[root].hostPath must not be set",
        ),
        ("baseline", json!({"devices": [{"hostPath": "/dev/kmsg"}]}), "spec.devices must not be set"),
        (
            "baseline",
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            "spec.securityContext.seccompProfile.type must not be Unconfined",
        ),
        (
            "baseline",
            json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
            "spec.securityContext.appArmorProfile.type must not be Unconfined",
        ),
        (
            "baseline",
            json!({"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}),
            "spec.securityContext.seLinuxOptions.type must not be spc_t",
        ),
        (
            "baseline",
            json!({"securityContext": {"seLinuxOptions": {"user": "system_u"}}}),
            "spec.securityContext.seLinuxOptions.user must not be set",
        ),
        (
            "baseline",
            json!({"securityContext": {"procMount": "Unmasked"}}),
            "spec.securityContext.procMount must not be Unmasked",
        ),
        (
            "baseline",
            json!({"ports": [{"containerPort": 80, "hostPort": 80}]}),
            "spec.ports[].hostPort must not be set",
        ),
        (
            "baseline",
            json!({"livenessProbe": {"httpGet": {"port": 80, "host": "169.254.169.254"}}}),
            "spec.livenessProbe.httpGet.host must not be set",
        ),
        (
            "baseline",
            json!({"readinessProbe": {"tcpSocket": {"port": 80, "host": "10.0.0.1"}}}),
            "spec.readinessProbe.tcpSocket.host must not be set",
        ),
        (
            "baseline",
            json!({"lifecycle": {"preStop": {"httpGet": {"port": 80, "host": "10.0.0.1"}}}}),
            "spec.lifecycle.preStop.httpGet.host must not be set",
        ),
        (
            "restricted",
            json!({"securityContext": {"allowPrivilegeEscalation": true}}),
            "spec.securityContext.allowPrivilegeEscalation must be false",
        ),
        (
            "restricted",
            json!({"securityContext": {"runAsNonRoot": false}}),
            "spec.securityContext.runAsNonRoot must be true",
        ),
        (
            "restricted",
            json!({"securityContext": {"runAsUser": 0}}),
            "spec.securityContext.runAsUser must not be 0",
        ),
        (
            "restricted",
            json!({"securityContext": {"capabilities": {"drop": ["CHOWN"]}}}),
            "spec.securityContext.capabilities.drop must have ALL",
        ),
        (
            "restricted",
            json!({"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}}}),
            "spec.securityContext.capabilities.add must not have CHOWN",
        ),
    ]
}

/// A spec that the level `restricted` takes, with the fields of `more` over it.
fn modest(more: &Value) -> Value {
    let mut spec = json!({"securityContext": {
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 1000, "capabilities": {"drop": ["ALL"]},
    }});
    for (key, value) in more.as_object().into_iter().flatten() {
        if key == "securityContext" {
            for (key, value) in value.as_object().into_iter().flatten() {
                spec["securityContext"][key] = value.clone();
            }
        } else {
            spec[key] = value.clone();
        }
    }
    if more["securityContext"]["privileged"] == true {
        // The kind itself refuses the two together.
        spec["securityContext"].as_object_mut().map(|context| context.remove("allowPrivilegeEscalation"));
    }
    spec
}

#[test]
fn a_tenant_gets_no_more_of_the_node_than_the_namespaces_level_has() -> Result<()> {
    let cluster = cluster("")?;
    // Unlabelled is restricted.
    cluster.ok(["create", "namespace", "restricted"])?;
    cluster.namespace("baseline", "baseline")?;
    let mut tokens = Vec::new();
    for namespace in ["restricted", "baseline", "work"] {
        cluster.ok(["create", "serviceaccount", "tenant", "-n", namespace])?;
        let account = format!("--serviceaccount={namespace}:tenant");
        cluster.ok(["create", "rolebinding", "tenant", "-n", namespace, "--clusterrole=edit", &account])?;
        tokens.push(cluster.ok(["create", "token", "tenant", "-n", namespace])?.trim().to_owned());
    }
    let [restricted, baseline, privileged] = [0, 1, 2].map(|at| tokens[at].as_str());
    // The controller manager fills the aggregated role.
    wait_for("the role edit to have the kinds", || {
        Ok(create(&cluster, restricted, &container("restricted", "modest", &modest(&json!({}))))?.ok())
    })?;
    let host = modest(&json!({"hostPID": true}));
    let mut tried = 0;
    let said = wait_refused("hostPID", || {
        tried += 1;
        create(&cluster, restricted, &container("restricted", &format!("first-{tried}"), &host))
    })?;
    ensure!(said.contains("violates PodSecurity \"restricted\": spec.hostPID must not be true"), "{said}");

    let mut count = 0;
    let mut asked = |token: &str, namespace: &str, spec: &Value| {
        count += 1;
        create(&cluster, token, &container(namespace, &format!("x-{count}"), spec))
    };
    for (level, violation, message) in violations() {
        let (token, more) = if level == "baseline" { (baseline, violation) } else { (restricted, violation) };
        let spec = if level == "baseline" { more.clone() } else { modest(&more) };
        let said = asked(token, level, &spec)?.err().with_context(|| format!("{level} takes {spec}"))?;
        ensure!(said.contains(message) && said.contains(level), "{spec}: {said}");
        let said = asked(restricted, "restricted", &modest(&more))?.err();
        ensure!(said.is_some_and(|said| said.contains(message)), "restricted takes {more}");
        asked(privileged, "work", &modest(&more))?.map_err(|said| anyhow::anyhow!("{more}: {said}"))?;
    }
    let said = asked(restricted, "restricted", &json!({}))?
        .err()
        .context("restricted takes a spec that says nothing")?;
    ensure!(said.matches(" must ").count() == 3, "not all that is wrong is told: {said}");
    asked(baseline, "baseline", &json!({}))?.map_err(|said| anyhow::anyhow!("{said}"))?;

    // By each way to change it, and by server-side apply, which may make the object or change it.
    let modest_one = ("restricted", "modest");
    for body in [
        json!({"spec": {"hostPID": true}}),
        json!([{"op": "add", "path": "/spec/volumes", "value": [{"name": "root", "hostPath": {"path": "/"}}]}]),
    ] {
        let said = patch(&cluster, restricted, modest_one, &body)?.err().context("a change was taken")?;
        ensure!(said.contains("violates PodSecurity"), "{said}");
    }
    // Who has another one's false for it in the object has to say true.
    let bold = json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": true}});
    for (method, name) in [("PUT", "modest"), ("PATCH", "modest"), ("PATCH", "new"), ("POST", "new")] {
        let mut object = container("restricted", name, &bold);
        if method == "PUT" {
            let there = cluster.object("containers.stower.dev", "restricted", name)?.context("no object")?;
            object["metadata"] = there["metadata"].clone();
        }
        let said = write(&cluster, restricted, method, &object)?
            .err()
            .with_context(|| format!("{method} was taken"))?;
        ensure!(said.contains("spec.securityContext.privileged must not be true"), "{method}: {said}");
    }

    let volume = |namespace: &str| {
        json!({"apiVersion": "stower.dev/v1alpha1", "kind": "Volume", "metadata": {"namespace": namespace, "name": "root"},
               "spec": {"driver": "hostPath", "hostPath": {"path": "/"}}})
    };
    for (namespace, token) in [("baseline", baseline), ("restricted", restricted)] {
        let said =
            create(&cluster, token, &volume(namespace))?.err().context("a hostPath Volume was taken")?;
        ensure!(
            said.contains(&format!("violates PodSecurity \"{namespace}\": spec.driver must not be hostPath")),
            "{said}"
        );
    }
    create(&cluster, privileged, &volume("work"))?.map_err(|said| anyhow::anyhow!("{said}"))?;

    // A namespace that is tightened later leaves alone what is there, so that it can still be torn down.
    create(&cluster, privileged, &container("work", "early", &host))?
        .map_err(|said| anyhow::anyhow!("{said}"))?;
    cluster.ok([
        "label",
        "namespace",
        "work",
        "--overwrite",
        "pod-security.kubernetes.io/enforce=restricted",
    ])?;
    let change = |body: &Value| patch(&cluster, privileged, ("work", "early"), body);
    wait_refused("a change after the label was made tighter", || {
        change(&json!({"spec": {"image": "example.org/b:1"}}))
    })?;
    change(&json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["stower.dev/agent"]}}))?
        .map_err(|said| anyhow::anyhow!("{said}"))?;

    // It is the policies that refuse.
    for part in ["containers", "volumes"] {
        let binding = format!("stower.{AGENT_NAMESPACE}.pod-security-{part}");
        cluster.ok(["delete", "validatingadmissionpolicybinding", &binding])?;
    }
    wait_for("hostPID to be free without the policy", || {
        Ok(create(&cluster, restricted, &container("restricted", "free", &host))?.ok())
    })?;
    wait_for("a hostPath Volume to be free without the policy", || {
        Ok(create(&cluster, restricted, &volume("restricted"))?.ok())
    })
}

#[test]
fn who_may_view_sees_and_changes_nothing() -> Result<()> {
    let cluster = cluster("")?;
    cluster.ok(["create", "serviceaccount", "viewer", "-n", "work"])?;
    cluster.ok([
        "create",
        "rolebinding",
        "v",
        "-n",
        "work",
        "--clusterrole=view",
        "--serviceaccount=work:viewer",
    ])?;
    let token = cluster.ok(["create", "token", "viewer", "-n", "work"])?;
    let token = token.trim();
    wait_for("the role view to have the kinds", || {
        let words = [
            "--token",
            token,
            "get",
            "containers.stower.dev,volumes.stower.dev,datacontainers.stower.dev",
            "-n",
            "work",
        ];
        Ok((cluster.kubectl(words)?.code == 0).then_some(()))
    })?;
    let said = create(&cluster, token, &container("work", "x", &json!({})))?
        .err()
        .context("a viewer made an object")?;
    ensure!(said.contains("orbidden"), "{said}");
    ensure!(cluster.kubectl(["--token", token, "get", "containers.stower.dev", "-n", "other"])?.code != 0);
    Ok(())
}
