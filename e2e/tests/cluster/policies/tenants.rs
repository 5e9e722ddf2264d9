//! Tenants: who may make objects in a namespace must not thereby become root on a node.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stower_e2e::{cluster::AGENT_NAMESPACE, wait_for};

use super::{cluster, container, create, patch, wait_refused, write};

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
