//! A linter for plans: what no plan may ever hold, whatever it was made of. Tests run it on every plan; it shares
//! nothing with the planner.

use std::collections::BTreeSet;

use crate::{
    action::Act,
    desired::{AnyDeclared, Desired},
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
        let any = desired.any_by_uid(uid);
        let wanted = any.as_ref().is_some_and(|it| !is_terminating(it));
        let is_container = any.as_ref().is_none_or(|it| matches!(it, AnyDeclared::Container(_)));
        let is = observed.containers.get(uid).unwrap_or(&unknown);
        let record = records.get(uid).and_then(|record| record.known());
        if records.contains_key(uid) && record.is_none() {
            fault("its record cannot be read");
        }
        if any.is_none() && desired.unproven().is_some() {
            fault("its absence is not proven");
        }
        if is.in_flight.is_some() && !matches!(action.act, Act::Stop { .. }) {
            fault("something is in flight for it");
        }
        let empty = matches!(is.cgroup, CgroupState::Absent | CgroupState::Empty);
        let ended = !matches!(is.process, ProcessState::Running { .. } | ProcessState::Unknown { .. });
        match &action.act {
            Act::Start { run, resolved, .. } => {
                for used in &resolved.uses {
                    if desired.any_by_uid(used).is_none_or(|it| is_terminating(&it)) {
                        fault("it would mount what is not declared");
                    }
                }
                if let Some(declared) = declared {
                    for mount in &declared.spec.volume_mounts {
                        let path = mount.mount_path.trim_end_matches('/');
                        if !resolved.mounts.iter().any(|have| have.path == path) && !path.contains("//") {
                            fault("a mount is missing");
                        }
                    }
                }
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
                if is_container && (!empty || !ended) {
                    fault("its processes are not proven gone");
                }
                if is_container && matches!(action.act, Act::Forget) && !is.is_gone() {
                    fault("something of it is left");
                }
            }
            Act::RemoveStores { .. } => {
                if desired.any_by_uid(uid).is_some_and(|it| !is_terminating(&it)) {
                    fault("it is declared");
                }
                for (user, record) in records {
                    let uses = record.known().and_then(|record| record.launch.as_ref()).map(|it| &it.uses);
                    let seen = observed.containers.get(user).unwrap_or(&unknown);
                    let runs =
                        matches!(seen.process, ProcessState::Running { .. } | ProcessState::Unknown { .. });
                    if runs && uses.is_some_and(|uses| uses.contains(uid)) {
                        fault("a container has it mounted");
                    }
                }
            }
            Act::MakeStores { .. } => {
                if desired.any_by_uid(uid).is_none_or(|it| is_terminating(&it)) {
                    fault("nobody wants it");
                }
            }
            Act::Kill
            | Act::Stop { .. }
            | Act::Update { .. }
            | Act::Refresh { .. }
            | Act::PullImage { .. } => {}
        }
        if plan.deferred.contains(uid) {
            fault("it is deferred as well");
        }
    }
    faults
}

fn is_terminating(declared: &AnyDeclared) -> bool {
    match declared {
        AnyDeclared::Container(it) => it.terminating,
        AnyDeclared::Volume(it) => it.terminating,
        AnyDeclared::Data(it) => it.terminating,
        AnyDeclared::Values(it) => it.terminating,
    }
}

/// Whether the plan itself ends the hold, as after a boot.
fn ends_hold(plan: &Plan, uid: &stower_crds::Uid) -> bool {
    plan.records.iter().any(|(of, record)| of == uid && record.hold.is_none())
}
