//! The DaemonSet under a real kubelet and containerd: what befalls the agent's pod befalls no container.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stower_e2e::cluster::helm::{Helm, chart};
use stower_e2e::cluster::node::KubeNode;
use stower_e2e::cluster::{AGENT_NAMESPACE, Cluster};
use stower_e2e::{Catalog, agent_image, catalog, node, release, teardown, wait_for, wait_long_for};

/// How long a pod may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
const IMAGE: &str = "stower.test/stower";
const OWN: &str = env!("CARGO_PKG_VERSION");

/// Tells how long each step took.
struct Steps(Instant);

impl Steps {
    fn done(&mut self, what: &str) {
        eprintln!("{:>6.1} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

/// A cluster with one node, on which two releases of the agent's image are.
struct Ground {
    helm: Helm,
    node: KubeNode,
    cluster: Cluster,
    registry: String,
}

impl Ground {
    fn make(steps: &mut Steps) -> Result<Self> {
        let registry = Catalog::get()?.registry.address.clone();
        let cluster = Cluster::builder().controllers().scheduler().start()?;
        steps.done("a cluster");
        let node = KubeNode::start(&cluster, "node-a")?;
        node.forward(&registry, &registry)?;
        steps.done("a node that is ready");
        let binary = node::binary()?;
        import(&node, &binary, OWN)?;
        let other = release::other(&binary, node.folder(), OWN, &next())?;
        import(&node, &other, &next())?;
        steps.done("two images of the agent");
        let helm = Helm::of(&cluster)?;
        helm.ok([
            "install".as_ref(),
            "stower-crds".as_ref(),
            chart("stower-crds").as_os_str(),
            "--wait".as_ref(),
        ])?;
        steps.done("helm install stower-crds");
        Ok(Self { helm, node, cluster, registry })
    }

    /// `helm install` or `upgrade`, until the agents are ready.
    fn helm(&self, verb: &str, tag: &str, more: &str) -> Result<String> {
        let values = format!(
            "image: {{repository: {IMAGE}, pullPolicy: Never, tag: '{tag}'}}\nagent:\n  manifests: /var/lib/manifests\n  config:\n    insecureRegistries: ['{}']\n    images: {{gc: {{enabled: false}}}}\n    storage: {{minFree: {{}}, minFreeInodes: {{}}}}\n{more}",
            self.registry
        );
        let file = self.helm.values(&values)?;
        let chart = chart("stower");
        let mut words =
            vec![verb.as_ref(), "stower".as_ref(), chart.as_os_str(), "--values".as_ref(), file.as_os_str()];
        let more = ["--namespace", AGENT_NAMESPACE, "--create-namespace", "--wait", "--timeout", "5m"];
        words.extend(more.map(std::ffi::OsStr::new));
        self.helm.ok(words).with_context(|| self.tell())
    }

    /// What went on, for a failure's message.
    fn tell(&self) -> String {
        let pods = self.cluster.ok(["get", "pods,events", "-A", "-o", "wide"]).unwrap_or_default();
        format!("{pods}\n{}\n{}", self.node.pod_logs("agent"), self.node.log_tail())
    }

    fn stower(&self, args: &[&str]) -> Result<String> {
        let binary = node::binary()?;
        self.node.run(binary.to_str().context("no path")?, args)
    }

    /// The container's process, by the node's own numbers, once it runs.
    fn pid(&self, namespace: &str, name: &str) -> Result<u64> {
        wait_long_for(format!("{namespace}/{name} to run"), PATIENCE, || {
            let Ok(text) = self.stower(&["get", "containers", "-n", namespace, name, "-o", "json"]) else {
                return Ok(None);
            };
            let object: Value = serde_json::from_str(&text)?;
            Ok(object["status"]["state"]["running"]["pid"].as_u64())
        })
        .with_context(|| self.tell())
    }

    /// Waits until the DaemonSet's pod is another one than `before`, and ready; gives its name.
    fn pod(&self, before: Option<&str>) -> Result<String> {
        let words =
            ["get", "pods", "-n", AGENT_NAMESPACE, "-l", "app.kubernetes.io/component=agent", "-o", "json"];
        wait_long_for("the agent's pod to be ready", PATIENCE, || {
            let pods: Value = serde_json::from_str(&self.cluster.ok(words)?)?;
            let [pod] = pods["items"].as_array().map_or(&[][..], Vec::as_slice) else { return Ok(None) };
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            Ok((ready(pod) && Some(name.as_str()) != before).then_some(name))
        })
        .with_context(|| self.tell())
    }

    /// Waits until no agent runs, nor a command in its pod.
    fn without_agent(&self) -> Result<()> {
        wait_for("the agent to be gone", || {
            let processes = self.node.processes()?;
            Ok((!processes.iter().any(|(_, line)| line.contains("host-run"))).then_some(()))
        })
    }

    fn alive(&self, pid: u64) -> bool {
        fs::read_to_string(self.node.path(&format!("/proc/{pid}/cmdline")))
            .is_ok_and(|line| line.contains("payload"))
    }
}

/// Whether a pod's condition `Ready` is true.
fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// A version of as many characters as the present one.
fn next() -> String {
    let mut version = OWN.to_owned();
    let last = version.pop().unwrap_or('0');
    version.push(if last == '9' { '8' } else { '9' });
    version
}

fn import(node: &KubeNode, binary: &Path, tag: &str) -> Result<()> {
    let layout: PathBuf = node.folder().join(format!("image-{tag}"));
    let image = agent_image::write(binary, tag, &format!("{IMAGE}:{tag}"), &layout)?;
    let archive = node.folder().join(format!("image-{tag}.tar"));
    image.write_oci_archive(&archive)?;
    node.import(&archive)
}

/// One container, and the data container that it uses.
fn manifest(reference: &str) -> String {
    format!(
        "apiVersion: stower.dev/v1alpha1\nkind: DataContainer\nmetadata: {{namespace: work, name: data}}\n\
         spec:\n  nodeName: node-a\n  reclaimPolicy: Delete\n  volumes: [{{mountPath: /data}}]\n---\n\
         apiVersion: stower.dev/v1alpha1\nkind: Container\nmetadata: {{namespace: work, name: stays}}\n\
         spec:\n  nodeName: node-a\n  image: {reference}\n  command: [/payload, stay]\n  hostNetwork: true\n  terminationGracePeriodSeconds: 1\n  volumesFrom: [{{name: data}}]\n",
    )
}

/// All that befalls the agent's pod, and the agent's absence; the process of the container is `pid` all the while.
fn through_everything(ground: &Ground, pid: u64, first: &str, steps: &mut Steps) -> Result<()> {
    let (cluster, helm, node) = (&ground.cluster, &ground.helm, &ground.node);
    let mut same = |after: &str| -> Result<()> {
        ensure!(ground.alive(pid), "the container's process {pid} is gone after {after}: {}", ground.tell());
        ensure!(ground.pid("work", "stays")? == pid, "the container has another process after {after}");
        let object =
            cluster.object("containers.stower.dev", "work", "stays")?.context("the object is gone")?;
        ensure!(object["status"]["restartCount"].as_u64().unwrap_or(0) == 0, "after {after}: {object}");
        steps.done(after);
        Ok(())
    };
    cluster.ok(["rollout", "restart", "daemonset/stower", "-n", AGENT_NAMESPACE])?;
    cluster.ok(["rollout", "status", "daemonset/stower", "-n", AGENT_NAMESPACE, "--timeout=5m"])?;
    let second = ground.pod(Some(first))?;
    same("kubectl rollout restart")?;

    ground.helm("upgrade", &next(), "")?;
    let third = ground.pod(Some(&second))?;
    ensure!(ground.stower(&["version"])?.contains(&next()), "the agent is not the other release");
    same("helm upgrade to another version")?;

    helm.ok(["rollback", "stower", "--namespace", AGENT_NAMESPACE, "--wait", "--timeout", "5m"])
        .with_context(|| ground.tell())?;
    let fourth = ground.pod(Some(&third))?;
    same("helm rollback")?;

    cluster.ok(["delete", "pod", "-n", AGENT_NAMESPACE, &fourth])?;
    let fifth = ground.pod(Some(&fourth))?;
    same("the deletion of the pod")?;

    cluster.ok(["delete", "pod", "-n", AGENT_NAMESPACE, &fifth, "--force", "--grace-period=0"])?;
    let sixth = ground.pod(Some(&fifth))?;
    same("the forced deletion of the pod")?;

    node.restart_kubelet()?;
    // What the API server says may still be the former kubelet's word.
    wait_for("kubelet to look after the agent's pod again", || {
        let pods = node.kubelet_pods()?;
        let pod = pods["items"]
            .as_array()
            .and_then(|pods| pods.iter().find(|pod| pod["metadata"]["name"] == *sixth));
        Ok(pod.is_some_and(ready).then_some(()))
    })
    .with_context(|| ground.tell())?;
    ensure!(ground.pod(None)? == sixth, "kubelet made another pod");
    same("a restart of kubelet")?;

    helm.ok(["uninstall", "stower", "--namespace", AGENT_NAMESPACE, "--wait", "--timeout", "5m"])?;
    ground.without_agent()?;
    ensure!(ground.alive(pid), "the container's process is gone after helm uninstall");
    let object = cluster.object("containers.stower.dev", "work", "stays")?.context("the object is gone")?;
    ensure!(object["metadata"]["deletionTimestamp"].is_null(), "{object}");
    ground.helm("install", OWN, "")?;
    ground.pod(None)?;
    same("helm uninstall, and another install")
}

/// `uninstall.purge` leaves nothing: no object, process, mount or cgroup.
fn purge(ground: &Ground, pid: u64, steps: &mut Steps) -> Result<()> {
    let (cluster, helm, node) = (&ground.cluster, &ground.helm, &ground.node);
    ground.helm("upgrade", OWN, "uninstall: {purge: true, timeoutSeconds: 120}\n")?;
    ensure!(
        ground.alive(pid),
        "the container's process is gone after an upgrade that only sets uninstall.purge"
    );
    steps.done("helm upgrade with uninstall.purge");
    let instance = fs::read_to_string(node.path("/var/lib/stower/instance"))?;
    helm.ok(["uninstall", "stower", "--namespace", AGENT_NAMESPACE, "--wait", "--timeout", "5m"])
        .with_context(|| ground.tell())?;
    steps.done("helm uninstall with it");
    let kinds = "containers.stower.dev,datacontainers.stower.dev,volumes.stower.dev";
    let objects = cluster.ok(["get", kinds, "-A", "-o", "name"])?;
    ensure!(objects.trim().is_empty(), "purging left objects: {objects}");
    ensure!(!ground.alive(pid), "purging left the container");
    let mounts = node.run("cat", &["/proc/self/mounts"])?;
    let left: Vec<&str> =
        mounts.lines().filter(|line| line.contains("/run/stower") || line.contains("/lib/stower")).collect();
    ensure!(left.is_empty(), "purging left mounts: {left:#?}");
    ground.without_agent()?;
    let groups = teardown::cgroups_of(instance.trim());
    ensure!(groups.is_empty(), "purging left cgroups: {groups:?}");
    steps.done("nothing is left");
    Ok(())
}

#[test]
fn containers_outlive_all_that_befalls_their_agents_pod() -> Result<()> {
    let reference = Catalog::get()?.reference(catalog::payload)?;
    let mut steps = Steps(Instant::now());
    let ground = Ground::make(&mut steps)?;
    ground.helm("install", OWN, "")?;
    let first = ground.pod(None)?;
    steps.done("helm install stower");
    ground
        .helm
        .ok(["test", "stower", "--namespace", AGENT_NAMESPACE, "--timeout", "3m"])
        .with_context(|| ground.tell())?;
    steps.done("helm test");
    ground.cluster.namespace("work", "privileged")?;
    ground.cluster.apply(&manifest(&reference), &[])?;
    let pid = ground.pid("work", "stays")?;
    ground
        .cluster
        .ok(["wait", "--for=condition=Ready", "--timeout=60s", "containers.stower.dev/stays", "-n", "work"])
        .with_context(|| ground.tell())?;
    // It is in the host's namespaces, in groups of the agent's own, and nothing of the pod's.
    let groups = fs::read_to_string(ground.node.path(&format!("/proc/{pid}/cgroup")))?;
    ensure!(!groups.contains("kubepods") && groups.contains("/stower-"), "{groups}");
    steps.done("kubectl apply of a container");
    through_everything(&ground, pid, &first, &mut steps)?;
    purge(&ground, pid, &mut steps)?;
    drop(ground);
    steps.done("the node's end");
    Ok(())
}
