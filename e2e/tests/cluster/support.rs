//! Agents of a cluster, and what several tests ask of them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stower_e2e::node::pid_of;
use stower_e2e::{Catalog, Cluster, NetworkNamespace, TestNode, catalog, wait_for};

/// The image of the examples, as they call it.
pub(crate) const IMAGE: &str = "localhost/stower-demo:1";

/// A cluster of one's own with the kinds in it, where `default` lets containers do what the examples do.
pub(crate) fn cluster() -> Result<Cluster> {
    let cluster = Cluster::start()?;
    cluster.apply_kinds()?;
    cluster.namespace("default", "privileged")?;
    Ok(cluster)
}

/// A node of a cluster, in a network of its own.
pub(crate) struct Agent {
    pub(crate) node: TestNode,
    // Ends after the agent.
    _network: NetworkNamespace,
}

impl Agent {
    /// Starts the agent of the node `name` with a token that is bound to it; it has the image of the examples.
    pub(crate) fn start(cluster: &Cluster, name: &str) -> Result<Self> {
        Self::made(cluster, name, &[], TestNode::start_agent)
    }

    /// The same for one that cannot be ready, as another has its name.
    pub(crate) fn start_second(cluster: &Cluster, name: &str) -> Result<Self> {
        Self::made(cluster, name, &[], TestNode::start_agent_that_waits)
    }

    /// The same as [`Agent::start`], with variables of the agent's environment.
    pub(crate) fn configured(cluster: &Cluster, name: &str, env: &[(&str, &str)]) -> Result<Self> {
        Self::made(cluster, name, env, TestNode::start_agent)
    }

    fn made(
        cluster: &Cluster,
        name: &str,
        env: &[(&str, &str)],
        start: impl FnOnce(&TestNode) -> Result<()>,
    ) -> Result<Self> {
        let kubeconfig = cluster.agent_kubeconfig(name)?;
        let kubeconfig = kubeconfig.to_str().context("an odd path")?;
        let port = |address: &str| -> Result<u16> {
            Ok(address.rsplit_once(':').context("an address without a port")?.1.parse()?)
        };
        let ports = [port(&cluster.address)?, port(&Catalog::get()?.registry.address)?];
        let network = NetworkNamespace::with_ports(&ports)?;
        let [program, word] = network.enter();
        let args = ["--node-name", name, "--kubeconfig", kubeconfig];
        let node = TestNode::builder().through(&[program.as_str(), word.as_str()]).args(&args);
        let node = env.iter().fold(node, |node, (name, value)| node.env(name, value)).build()?;
        start(&node)?;
        let layout = node.folder().join("image");
        fs::create_dir(&layout)?;
        catalog::payload_builder("stower-demo")?.0.write(&layout)?;
        node.ok(["image", "import", &layout.to_string_lossy(), IMAGE])?;
        Ok(Self { node, _network: network })
    }
}

impl Drop for Agent {
    /// Tells what there is to read when the test failed: of one that passed nobody sees it.
    fn drop(&mut self) {
        eprintln!("--- the agent's log\n{}", self.node.log_tail());
    }
}

/// A Container of the examples' image for a node; `spec` is more of it.
pub(crate) fn container(name: &str, node: &str, args: &[&str], spec: &Value) -> String {
    let mut object = json!({
        "apiVersion": "stower.dev/v1alpha1", "kind": "Container", "metadata": { "name": name },
        "spec": { "image": IMAGE, "args": args, "nodeName": node, "terminationGracePeriodSeconds": 1 },
    });
    for (key, value) in spec.as_object().cloned().unwrap_or_default() {
        object["spec"][key] = value;
    }
    object.to_string()
}

/// Waits until an object of the API server is as wanted, and gives it.
pub(crate) fn wait_object(
    cluster: &Cluster,
    kind: &str,
    name: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let mut last = None;
    let found = wait_for(format!("{kind} {name} of the API server to be {what}"), || {
        last = cluster.object(kind, "default", name)?;
        Ok(last.clone().filter(|object| wanted(object)))
    });
    found.with_context(|| format!("{}\n--- the object\n{:#}", cluster.log_tail(), last.unwrap_or_default()))
}

/// Waits until the API server has it that a container runs, and gives the process.
pub(crate) fn wait_running(cluster: &Cluster, name: &str) -> Result<u32> {
    let object = wait_object(cluster, "sctr", name, "running", |object| pid_of(object).is_some())?;
    pid_of(&object).context("no process id")
}

/// Waits until an object is gone from the API server.
pub(crate) fn wait_gone(cluster: &Cluster, kind: &str, name: &str) -> Result<()> {
    wait_for(format!("{kind} {name} to be gone from the API server"), || {
        Ok(cluster.object(kind, "default", name)?.is_none().then_some(()))
    })
}

/// The names of the containers that a node has, sorted.
pub(crate) fn names_on(node: &TestNode) -> Result<Vec<String>> {
    let name = |item: &Value| item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut names: Vec<String> = node.containers()?.iter().map(name).collect();
    names.sort();
    Ok(names)
}

/// That a process of a container is the one it was.
pub(crate) fn undisturbed(agent: &Agent, name: &str, before: u32) -> Result<()> {
    let item = agent.node.container(name)?.with_context(|| format!("{name} is not there"))?;
    let now = pid_of(&item);
    ensure!(now == Some(before), "{name} was process {before}, and is {now:?}: {}", item["status"]);
    Ok(())
}

/// A variable of a process.
pub(crate) fn variable(pid: u32, name: &str) -> Result<Option<String>> {
    let all = fs::read(format!("/proc/{pid}/environ"))?;
    let mut all = all.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    Ok(all.find_map(|variable| variable.strip_prefix(name)?.strip_prefix('=').map(str::to_owned)))
}

/// Waits for a number of things that happen at times of their own, longer than any other wait.
pub(crate) const LONG: Duration = Duration::from_secs(300);
