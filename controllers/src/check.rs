//! A linter for plans: what no plan may ever hold, whatever it was made of. Tests run it on every plan; it shares
//! nothing with the planner.

use std::collections::{BTreeMap, BTreeSet};

use stower_crds::{Kind, MountPropagation, Name, ObjectKey, Uid, VolumesFromKind};

use crate::{
    action::{Act, ActionKind, StorageMode, Why},
    desired::{AnyDeclared, Declared, Desired},
    observed::{CgroupState, ImageState, Observed, ObservedContainer, ProcessState, RootfsState},
    plan::Plan,
    record::{RecordState, Records},
    resolve::{MountWhat, Resolved, ResolvedMount},
    store::StoreId,
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
        let makes = observed.stores.get(uid).and_then(|stores| stores.in_flight);
        if makes.is_some() {
            fault("something is in flight for its stores");
        }
        if is.in_flight.is_some() && !matches!(action.act, Act::Stop { .. }) {
            fault("something is in flight for it");
        }
        if observed.pressure.is_on() {
            match &action.act {
                Act::PullImage { .. } => fault("there is no room for it"),
                Act::Start { storage, .. } if *storage != StorageMode::Keep => {
                    fault("there is no room for new storage");
                }
                Act::Start { .. } if !matches!(is.rootfs, RootfsState::Present { .. }) => {
                    fault("there is no room for a new layer");
                }
                Act::Stop { .. } if matches!(action.why, Why::Replaced(_)) => {
                    fault("there is no room for what replaces it");
                }
                Act::MakeStores { image: Some(_), .. } => {
                    fault("there is no room for what it is filled with");
                }
                _ => {}
            }
        }
        let empty = matches!(is.cgroup, CgroupState::Absent | CgroupState::Empty);
        let ended = !matches!(is.process, ProcessState::Running { .. } | ProcessState::Unknown { .. });
        match &action.act {
            Act::Start { run, resolved, storage, .. } => {
                for used in &resolved.uses {
                    if desired.any_by_uid(used).is_none_or(|it| is_terminating(&it)) {
                        fault("it would mount what is not declared");
                    }
                }
                if let Some(declared) = declared {
                    whole(declared, resolved, desired, observed, &mut fault);
                }
                if *storage == StorageMode::New {
                    for user in users(uid, plan, observed, records) {
                        fault(&format!("it begins storage anew that {user} has mounted"));
                    }
                }
                let remembered = plan.records.iter().find(|(of, _)| of == uid);
                let launch = remembered.and_then(|(_, record)| record.launch.as_ref());
                if launch.is_none_or(|launch| launch.uses != resolved.uses || launch.run != *run) {
                    fault("what it uses is not remembered");
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
                for user in users(uid, plan, observed, records) {
                    fault(&format!("{user} has its storage mounted"));
                }
                if is_container && matches!(action.act, Act::Forget) && !is.is_gone() {
                    fault("something of it is left");
                }
            }
            Act::RemoveStores { .. } => {
                if desired.any_by_uid(uid).is_some_and(|it| !is_terminating(&it)) {
                    fault("it is declared");
                }
                for user in users(uid, plan, observed, records) {
                    fault(&format!("{user} has it mounted"));
                }
            }
            Act::MakeStores { stores, .. } => {
                let ids: BTreeSet<&StoreId> = stores.iter().map(|want| &want.id).collect();
                if is_container || ids.is_empty() {
                    fault("it has no stores");
                }

                if desired.any_by_uid(uid).is_none_or(|it| is_terminating(&it)) {
                    fault("nobody wants it");
                }
            }
            Act::PostStart { run, .. } => {
                if is.process.run() != Some(*run) || ended {
                    fault("the run does not run");
                }
                if is.post_start.as_ref().is_some_and(|seen| seen.run == *run) {
                    fault("it was asked for already");
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

/// Who has, or may have, storage of an object mounted, or would have by this plan.
fn users<'a>(uid: &Uid, plan: &'a Plan, observed: &'a Observed, records: &'a Records) -> BTreeSet<&'a Uid> {
    let quiet = |user: &Uid| {
        observed.containers.get(user).is_some_and(|seen| {
            matches!(seen.cgroup, CgroupState::Absent | CgroupState::Empty)
                && !matches!(seen.process, ProcessState::Running { .. } | ProcessState::Unknown { .. })
                && seen.in_flight != Some(ActionKind::Start)
        })
    };
    let before = records.iter().filter(|(user, state)| match state {
        RecordState::Unknown { .. } => !quiet(user),
        RecordState::Known(record) => {
            let uses = record.launch.as_ref().is_some_and(|launch| launch.uses.contains(uid));
            uses && !quiet(user)
        }
    });
    let after = plan.actions.iter().filter(|action| match &action.act {
        Act::Start { resolved, .. } => resolved.uses.contains(uid),
        _ => false,
    });
    let after = after.map(|action| &action.uid);
    before.map(|(user, _)| user).chain(after).filter(|user| *user != uid).collect()
}

/// Whether what a start mounts is all that its spec asks for, each once and no wider, and everybody's is named.
fn whole(
    declared: &Declared,
    resolved: &Resolved,
    desired: &Desired,
    observed: &Observed,
    fault: &mut impl FnMut(&str),
) {
    let mut at: BTreeMap<&str, &ResolvedMount> = BTreeMap::new();
    for mount in &resolved.mounts {
        if at.insert(&mount.path, mount).is_some() {
            fault(&format!("two mounts are at {}", mount.path));
        }
        if mount.path != clean(&mount.path) || mount.path == "/" || mount.path.split('/').any(|it| it == "..")
        {
            fault(&format!("{} is no path for a mount", mount.path));
        }
        if let Some(owner) = owner(&mount.what, &declared.key, desired)
            && owner != declared.uid
            && !resolved.uses.contains(&owner)
        {
            fault(&format!("whose {} is, is not said to be used", mount.path));
        }
    }
    let inner_first = resolved.mounts.iter().enumerate().any(|(index, outer)| {
        let below = format!("{}/", outer.path);
        resolved.mounts[..index].iter().any(|inner| inner.path.starts_with(&below))
    });
    if inner_first {
        fault("a mount hides one that was made before it");
    }
    let mut own = BTreeSet::new();
    for mount in &declared.spec.volume_mounts {
        let path = clean(&mount.mount_path);
        match at.get(path.as_str()) {
            Some(have) if have.from.is_none() && have.name.as_ref() == Some(&mount.name) => {
                if mount.read_only && !have.read_only {
                    fault(&format!("{path} could be written to"));
                }
            }
            _ => fault(&format!("the mount at {path} is missing")),
        }
        own.insert(path);
    }
    for from in &declared.spec.volumes_from {
        let kind = match from.kind {
            VolumesFromKind::DataContainer => Kind::DataContainer,
            VolumesFromKind::Container => Kind::Container,
        };
        let Ok(name) = Name::new(from.name.as_str()) else {
            fault(&format!("{} is no name", from.name));
            continue;
        };
        let key = ObjectKey::new(kind, declared.key.namespace.clone(), name);
        let paths: Vec<(String, bool)> = match desired.get_any(&key) {
            Some(AnyDeclared::Data(data)) => {
                data.spec.volumes.iter().map(|it| (clean(&it.mount_path), it.read_only)).collect()
            }
            Some(AnyDeclared::Container(source)) => {
                source.spec.volume_mounts.iter().map(|it| (clean(&it.mount_path), it.read_only)).collect()
            }
            _ => {
                fault(&format!("{key} is not there"));
                continue;
            }
        };
        for (path, read_only) in paths.iter().filter(|(path, _)| !own.contains(path)) {
            match at.get(path.as_str()) {
                Some(have) if have.from.as_ref() == Some(&key) => {
                    if (*read_only || from.read_only) && !have.read_only {
                        fault(&format!("{path} of {key} could be written to"));
                    }
                    if have.propagation == MountPropagation::Bidirectional && !declared.spec.privileged() {
                        fault(&format!("{path} of {key} shows its mounts to the host"));
                    }
                }
                _ => fault(&format!("the mount at {path} of {key} is missing")),
            }
        }
    }
    let image = observed.containers.get(&declared.uid).map(|seen| &seen.image);
    let image = image.filter(|image| matches!(image.state, ImageState::Present { .. }));
    for path in image.into_iter().flat_map(|image| image.volumes.iter()) {
        if !at.contains_key(clean(path).as_str()) {
            fault(&format!("nothing is at {path}, which its image asks for"));
        }
    }
}

/// Whose storage it is.
fn owner(what: &MountWhat, of: &ObjectKey, desired: &Desired) -> Option<Uid> {
    let named = |kind, name: &Name| {
        let key = ObjectKey::new(kind, of.namespace.clone(), name.clone());
        Some(desired.get_any(&key).map_or_else(nobody, |declared| uid_of(&declared)))
    };
    match what {
        MountWhat::EmptyDir { owner, .. } | MountWhat::Anonymous { owner, .. } => Some(owner.clone()),
        MountWhat::Store(StoreId::Private { owner, .. }) => Some(owner.clone()),
        MountWhat::Store(StoreId::Volume { name, .. }) => named(Kind::Volume, name),
        MountWhat::Store(StoreId::Data { name, .. }) => named(Kind::DataContainer, name),
        MountWhat::HostPath { .. } | MountWhat::Files { .. } => None,
    }
}

/// In no set of those that are used.
fn nobody() -> Uid {
    Uid::new("nobody").expect("a UID in letters")
}

fn uid_of(declared: &AnyDeclared) -> Uid {
    match declared {
        AnyDeclared::Container(it) => it.uid.clone(),
        AnyDeclared::Volume(it) => it.uid.clone(),
        AnyDeclared::Data(it) => it.uid.clone(),
        AnyDeclared::Values(it) => it.uid.clone(),
    }
}

/// A path without doubled slashes, `.` and a slash at its end.
fn clean(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    format!("/{}", parts.join("/"))
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
fn ends_hold(plan: &Plan, uid: &Uid) -> bool {
    plan.records.iter().any(|(of, record)| of == uid && record.hold.is_none())
}
