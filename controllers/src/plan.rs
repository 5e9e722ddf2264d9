//! From desired, observed and records to what is to be done now.

use std::{collections::BTreeSet, fmt};

use stower_crds::{ObjectKey, Uid};

use crate::{
    action::{Act, Action, ActionKind, StorageMode, Why},
    container::{Decision, plan_container},
    desired::{AnyDeclared, Declared, Desired, Values},
    observed::Observed,
    record::{Record, RecordState, Records},
    store::{Facts, Uses, plan_data, plan_volume},
    time::{Mono, Now},
};

/// How many starts may be in flight at once, when the configuration says nothing (`startConcurrency`).
pub const START_CONCURRENCY: usize = 8;

/// Everything to be done now. Carried out and observed, the same call gives nothing more.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// At most one for each object; those that end something first, starts in their order.
    pub actions: Vec<Action>,
    /// Records that have changed. They are to be in effect, though not yet durable, before any action.
    pub records: Vec<(Uid, Record)>,
    /// Starts that wait until others are no longer in flight.
    pub deferred: BTreeSet<Uid>,
    /// When to plan again, even if nothing is observed.
    pub wake_at: Option<Mono>,
    /// What is left as it is, and why.
    pub notes: Vec<Note>,
}

impl Plan {
    /// Whether nothing is to be done. Records may have changed all the same.
    pub fn is_idle(&self) -> bool {
        self.actions.is_empty() && self.deferred.is_empty()
    }
}

/// Why an object is left as it is, though it may not be as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The object.
    pub uid: Uid,
    /// Its name, where it is known.
    pub key: Option<ObjectKey>,
    /// In words.
    pub message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{key}: {}", self.message),
            None => write!(f, "the container with UID {}: {}", self.uid, self.message),
        }
    }
}

/// How many more starts may be set out on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartBudget {
    /// How many may be in flight at once.
    pub limit: usize,
    /// How many are.
    pub in_flight: usize,
}

/// Decides for every object that is declared, observed or remembered.
pub fn plan(desired: &Desired, observed: &Observed, records: &Records, now: &Now, limit: usize) -> Plan {
    // Three sorted runs, which a stable sort merges.
    let mut uids: Vec<&Uid> =
        desired.uids().chain(observed.containers.keys()).chain(records.keys()).collect();
    uids.sort();
    uids.dedup();
    plan_some(desired, observed, records, now, limit, uids)
}

/// Decides for some objects: those that something has happened to, those of [`Plan::deferred`], and those whose
/// `wake_at` has come.
pub fn plan_some<'a>(
    desired: &Desired,
    observed: &Observed,
    records: &Records,
    now: &Now,
    limit: usize,
    uids: impl IntoIterator<Item = &'a Uid>,
) -> Plan {
    let uses = Uses::new(observed, records);
    let facts = Facts { desired, observed, uses: &uses, now };
    let decide = |uid: &Uid, may_start| match desired.any_by_uid(uid) {
        Some(AnyDeclared::Volume(declared)) => plan_volume(&declared, &facts),
        Some(AnyDeclared::Data(declared)) => plan_data(&declared, &facts),
        Some(AnyDeclared::Values(declared)) => plan_values(&declared),
        Some(AnyDeclared::Container(_)) | None => plan_container(uid, &facts, records.get(uid), may_start),
    };
    let mut plan = Plan::default();
    let mut starts = Vec::new();
    for uid in uids {
        let decision = decide(uid, true);
        if decision.action.as_ref().is_some_and(|action| action.act.kind() == ActionKind::Start) {
            let rank = desired.by_uid(uid).map_or(0, |declared| declared.rank);
            let key = desired.by_uid(uid).map(|declared| declared.key.clone());
            starts.push((rank, key, uid, decision));
        } else {
            plan.add(uid, decision);
        }
    }
    // Counted only when it matters: it looks at everything that was observed.
    let in_flight = if starts.is_empty() { 0 } else { observed.starts_in_flight() };
    let left = StartBudget { limit, in_flight }.left();
    starts.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    // Storage that is begun anew is not taken from meanwhile: it would be gone from under who takes it.
    let renewed: BTreeSet<&Uid> =
        starts.iter().filter(|(.., decision)| begins_anew(decision)).map(|(_, _, uid, _)| *uid).collect();
    let mut begun = 0;
    for (_, _, uid, decision) in starts {
        let waits = used(&decision).any(|used| renewed.contains(used) || is_renewed(used, observed, records));
        if begun < left && !waits {
            begun += 1;
            plan.add(uid, decision);
        } else {
            plan.add(uid, decide(uid, false));
        }
    }
    plan.actions.sort_by_key(|action| order(action.act.kind()));
    plan
}

/// Whose storage a start that was decided would mount.
fn used(decision: &Decision) -> impl Iterator<Item = &Uid> {
    let resolved = decision.action.as_ref().and_then(|action| match &action.act {
        Act::Start { resolved, .. } => Some(resolved),
        _ => None,
    });
    resolved.into_iter().flat_map(|resolved| &resolved.uses)
}

fn begins_anew(decision: &Decision) -> bool {
    let act = decision.action.as_ref().map(|action| &action.act);
    matches!(act, Some(Act::Start { storage: StorageMode::New, .. }))
}

/// Whether a start that may begin storage anew is in flight.
fn is_renewed(uid: &Uid, observed: &Observed, records: &Records) -> bool {
    let starts = observed.containers.get(uid).and_then(|seen| seen.in_flight) == Some(ActionKind::Start);
    let renew = records.get(uid).and_then(RecordState::known).is_none_or(|record| record.renew);
    starts && renew
}

/// Values have nothing on the machine: they are only forgotten.
fn plan_values(declared: &Declared<Values>) -> Decision {
    let act =
        |why| Action { uid: declared.uid.clone(), key: Some(declared.key.clone()), act: Act::Forget, why };
    let removed = || act(Why::Removed { source: declared.source.to_string() });
    Decision { action: declared.terminating.then(removed), ..Decision::default() }
}

/// Ends before beginnings, so that what a removal frees is free when a start needs it.
fn order(kind: ActionKind) -> u8 {
    match kind {
        ActionKind::Stop | ActionKind::Kill => 0,
        ActionKind::Teardown | ActionKind::RemoveStores | ActionKind::Forget => 1,
        ActionKind::Update | ActionKind::Refresh | ActionKind::PostStart => 2,
        ActionKind::MakeStores => 3,
        ActionKind::Start => 4,
        ActionKind::PullImage => 5,
    }
}

impl Plan {
    fn add(&mut self, uid: &Uid, decision: Decision) {
        self.actions.extend(decision.action);
        self.records.extend(decision.record.map(|record| (uid.clone(), record)));
        self.notes.extend(decision.note);
        self.wake_at = match (self.wake_at, decision.wake_at) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        if decision.deferred {
            self.deferred.insert(uid.clone());
        }
    }
}

impl StartBudget {
    /// How many starts may be set out on now.
    pub fn left(self) -> usize {
        self.limit.saturating_sub(self.in_flight)
    }
}

impl fmt::Display for Plan {
    /// One line for each action and each note, as `stower plan` prints them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in &self.actions {
            writeln!(f, "{action}")?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        if !self.deferred.is_empty() {
            writeln!(f, "{} more start when others have started", self.deferred.len())?;
        }
        if self.actions.is_empty() && self.deferred.is_empty() && self.notes.is_empty() {
            writeln!(f, "nothing to do")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
