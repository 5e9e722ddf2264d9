//! The DaemonSet under a real kubelet and containerd: what befalls the agent's pod befalls no container.

mod readme;
mod unseen;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use stower_e2e::cluster::helm::Helm;
use stower_e2e::cluster::node::{KubeNode, RESERVED};
use stower_e2e::cluster::{AGENT_NAMESPACE, Cluster};
use stower_e2e::{
    Catalog, agent_image, cargo, catalog, node, process, release, requires, teardown, wait_for, wait_long_for,
};

/// How long a pod may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// Helm's words that have it end when all is well.
const WAIT: [&str; 3] = ["--wait", "--timeout", "5m"];
const IMAGE: &str = "stower.test/stower";
/// What containers are declared by.
const KINDS: &str = "containers.stower.dev,datacontainers.stower.dev,volumes.stower.dev";
/// What the chart and its hooks make.
const OF_THE_RELEASE: &str = "daemonsets,pods,jobs,configmaps,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,\
                              validatingadmissionpolicies,validatingadmissionpolicybindings";
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
        // What debuggers read is four fifths of a program that is no release.
        requires::program("strip", "binutils")?;
        let binary = node.folder().join("stower");
        process::run("strip", ["-o".as_ref(), binary.as_os_str(), node::binary()?.as_os_str()])?;
        import(&node, &binary, OWN)?;
        let other = release::other(&binary, node.folder(), OWN, &next())?;
        import(&node, &other, &next())?;
        steps.done("two images of the agent");
        let helm = Helm::of(&cluster)?;
        Ok(Self { helm, node, cluster, registry })
    }

    /// A command of Helm that must succeed, given in the checkout.
    fn helm<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<String> {
        process::run_command(self.helm.command(words).current_dir(cargo::checkout()))
            .with_context(|| self.tell())
    }

    /// Values without which the machine would decide how a test ends: a registry, manifests, room on the disk.
    fn values(&self, more: &str) -> Result<String> {
        let path = self.helm.values(&format!(
            "agent:\n  manifests: /var/lib/manifests\n  config:\n    insecureRegistries: ['{}']\n    images: {{gc: {{enabled: false}}}}\n    \
             storage: {{minFree: {{}}, minFreeInodes: {{}}}}\n    containers: {{limits: {}}}\n{more}",
            self.registry,
            RESERVED.quantities(),
        ))?;
        Ok(path.to_str().context("the path of the values is no text")?.to_owned())
    }

    /// `helm install` or `upgrade` of the agent, until it is ready.
    fn agent(&self, verb: &str, tag: &str) -> Result<()> {
        let values =
            self.values(&format!("image: {{repository: {IMAGE}, pullPolicy: Never, tag: '{tag}'}}\n"))?;
        let words = [verb, "stower", "charts/stower", "--values", &values, "--namespace", AGENT_NAMESPACE];
        self.helm(words.iter().chain(&WAIT)).map(drop)
    }

    /// What the README has: both charts, and a container of its manifest in the namespace `default`; gives the container's process.
    fn quick_start(&self, reference: &str, steps: &mut Steps) -> Result<u64> {
        let values = self.values("")?;
        let (image, node) = (format!("image: {reference}"), format!("nodeName: {}", self.node.name));
        let web =
            readme::web(&[&image, "command: [/payload, stay]", "terminationGracePeriodSeconds: 1", &node])?;
        let mut commands = 0;
        for words in readme::commands()? {
            let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
            let line = words.join(" ");
            let its = format!("image.repository={IMAGE}");
            for word in &mut words {
                if *word == "image.repository=registry.example/stower" {
                    *word = &its;
                }
            }
            match words.split_first() {
                Some((&"helm", words)) => {
                    let values = ["--values", &values];
                    let more = if line.contains("stower-crds") { &[][..] } else { &values };
                    self.helm(words.iter().chain(more).chain(&WAIT))?;
                }
                Some((&"kubectl", [rest @ .., "-f", "web.yaml"])) if *rest == ["apply"] => {
                    self.cluster.apply(&web, &[])?;
                }
                // As it goes on, it does not end.
                Some((&"kubectl", [rest @ .., "-w"])) => self.cluster.ok(rest).map(drop)?,
                Some((&"kubectl", words)) => self.cluster.ok(words).map(drop)?,
                _ => bail!("the README's `{line}` is neither of Helm nor of kubectl"),
            }
            commands += 1;
            steps.done(&line);
        }
        ensure!(commands >= 5, "the README's quick start has {commands} commands");
        self.pid("default", "web")
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

    /// A command in the agent's pod, as `kubectl exec` has kubelet ask for it.
    fn exec(&self, pod: &str, words: &[&str]) -> Result<String> {
        let pod = self.cluster.object("pod", AGENT_NAMESPACE, pod)?.context("no pod")?;
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
        let id =
            id.strip_prefix("containerd://").with_context(|| format!("the container {id:?} of {pod}"))?;
        let exec = ["--namespace", "k8s.io", "tasks", "exec", "--exec-id", "test", id];
        self.node.run("ctr", &[&exec, words].concat())
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

/// Containers by namespace and name, with their processes.
type Running = [(&'static str, &'static str, u64); 2];

/// All that befalls the agent's pod, and the agent's absence; the containers have the same processes all the while.
fn through_everything(ground: &Ground, both: &Running, first: &str, steps: &mut Steps) -> Result<()> {
    let (cluster, node) = (&ground.cluster, &ground.node);
    let mut same = |after: &str| -> Result<()> {
        for (namespace, name, pid) in *both {
            ensure!(ground.alive(pid), "{name}'s process {pid} is gone after {after}: {}", ground.tell());
            ensure!(ground.pid(namespace, name)? == pid, "{name} has another process after {after}");
            let object =
                cluster.object("containers.stower.dev", namespace, name)?.context("the object is gone")?;
            ensure!(object["status"]["restartCount"].as_u64().unwrap_or(0) == 0, "after {after}: {object}");
        }
        steps.done(after);
        Ok(())
    };
    cluster.ok(["rollout", "restart", "daemonset/stower", "-n", AGENT_NAMESPACE])?;
    cluster.ok(["rollout", "status", "daemonset/stower", "-n", AGENT_NAMESPACE, "--timeout=5m"])?;
    let second = ground.pod(Some(first))?;
    same("kubectl rollout restart")?;

    ground.agent("upgrade", &next())?;
    let third = ground.pod(Some(&second))?;
    ensure!(ground.stower(&["version"])?.contains(&next()), "the agent is not the other release");
    same("helm upgrade to another version")?;

    ground.helm(["rollback", "stower", "--namespace", AGENT_NAMESPACE].iter().chain(&WAIT))?;
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

    ground.helm(["uninstall", "stower", "--namespace", AGENT_NAMESPACE].iter().chain(&WAIT))?;
    ground.without_agent()?;
    for (namespace, name, pid) in *both {
        ensure!(ground.alive(pid), "{name}'s process is gone after helm uninstall");
        let object =
            cluster.object("containers.stower.dev", namespace, name)?.context("the object is gone")?;
        ensure!(object["metadata"]["deletionTimestamp"].is_null(), "{object}");
    }
    ground.agent("install", OWN)?;
    ground.pod(None)?;
    same("helm uninstall, and another install")
}

/// `uninstall.purge` leaves nothing: no object, process, mount or cgroup, and nothing of the release.
fn purge(ground: &Ground, both: &Running, steps: &mut Steps) -> Result<()> {
    let (cluster, node) = (&ground.cluster, &ground.node);
    // As the chart's notes say.
    let words = ["upgrade", "-n", AGENT_NAMESPACE, "stower", "charts/stower", "--reuse-values"];
    ground.helm(words.iter().chain(&["--set", "uninstall.purge=true"]).chain(&WAIT))?;
    ensure!(
        both.iter().all(|(.., pid)| ground.alive(*pid)),
        "an upgrade that only sets uninstall.purge ended something"
    );
    steps.done("helm upgrade with uninstall.purge");
    let instance = fs::read_to_string(node.path("/var/lib/stower/instance"))?;
    ground.helm(["uninstall", "stower", "--namespace", AGENT_NAMESPACE].iter().chain(&WAIT))?;
    steps.done("helm uninstall with it");
    ground.without_agent()?;
    let mut left = Vec::new();
    left.extend(both.iter().filter(|(.., pid)| ground.alive(*pid)).map(|container| format!("{container:?}")));
    left.extend(cluster.ok(["get", KINDS, "-A", "-o", "name"])?.lines().map(str::to_owned));
    let mounts = node.run("cat", &["/proc/self/mounts"])?;
    let ours = |line: &&str| line.contains("/run/stower") || line.contains("/lib/stower");
    left.extend(mounts.lines().filter(ours).map(str::to_owned));
    left.extend(teardown::cgroups_of(instance.trim()).iter().map(|path| path.display().to_string()));
    ensure!(left.is_empty(), "purging left {left:#?}");
    // Pods have a while to end, and with them the cluster's garbage collector takes the Leases.
    wait_for("what the release made to go", || {
        let release = ["get", OF_THE_RELEASE, "-A", "-l", "app.kubernetes.io/instance=stower", "-o", "name"];
        let leases = ["get", "leases", "-n", AGENT_NAMESPACE, "-o", "name"];
        let left = cluster.ok(release)? + &cluster.ok(leases)?;
        ensure!(left.trim().is_empty(), "there is {left}");
        Ok(Some(()))
    })?;
    steps.done("nothing is left");
    Ok(())
}

#[test]
fn containers_outlive_all_that_befalls_their_agents_pod() -> Result<()> {
    let reference = Catalog::get()?.reference(catalog::payload)?;
    let mut steps = Steps(Instant::now());
    let ground = Ground::make(&mut steps)?;
    let web = ground.quick_start(&reference, &mut steps)?;
    let first = ground.pod(None)?;
    ground.helm(["test", "stower", "--namespace", AGENT_NAMESPACE, "--timeout", "3m"])?;
    steps.done("helm test");
    let said =
        ground.exec(&first, &["/stower", "host-run", "--", "get", "containers", "-A", "-o", "name"])?;
    ensure!(said.contains("web"), "a command in the agent's pod said: {said}");
    unseen::room(&ground)?;
    ground.cluster.namespace("work", "privileged")?;
    ground.cluster.apply(&manifest(&reference), &[])?;
    let stays = ground.pid("work", "stays")?;
    ground
        .cluster
        .ok(["wait", "--for=condition=Ready", "--timeout=60s", "containers.stower.dev/stays", "-n", "work"])
        .with_context(|| ground.tell())?;
    let both = [("default", "web", web), ("work", "stays", stays)];
    // They are in the host's namespaces, in groups of the agent's own, and nothing of the pod's.
    for (.., pid) in both {
        let groups = fs::read_to_string(ground.node.path(&format!("/proc/{pid}/cgroup")))?;
        ensure!(!groups.contains("kubepods") && groups.contains("/stower-"), "{groups}");
    }
    steps.done("kubectl apply of a container with a data container");
    through_everything(&ground, &both, &first, &mut steps)?;
    unseen::no_more_than_a_quota_has(&ground, &reference)?;
    steps.done("a quota that is used up");
    purge(&ground, &both, &mut steps)?;
    drop(ground);
    steps.done("the node's end");
    Ok(())
}
