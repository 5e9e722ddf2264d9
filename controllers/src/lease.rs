//! Who an agent of this name in the cluster is: the one that holds the Lease of the node's name.
//!
//! No clock is compared with another machine's: a holder lives as long as its Lease is seen to change, and has gone when it was
//! not seen to for as long as it holds.

use std::time::Duration;

use crate::time::Mono;

/// How long a Lease holds after it was renewed.
pub const LEASE_DURATION: Duration = Duration::from_secs(45);
/// How often it is renewed.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(15);
/// After what failed, it is tried again so much later at least.
const RETRY: Duration = Duration::from_secs(5);

/// A Lease, as the API server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it; empty for nobody.
    pub holder: String,
    /// How long it holds.
    pub duration: Duration,
    /// Its resource version.
    pub version: String,
    /// How often it went from one holder to another.
    pub transitions: u32,
}

/// What to do about the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseAct {
    /// Look at it.
    Get,
    /// Make it, held by this agent.
    Create,
    /// Renew it, or take it: an update of this version, and of no other.
    Update {
        /// The version that it must still have.
        version: String,
        /// The transitions to write.
        transitions: u32,
        /// Whether it was another one's, so that the time of the acquisition is now.
        acquired: bool,
    },
}

/// What the API server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// The Lease, as it was read, or as it is after it was written.
    Is(Lease),
    /// There is none.
    NotFound,
    /// It is not what it was when it was read.
    Conflict,
    /// No answer, or a refusal; perhaps with the least time to wait.
    Failed(Option<Duration>),
}

/// Who holds the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It was not heard yet.
    Unknown,
    /// This agent.
    Held,
    /// Another agent, which is alive.
    HeldBy(String),
}

/// Keeps the Lease of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseKeeper {
    identity: String,
    seen: Option<(Lease, Mono)>,
    standing: Standing,
    next: (LeaseAct, Mono),
}

impl LeaseKeeper {
    /// The keeper of an agent of this identity, which has heard nothing yet.
    pub fn new(identity: &str, now: Mono) -> Self {
        Self {
            identity: identity.to_owned(),
            seen: None,
            standing: Standing::Unknown,
            next: (LeaseAct::Get, now),
        }
    }

    /// Who holds it.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// What to do next, and when.
    pub fn next(&self) -> (&LeaseAct, Mono) {
        (&self.next.0, self.next.1)
    }

    /// Takes in an answer. `chance`, from 0 to 1, spreads what many agents do.
    pub fn heard(&mut self, answer: LeaseAnswer, now: Mono, chance: f64) {
        // From 0.95 to 1.05 of it, so that the mean is what is said.
        let spread = |by: Duration| now.plus(by.mul_f64(0.95 + 0.1 * chance.clamp(0.0, 1.0)));
        self.next = match answer {
            LeaseAnswer::Is(lease) => self.is(lease, now, spread(LEASE_RENEWAL)),
            LeaseAnswer::NotFound => {
                self.seen = None;
                (LeaseAct::Create, now)
            }
            LeaseAnswer::Conflict => {
                (LeaseAct::Get, now.plus(Duration::from_secs(1).mul_f64(chance.clamp(0.0, 1.0))))
            }
            // The holder goes on as such: only another holder ends that.
            LeaseAnswer::Failed(wait) => {
                // What was written may have arrived all the same.
                let wait = wait.unwrap_or_default().max(RETRY);
                (LeaseAct::Get, now.plus(wait.mul_f64(1.0 + chance.clamp(0.0, 1.0))))
            }
        };
    }

    fn is(&mut self, lease: Lease, now: Mono, later: Mono) -> (LeaseAct, Mono) {
        let version = lease.version.clone();
        let transitions = lease.transitions;
        if lease.holder == self.identity {
            // A write of its own is followed by the next renewal, what was read by one at once.
            let written = matches!(self.next.0, LeaseAct::Update { .. } | LeaseAct::Create);
            self.standing = Standing::Held;
            self.seen = Some((lease, now));
            let act = LeaseAct::Update { version, transitions, acquired: false };
            return (act, if written { later } else { now });
        }
        let take = LeaseAct::Update { version, transitions: transitions.saturating_add(1), acquired: true };
        if lease.holder.is_empty() {
            self.seen = Some((lease, now));
            return (take, now);
        }
        let since = match &self.seen {
            Some((seen, since)) if *seen == lease => *since,
            _ => now,
        };
        let runs_out = since.plus(lease.duration);
        if runs_out <= now {
            return (take, now);
        }
        self.standing = Standing::HeldBy(lease.holder.clone());
        self.seen = Some((lease, since));
        (LeaseAct::Get, later.min(runs_out))
    }
}

#[cfg(test)]
mod tests;
