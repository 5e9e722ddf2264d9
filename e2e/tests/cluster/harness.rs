//! The ground the other tests stand on: a control plane that can be broken and that tells what it was asked.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stower_e2e::cluster::{self, AGENT_NAMESPACE, programs};
use stower_e2e::{Cluster, NetworkNamespace, process, wait_for};

#[test]
fn what_was_stored_outlives_the_api_server_and_its_certificates() -> Result<()> {
    let cluster = Cluster::start()?;
    let store = |name: &str| cluster.ok(["create", "configmap", name, "--from-literal=a=b"]);
    let stored = || cluster.ok(["get", "configmaps", "-o", "name"]);
    store("first")?;
    cluster.kill_api();
    cluster.refused(["get", "configmaps"])?;
    cluster.start_api()?;
    store("second")?;
    let before = std::fs::read(cluster.authority())?;
    cluster.renew_certificates()?;
    ensure!(std::fs::read(cluster.authority())? != before, "the certificates are the same");
    let names = stored()?;
    ensure!(names.contains("configmap/first") && names.contains("configmap/second"), "left: {names}");
    Ok(())
}

#[test]
fn a_watch_from_a_compacted_version_is_gone() -> Result<()> {
    let cluster = Cluster::start()?;
    let version = |name: &str| -> Result<String> {
        let object = cluster.ok(["create", "configmap", name, "-o", "json"])?;
        let object: Value = serde_json::from_str(&object)?;
        Ok(object["metadata"]["resourceVersion"].as_str().context("no version")?.to_owned())
    };
    let old = version("first")?;
    version("second")?;
    version("third")?;
    let revision = cluster.compact()?;
    ensure!(revision > old.parse()?, "{revision} is not after {old}");
    cluster.stop_api()?;
    cluster.start_api()?;
    let path = format!("/api/v1/configmaps?watch=true&timeoutSeconds=1&resourceVersion={old}");
    let answer = cluster.request("GET", &path, &[], &[])?;
    ensure!(answer.text().contains("\"code\":410"), "{}: {}", answer.status, answer.text());
    Ok(())
}

#[test]
fn requests_are_counted_by_who_asked() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.ok(["get", "configmaps"])?;
    let node = cluster.agent_kubeconfig("node-a")?;
    let mark = cluster.mark()?;
    cluster.ok(["get", "--raw", "/api/v1/namespaces/default/configmaps"])?;
    let words = ["get", "--raw", "/api/v1/namespaces/default"];
    process::run_command(cluster.kubectl_command(words).env("KUBECONFIG", &node))?;
    let requests = cluster.requests_since(mark)?;
    let of = |user: &str, verb: &str| {
        requests
            .iter()
            // Some kubectls ask for the version first.
            .filter(|it| it.user == user && it.verb == verb && it.uri.starts_with("/api/"))
            .filter(|it| it.agent.contains("kubectl"))
            .count()
    };
    ensure!(of("admin", "list") == 1, "{requests:#?}");
    ensure!(of("system:serviceaccount:stower-system:stower", "get") == 1, "{requests:#?}");
    let counted = cluster::counted(&requests);
    ensure!(counted.get("list configmaps") == Some(&1), "{counted:?}");
    Ok(())
}

#[test]
fn a_token_names_the_node_that_it_is_bound_to() -> Result<()> {
    let cluster = Cluster::start()?;
    cluster.agent_kubeconfig("node-a")?;
    let token = cluster.node_token(AGENT_NAMESPACE, "stower", "node-a")?;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let headers = [("Content-Type", "application/json")];
    let answer = cluster.request_as(&token, "POST", path, &headers, review.as_bytes())?;
    let told: Value = serde_json::from_slice(&answer.body)?;
    let node = &told["status"]["userInfo"]["extra"]["authentication.kubernetes.io/node-name"];
    ensure!(*node == json!(["node-a"]), "{told:#}");
    Ok(())
}

#[test]
fn controllers_and_the_scheduler_do_their_work() -> Result<()> {
    let cluster = Cluster::builder().controllers().scheduler().start()?;
    cluster.namespace("work", "restricted")?;
    wait_for("the service account of a namespace", || {
        Ok(cluster.object("serviceaccount", "work", "default")?.map(drop))
    })?;
    cluster.ok(["delete", "namespace", "work", "--timeout=60s"])?;
    ensure!(cluster.object("namespace", "", "work")?.is_none(), "the namespace is still there");
    Ok(())
}

#[test]
fn a_network_of_its_own_reaches_the_api_server_alone() -> Result<()> {
    let cluster = Cluster::start()?;
    let (_, port) = cluster.address.rsplit_once(':').context("an address without a port")?;
    let network = NetworkNamespace::with_ports(&[port.parse()?])?;
    let kubectl = cluster.kubectl_command(["version"]).get_program().to_owned();
    let kubectl = kubectl.to_str().context("an odd path")?;
    let within = |words: &[&str]| {
        let [program, word] = network.enter();
        let mut command = Command::new(program);
        command.arg(word).args(words).env("KUBECONFIG", &cluster.kubeconfig);
        process::run_command(&mut command)
    };
    let addresses = within(&["ip", "-brief", "address"])?;
    ensure!(addresses.lines().count() == 1, "more than loopback: {addresses}");
    ensure!(within(&[kubectl, "get", "--raw", "/readyz"])? == "ok");
    cluster.kill_api();
    ensure!(within(&[kubectl, "get", "--raw", "/readyz"]).is_err(), "nobody is there, and it answers");
    Ok(())
}

/// The version that a `go.mod` pins a module to.
fn pinned(go_mod: &str, module: &str) -> Result<String> {
    let line = go_mod.lines().map(str::trim).find(|line| line.starts_with(&format!("{module} v")));
    let word =
        line.and_then(|line| line.split(' ').nth(1)).with_context(|| format!("{module} is not pinned"))?;
    Ok(word.to_owned())
}

#[test]
fn every_program_is_of_the_version_that_is_pinned() -> Result<()> {
    let go_mod = include_str!("../../cluster/go.mod");
    let (etcd, kubernetes) =
        (pinned(go_mod, "go.etcd.io/etcd/server/v3")?, pinned(go_mod, "k8s.io/kubernetes")?);
    let folder = programs::kubernetes()?;
    let said = process::run(folder.join("etcd"), ["--version"])?;
    ensure!(said.contains(etcd.trim_start_matches('v')), "etcd says {said}");
    for name in ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"] {
        let said = process::run(folder.join(name), ["--version"])?;
        ensure!(said.contains(&kubernetes), "{name} says {said}");
    }
    let said = process::run(folder.join("kubectl"), ["version", "--client"])?;
    ensure!(said.contains(&kubernetes), "kubectl says {said}");
    let helm = pinned(include_str!("../../cluster/helm/go.mod"), "helm.sh/helm/v4")?;
    let said = process::run(programs::helm()?, ["version", "--short"])?;
    ensure!(
        helm.starts_with(said.trim().split('+').next().unwrap_or("?")),
        "helm says {said}, pinned is {helm}"
    );
    Ok(())
}
