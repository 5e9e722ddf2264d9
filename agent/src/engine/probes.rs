//! Probes: who is asked, and what is heard of it.

use stower_controllers::{ActionKind, ProbeEvent, ProbeFacts, ProcessState, Run};
use stower_crds::Uid;

use super::Engine;
use crate::probe::Wanted;

impl Engine {
    /// Brings the asking of probes in line with what runs. `adopted`: an earlier agent began it.
    pub(super) fn follow_probes(&mut self, uids: &[Uid], adopted: bool) {
        for uid in uids {
            let wanted = self.to_be_probed(uid, adopted);
            let none = wanted.as_ref().is_none_or(|wanted| !crate::probe::has_probes(&wanted.spec));
            let begun = self.probes.follow(&self.effects, uid, wanted);
            if let Some(seen) = self.observed.containers.get_mut(uid)
                && (begun.is_some() || none)
            {
                seen.probes = begun;
            }
        }
    }

    /// What runs, by the spec that it runs with.
    fn to_be_probed(&self, uid: &Uid, adopted: bool) -> Option<Wanted> {
        let seen = self.observed.containers.get(uid)?;
        let ProcessState::Running { run, started_at, stopping, .. } = &seen.process else { return None };
        let record = self.record(uid)?;
        let launch = record.launch.as_ref().filter(|launch| launch.run == *run)?;
        Some(Wanted {
            key: record.key.clone(),
            run: *run,
            started_at: *started_at,
            spec: launch.spec.clone(),
            stopping: stopping.is_some() || seen.in_flight == Some(ActionKind::Stop),
            adopted,
        })
    }

    /// Takes in what the probes of a run say.
    pub(super) fn probed(&mut self, uid: &Uid, run: Run, facts: ProbeFacts, events: Vec<ProbeEvent>) {
        let Some(seen) = self.observed.containers.get_mut(uid) else { return };
        // What a run said last may come after its end.
        if !matches!(&seen.process, ProcessState::Running { run: running, .. } if *running == run) {
            return;
        }
        let facts = Some(facts);
        if seen.probes != facts {
            seen.probes = facts;
            self.dirty.insert(uid.clone());
        }
        for ProbeEvent { reason, message } in events {
            self.failed_event(uid, reason, message);
        }
    }
}
