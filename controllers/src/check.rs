//! A linter for plans: what no plan may ever hold, whatever it was made of. Tests run it on every plan; it shares
//! nothing with the planner.

use std::collections::BTreeSet;

use crate::{
    action::Act,
    desired::Desired,
    observed::{CgroupState, Observed, ObservedContainer, ProcessState},
    plan::Plan,
    record::Records,
};

/// Everything that is wrong with a plan, in words; nothing of a sound one.
pub fn check(plan: &Plan, desired: &Desired, observed: &Observed, records: &Records) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    let unknown = ObservedContainer::default();
    for action in &plan.actions {
        let uid = &action.uid;
        let mut fault = |what: &str| faults.push(format!("{action}: {what}"));
        if !seen.insert(uid) {
            fault("a second action for one object");
        }
        let declared = desired.by_uid(uid);
        let wanted = declared.is_some_and(|declared| !declared.terminating);
        let is = observed.containers.get(uid).unwrap_or(&unknown);
        let record = records.get(uid).and_then(|record| record.known());
        if records.contains_key(uid) && record.is_none() {
            fault("its record cannot be read");
        }
        if declared.is_none() && desired.unproven().is_some() {
            fault("its absence is not proven");
        }
        if is.in_flight.is_some() && !matches!(action.act, Act::Stop { .. }) {
            fault("something is in flight for it");
        }
        let empty = matches!(is.cgroup, CgroupState::Absent | CgroupState::Empty);
        let ended = !matches!(is.process, ProcessState::Running { .. } | ProcessState::Unknown { .. });
        match &action.act {
            Act::Start { run, .. } => {
                if !empty || !ended {
                    fault("its former processes are not proven gone");
                }
                if !wanted {
                    fault("nobody wants it");
                }
                if record.is_some_and(|record| record.hold.is_some()) && !ends_hold(plan, uid) {
                    fault("it is held");
                }
                if record.is_some_and(|record| *run <= record.last_run) {
                    fault("its run number was used before");
                }
                if is.process.run().is_some_and(|seen| *run <= seen) {
                    fault("its run number was seen before");
                }
            }
            Act::Teardown | Act::Forget => {
                if wanted {
                    fault("it is declared");
                }
                if !empty || !ended {
                    fault("its processes are not proven gone");
                }
                if matches!(action.act, Act::Forget) && !is.is_gone() {
                    fault("something of it is left");
                }
            }
            Act::Kill | Act::Stop { .. } | Act::Update { .. } | Act::PullImage { .. } => {}
        }
        if plan.deferred.contains(uid) {
            fault("it is deferred as well");
        }
    }
    faults
}

/// Whether the plan itself ends the hold, as after a boot.
fn ends_hold(plan: &Plan, uid: &stower_crds::Uid) -> bool {
    plan.records.iter().any(|(of, record)| of == uid && record.hold.is_none())
}
