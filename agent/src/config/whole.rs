//! What all containers together may use.

use serde::Deserialize;
use serde_json::{Value, json};
use stower_crds::Quantity;

use super::layers::Merged;

/// What all containers together may use at most; `None` is all that there is. Named as in the kubelet's `systemReserved`, which a
/// node with both has to set aside at least so much in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContainersLimits {
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pid: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    cpu: Option<Quantity>,
    memory: Option<Quantity>,
    pid: Option<Quantity>,
}

impl ContainersLimits {
    pub(super) fn derive(merged: &mut Merged) -> Self {
        let Some(Written { cpu, memory, pid }) = merged.map("containers.limits") else {
            return Self::default();
        };
        let mut number = |name: &str, said: Option<Quantity>, read: fn(&Quantity) -> Option<u64>| {
            let said = said?;
            let number = read(&said).filter(|number| *number > 0);
            if number.is_none() {
                merged.wrong(format!("containers.limits.{name}"), format!("{said} is not above 0"));
            }
            number
        };
        Self {
            cpu_millis: number("cpu", cpu, Quantity::millis),
            memory: number("memory", memory, Quantity::units),
            pid: number("pid", pid, Quantity::units),
        }
    }

    pub(super) fn to_json(self) -> Value {
        let mut map = serde_json::Map::new();
        map.extend(self.cpu_millis.map(|millis| ("cpu".to_owned(), json!(format!("{millis}m")))));
        map.extend(
            self.memory.map(|bytes| ("memory".to_owned(), Quantity::from_bytes(bytes).to_string().into())),
        );
        map.extend(self.pid.map(|pid| ("pid".to_owned(), json!(pid.to_string()))));
        map.into()
    }
}
