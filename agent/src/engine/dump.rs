//! What every object and every running effect is doing, for a person with a stuck agent.

use std::fmt::Write;

use super::Engine;
use crate::time;

impl Engine {
    pub(super) fn dump(&self) -> String {
        let now = time::now(&self.boot_id);
        let mut out = String::new();
        let _ = writeln!(out, "stower {} at {} (boot {})", env!("CARGO_PKG_VERSION"), now.wall, self.boot_id);
        if let Some(why) = &self.unobserved {
            let _ = writeln!(out, "not acting: {why}");
        }
        let _ = writeln!(out, "\neffects ({}):", self.running.len());
        for ((uid, action), begun) in &self.running {
            let _ = writeln!(out, "  {uid} {} for {:?}", action.as_str(), begun.elapsed());
        }
        let _ = writeln!(out, "\nwake-ups ({}):", self.wakes.len());
        for (at, uid) in &self.wakes {
            let _ = writeln!(out, "  {uid} in {:?}", now.mono.until(*at));
        }
        let _ = writeln!(out, "\nplan:");
        let _ = write!(out, "{}", self.plan_all(&now));
        let _ = writeln!(out, "\nobjects ({}):", self.desired.len());
        for declared in self.desired.iter() {
            let _ = writeln!(out, "  {} {} generation {}", declared.key, declared.uid, declared.generation);
            let _ = writeln!(out, "    observed: {:?}", self.observed.containers.get(&declared.uid));
            let _ = writeln!(out, "    record: {:?}", self.records.get(&declared.uid));
        }
        for (uid, seen) in &self.observed.stores {
            let name = self.desired.key_of(uid).map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(out, "  {name} {uid}\n    observed: {seen:?}");
        }
        out
    }
}
