//! The node as an object, for people and programs: its conditions and its disk.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use stower_controllers::Room;

use super::Keeper;
use crate::node::Node;

/// The node, in the shape of Kubernetes' own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeView(Value);

impl NodeView {
    /// As JSON.
    #[must_use]
    pub fn into_value(self) -> Value {
        self.0
    }
}

fn room(room: Room) -> Value {
    json!({"available": room.available, "total": room.total, "usedPercent": room.used_percent()})
}

impl Keeper {
    /// The node as it was measured last.
    pub(crate) fn view(&self, node: &Node) -> NodeView {
        let measured = self.last();
        let condition = |type_: &str, holds: bool, reason: &str, message: &str, since: Option<Timestamp>| {
            let mut condition = json!({
                "type": type_, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message,
            });
            if let Some(since) = since {
                condition["lastTransitionTime"] = since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
            }
            condition
        };
        let pressure = &measured.pressure;
        // The words of the kubelet.
        let (reason, message) = match pressure.is_on() {
            true => ("AgentHasDiskPressure", pressure.message.as_str()),
            false => ("AgentHasNoDiskPressure", "there is room for pulls and starts"),
        };
        let ready = match node.ready() {
            Ok(()) => condition("Ready", true, "AgentReady", "the agent keeps this node as declared", None),
            Err(why) => condition("Ready", false, "AgentNotReady", &why.join("; "), None),
        };
        let disk = &measured.disk;
        let mut filesystem = json!({"path": disk.path, "bytes": room(disk.bytes)});
        if let Some(inodes) = disk.inodes {
            filesystem["inodes"] = room(inodes);
        }
        let runtimes = node.configured.runtimes();
        let mut status = json!({
            "runtimes": *runtimes,
            "conditions": [
                condition("DiskPressure", pressure.is_on(), reason, message, Some(measured.since)),
                ready,
            ],
            "filesystem": filesystem,
            "nodeInfo": {"agentVersion": concat!("v", env!("CARGO_PKG_VERSION"))},
        });
        if let Some(pool) = &disk.pool {
            status["pool"] =
                json!({"name": pool.name, "data": room(pool.data), "metadata": room(pool.metadata)});
        }
        if let Some(cluster) = &node.cluster {
            status["kube"] = cluster.view();
        }
        NodeView(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": self.settings.get().fixed.node_name}, "status": status,
        }))
    }
}
