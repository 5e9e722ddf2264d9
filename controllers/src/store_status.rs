//! What is said of Volumes and DataContainers.

use std::collections::BTreeSet;

use stower_crds::{
    Condition, ConditionStatus, ConditionType, Conditions, DataContainerSpec, DataContainerStatus,
    DataVolumeStatus, Generation, Quantity, Reason, Time, VolumePhase, VolumeSpec, VolumeStatus,
};

use crate::{
    desired::{Declared, Desired},
    observed::Observed,
    resolve::{Trouble, data_ready},
    store::{ObservedStores, StoreFacts, StoreState, Uses, unsupported, users_of},
    time::Now,
};

/// What is to be said of whether it can be mounted.
struct Told {
    phase: VolumePhase,
    ready: ConditionStatus,
    reason: Reason,
    message: String,
}

impl Told {
    fn ready() -> Self {
        let reason = Reason::from("Ready");
        Self { phase: VolumePhase::Ready, ready: ConditionStatus::True, reason, message: String::new() }
    }

    /// It can be mounted, though not all is as declared.
    fn kept(message: String) -> Self {
        Self { reason: Reason::from("CannotShrink"), message, ..Self::ready() }
    }

    fn waits(phase: VolumePhase, reason: Reason, message: String) -> Self {
        Self { phase, ready: ConditionStatus::False, reason, message }
    }
}

/// Says what is seen of a Volume.
pub fn volume_status(
    declared: &Declared<VolumeSpec>,
    desired: &Desired,
    observed: &Observed,
    uses: &Uses<'_>,
    old: Option<&VolumeStatus>,
    now: &Now,
) -> VolumeStatus {
    let seen = observed.stores.get(&declared.uid);
    let mut status = old.cloned().unwrap_or_default();
    let users = users_of(declared, desired, uses);
    let told = match seen.map(|seen| (&seen.state, &seen.failure)) {
        _ if declared.terminating => removed(&users),
        _ if unsupported(&declared.spec).is_some() => {
            let why = unsupported(&declared.spec).unwrap_or_default();
            Told::waits(VolumePhase::Failed, Reason::CreateContainerConfigError, why)
        }
        Some((StoreState::Made { generation, stores }, _)) if *generation == declared.generation => {
            match stores.first().and_then(|facts| larger(facts, declared.spec.capacity.as_ref())) {
                Some(why) => Told::kept(format!("its {why}")),
                None => Told::ready(),
            }
        }
        Some((_, Some(failure))) => {
            Told::waits(VolumePhase::Failed, failure.reason.as_str().into(), failure.message.clone())
        }
        _ => Told::waits(VolumePhase::Pending, Reason::from("Making"), "it is being made".to_owned()),
    };
    if let Some(facts) = stores(seen).first() {
        status.path = Some(facts.path.clone());
        status.capacity = facts.capacity.map(Quantity::from_bytes);
        status.capacity_enforced = facts.capacity_enforced;
    }
    status.users = users.into_iter().collect();
    status.observed_generation = Some(declared.generation);
    status.phase = told.phase;
    conditions(&mut status.conditions, declared.generation, told, now);
    status
}

/// Says what is seen of a DataContainer.
pub fn data_status(
    declared: &Declared<DataContainerSpec>,
    desired: &Desired,
    observed: &Observed,
    uses: &Uses<'_>,
    old: Option<&DataContainerStatus>,
    now: &Now,
) -> DataContainerStatus {
    let seen = observed.stores.get(&declared.uid);
    let mut status = old.cloned().unwrap_or_default();
    let users = users_of(declared, desired, uses);
    let told = if declared.terminating {
        removed(&users)
    } else {
        match data_ready(declared, desired, observed) {
            Ok(()) => {
                let wanted = declared.spec.volumes.iter().map(|volume| volume.capacity.as_ref());
                let kept = wanted.zip(stores(seen)).zip(&declared.spec.volumes).filter_map(
                    |((wanted, facts), it)| {
                        Some(format!("{}: its {}", it.mount_path, larger(facts, wanted)?))
                    },
                );
                let kept: Vec<String> = kept.collect();
                if kept.is_empty() { Told::ready() } else { Told::kept(kept.join("; ")) }
            }
            Err(Trouble { phase, reason, message }) => Told::waits(phase, reason, message),
        }
    };
    let facts = stores(seen);
    let volume = |(at, volume): (usize, &stower_crds::DataVolume)| {
        let facts: Option<&StoreFacts> = facts.get(at);
        DataVolumeStatus {
            mount_path: volume.mount_path.clone(),
            path: facts.map(|facts| facts.path.clone()),
            volume: volume.volume.clone(),
            filled_from: facts.and_then(|facts| facts.filled_from.as_ref()).map(ToString::to_string),
        }
    };
    status.volumes = declared.spec.volumes.iter().enumerate().map(volume).collect();
    status.image = status.volumes.iter().find_map(|volume| volume.filled_from.clone());
    status.users = users.into_iter().collect();
    status.observed_generation = Some(declared.generation);
    status.phase = told.phase;
    conditions(&mut status.conditions, declared.generation, told, now);
    status
}

fn stores(seen: Option<&ObservedStores>) -> &[StoreFacts] {
    match seen.map(|seen| &seen.state) {
        Some(StoreState::Made { stores, .. }) => stores,
        _ => &[],
    }
}

/// A store can be used while it may hold more than is declared.
fn larger(facts: &StoreFacts, wanted: Option<&Quantity>) -> Option<String> {
    let (have, wanted) = (facts.capacity?, wanted?);
    let have = (have > wanted.units()?).then(|| Quantity::from_bytes(have))?;
    Some(format!("capacity is {have} and cannot shrink to {wanted}"))
}

fn removed(users: &BTreeSet<String>) -> Told {
    let message = if users.is_empty() {
        "it is being removed".to_owned()
    } else {
        format!("it is removed when {} no longer use it", crate::store::list(users))
    };
    Told::waits(VolumePhase::Pending, Reason::from("Terminating"), message)
}

fn conditions(conditions: &mut Conditions, generation: Generation, told: Told, now: &Now) {
    let mut set = |type_, status, reason, message| {
        let observed_generation = Some(generation);
        let last_transition_time = Time(now.wall);
        conditions.set(Condition {
            type_,
            status,
            observed_generation,
            last_transition_time,
            reason,
            message,
        });
    };
    set(ConditionType::Accepted, ConditionStatus::True, Reason::Accepted, String::new());
    set(ConditionType::Ready, told.ready, told.reason, told.message);
}
