//! Volumes and DataContainers in the loop: what is seen of them, and who hears of it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::Value;
use stower_controllers::{
    Act, Action, ActionKind, AnyDeclared, Failure, ImageState, Now, ObservedStores, StoreState, Uses,
    data_status, volume_status,
};
use stower_crds::{DataContainerStatus, Kind, ObjectKey, Uid, VolumeDriver, VolumeStatus};

use super::Engine;
use crate::{effects::Done, node::ApiError};

/// The last status of an object without a process.
#[derive(Debug)]
pub(super) enum StoreStatus {
    Volume(VolumeStatus),
    Data(DataContainerStatus),
}

impl StoreStatus {
    pub(super) fn to_value(&self) -> Value {
        let value = match self {
            Self::Volume(status) => serde_json::to_value(status),
            Self::Data(status) => serde_json::to_value(status),
        };
        value.expect("a status is plain data")
    }
}

impl Engine {
    /// A Volume or DataContainer is declared, perhaps anew: what failed before says nothing about it.
    pub(super) fn declared_store(&mut self, uid: &Uid) {
        let kind = self.desired.key_of(uid).map(|key| key.kind);
        if matches!(kind, Some(Kind::Volume | Kind::DataContainer)) {
            let seen = self.observed.stores.entry(uid.clone()).or_default();
            seen.failure = None;
        }
    }

    /// Adds to what is to be planned everyone whom it may concern: who names it, and whose storage it has or had.
    pub(super) fn spread(&mut self) {
        let mut more = BTreeSet::new();
        for uid in &self.dirty {
            if let Some(key) = self.desired.key_of(uid) {
                more.extend(self.desired.dependents(key));
                if key.kind == Kind::DataContainer {
                    more.extend(self.desired.named_by(uid));
                }
            }
            if let Some(launch) = self.record(uid).and_then(|record| record.launch.as_ref()) {
                more.extend(launch.uses.iter().filter(|used| self.desired.key_of(used).is_some()).cloned());
            }
        }
        self.dirty.extend(more);
    }

    /// Begins an action of an object without a process; false for any other.
    pub(super) fn begin_store(&mut self, action: &Action) -> bool {
        let kind = match self.desired.key_of(&action.uid).map(|key| key.kind) {
            Some(Kind::Container) | None => return false,
            Some(kind) => kind,
        };
        let uid = action.uid.clone();
        if matches!(action.act, Act::Forget) {
            self.forget(&uid);
            return true;
        }
        if !matches!(kind, Kind::Volume | Kind::DataContainer) {
            return true;
        }
        let seen = self.observed.stores.entry(uid.clone()).or_default();
        let what = action.act.kind();
        if what == ActionKind::PullImage {
            seen.image.state = ImageState::Pulling;
        } else {
            seen.in_flight = Some(what);
        }
        self.event_of(action);
        self.running.insert((uid, what), Instant::now());
        self.effects.begin(action.clone());
        true
    }

    /// Takes in the end of an effect for an object without a process; gives back any other.
    pub(super) fn store_done(
        &mut self,
        uid: &Uid,
        action: ActionKind,
        took: Duration,
        done: Done,
        now: &Now,
    ) -> Option<Done> {
        if !self.observed.stores.contains_key(uid) {
            return Some(done);
        }
        if action == ActionKind::PullImage {
            match done {
                Done::Pulled { digest, .. } => {
                    let generation = match self.desired.any_by_uid(uid) {
                        Some(AnyDeclared::Data(declared)) => Some(declared.generation),
                        _ => None,
                    };
                    if let Some(image) = self.seen_image(uid) {
                        image.state = ImageState::Present { digest, asked: generation };
                    }
                    self.pulled(uid, took);
                }
                Done::PullFailed { reason, message } => self.pull_failed(uid, reason, message, now),
                _ => {}
            }
            return None;
        }
        let seen: &mut ObservedStores = self.observed.stores.entry(uid.clone()).or_default();
        seen.in_flight = None;
        match done {
            Done::Made { generation, stores } => {
                seen.failure = None;
                let filled = stores.iter().all(|store| store.has_data);
                seen.state = StoreState::Made { generation, stores };
                if filled && self.desired.key_of(uid).is_some_and(|key| key.kind == Kind::DataContainer) {
                    self.normal_event(uid, "Filled", "its volumes are there".to_owned());
                }
            }
            Done::StoresRemoved => {
                seen.failure = None;
                seen.state = StoreState::Gone;
            }
            Done::Failed { reason, message, .. } => {
                let attempts = seen.failure.as_ref().filter(|f| f.action == action).map_or(0, |f| f.attempts);
                tracing::warn!(%uid, action = action.as_str(), reason = reason.as_str(), message, "an effect failed");
                seen.failure = Some(Failure {
                    action,
                    run: None,
                    reason,
                    message: message.clone(),
                    at: now.mono,
                    wall: now.wall,
                    attempts: attempts.saturating_add(1),
                });
                self.failed_event(uid, reason.as_str(), message);
            }
            _ => {}
        }
        None
    }

    /// The statuses of those objects that have no process; `None` for values, which have none.
    pub(super) fn store_statuses(&self, uids: &[Uid], now: &Now) -> Vec<(Uid, Option<StoreStatus>)> {
        let uses = Uses::new(&self.observed, &self.records);
        let status = |uid: &Uid| {
            let old = self.store_statuses.get(uid);
            let status = match self.desired.any_by_uid(uid)? {
                AnyDeclared::Volume(declared) => {
                    let old = match old {
                        Some(StoreStatus::Volume(old)) => Some(old),
                        _ => None,
                    };
                    let status = volume_status(&declared, &self.desired, &self.observed, &uses, old, now);
                    Some(StoreStatus::Volume(status))
                }
                AnyDeclared::Data(declared) => {
                    let old = match old {
                        Some(StoreStatus::Data(old)) => Some(old),
                        _ => None,
                    };
                    let status = data_status(&declared, &self.desired, &self.observed, &uses, old, now);
                    Some(StoreStatus::Data(status))
                }
                AnyDeclared::Values(_) => None,
                AnyDeclared::Container(_) => return None,
            };
            Some((uid.clone(), status))
        };
        uids.iter().filter_map(status).collect()
    }

    /// Another driver would mean other data: it is refused with the place of what is there.
    pub(super) fn driver_changed(&self, key: &ObjectKey, old: VolumeDriver, new: VolumeDriver) -> ApiError {
        let path = self.desired.uid_of(key).and_then(|uid| match self.store_statuses.get(&uid) {
            Some(StoreStatus::Volume(status)) => status.path.clone(),
            _ => None,
        });
        let place = path.map(|path| format!(" at {path}")).unwrap_or_default();
        ApiError::invalid(format!(
            "spec.driver: {key} cannot change from {} to {}: its data{place} stay with it; declare another Volume and copy \
             them, or delete this one first",
            old.as_str(),
            new.as_str()
        ))
    }
}
