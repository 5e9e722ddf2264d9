//! Probes: when each is asked next, and what its answers mean.
//!
//! ```text
//!  run, spec, what was kept ─► Prober ─► due() ─► ProbeType, Ticket ─► the agent asks
//!                                ▲ │                                      │
//!                      answered(outcome) ◄──────────────────────────────────┘
//!                                  └► ProbeFacts ─► ObservedContainer ─► plan, status
//! ```
//!
//! The rules are kubelet's. Until the startup probe has succeeded no other is asked. A result counts once it was given as
//! often in a row as its threshold says; what could not be asked counts for nothing. Failed liveness or startup ends the
//! asking of both until there is another run. A prober belongs to one run; what must outlive the agent is [`KeptProbes`].

mod line;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stower_crds::{ContainerSpec, Probe, ProbeResult, ProbeStatus, ProbeType, Uid};

use self::line::{Line, Verdict};
use crate::{
    observed::Run,
    restart::mix,
    time::{Mono, Now},
};

/// The most characters of an answer that are kept for people.
const MAX_MESSAGE: usize = 1024;

/// What one probe came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// It succeeded.
    Success,
    /// It succeeded, and a person should hear of something.
    Warning(String),
    /// It failed, or was not answered in time.
    Failure(String),
    /// It could not be asked. That says nothing of the program, and counts for nothing.
    Unknown(String),
}

/// What is known of a run by its probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFacts {
    /// The run.
    pub run: Run,
    /// Its startup probe has succeeded, or there is none.
    pub started: bool,
    /// Its readiness probe succeeds, or there is none; only where it has started too.
    pub ready: bool,
    /// The probe because of which the run is to be ended.
    pub failed: Option<ProbeFailure>,
    /// What each said last.
    pub last: Vec<ProbeStatus>,
}

impl ProbeFacts {
    /// What is known of a run that nothing was asked of: it has started and is ready as far as no probe says when.
    pub fn untold(spec: &ContainerSpec, run: Run) -> Self {
        let started = spec.startup_probe.is_none();
        let ready = started && spec.readiness_probe.is_none();
        Self { run, started, ready, failed: None, last: Vec::new() }
    }
}

/// A liveness or startup probe that failed as often as it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFailure {
    /// Which.
    pub probe: ProbeType,
    /// What it said last.
    pub message: String,
}

/// What a prober must know after the agent has died, so that nothing is said anew of a run that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptProbes {
    /// The run.
    pub run: Run,
    /// Its startup probe has succeeded.
    pub started: bool,
    /// What its readiness probe said.
    pub ready: bool,
}

/// Something to tell people, in kubelet's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeEvent {
    /// `Unhealthy` or `ProbeWarning`.
    pub reason: &'static str,
    /// What happened.
    pub message: String,
}

/// Names one asking, so that an answer to a question that is no longer put is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u32);

/// A run whose probes are to be asked.
#[derive(Debug, Clone, Copy)]
pub struct Probed<'a> {
    /// Whose.
    pub uid: &'a Uid,
    /// Which.
    pub run: Run,
    /// When it started.
    pub started_at: Timestamp,
    /// An earlier agent had it: first probes are spread over a period, and what was kept goes on to hold.
    pub adopted: bool,
    /// What was kept of it.
    pub kept: Option<KeptProbes>,
}

/// The state of the probes of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Prober {
    run: Run,
    /// Parts of a period by which the first probe of an adopted run is put off, of 1000, for each probe.
    spread: Option<[u64; 3]>,
    started_at: Mono,
    started: bool,
    /// What the readiness probe says, or true without one.
    ready: bool,
    failed: Option<ProbeFailure>,
    stopping: bool,
    lines: [Line; 3],
}

impl Prober {
    /// Begins with a run. Its state is new, but for what was kept of this very run.
    pub fn new(probed: &Probed<'_>, spec: &ContainerSpec, now: &Now) -> Self {
        let Probed { uid, run, started_at, adopted, kept } = *probed;
        let kept = kept.filter(|kept| kept.run == run);
        // The wall clock may have been set; a run has never started later than now.
        let ago = Duration::try_from(now.wall.duration_since(started_at)).unwrap_or_default();
        let spread = adopted.then(|| {
            let parts = mix(uid, run);
            [parts, parts >> 16, parts >> 32].map(|parts| (parts & 0xffff) % 1000)
        });
        let mut prober = Self {
            run,
            spread,
            started_at: now.mono.minus(ago),
            started: spec.startup_probe.is_none() || kept.is_some_and(|kept| kept.started),
            ready: spec.readiness_probe.is_none() || kept.is_some_and(|kept| kept.ready),
            failed: None,
            stopping: false,
            lines: Default::default(),
        };
        for type_ in ProbeType::ALL {
            prober.lines[index(type_)].probe = probe_of(spec, type_).cloned();
        }
        prober.schedule(now.mono);
        prober
    }

    /// The run it is about.
    pub fn run(&self) -> Run {
        self.run
    }

    /// A probe, while the spec has it.
    pub fn probe(&self, type_: ProbeType) -> Option<&Probe> {
        self.lines[index(type_)].probe.as_ref()
    }

    /// Takes over another spec of the same run. An edit alone changes nothing of what holds: whoever had started stays so,
    /// and readiness is as it was until the new probe says otherwise.
    pub fn change(&mut self, spec: &ContainerSpec, now: Mono) {
        for type_ in ProbeType::ALL {
            let probe = probe_of(spec, type_);
            let line = &mut self.lines[index(type_)];
            if line.probe.as_ref() != probe {
                line.begin_anew(probe.cloned());
            }
        }
        self.started |= spec.startup_probe.is_none();
        self.ready |= spec.readiness_probe.is_none();
        // Whoever puts it off by editing has it asked at once.
        self.spread = None;
        self.schedule(now);
    }

    /// The run is being stopped: liveness and startup have nothing more to say, readiness goes on to the end.
    pub fn stop(&mut self) {
        self.stopping = true;
        for type_ in [ProbeType::Startup, ProbeType::Liveness] {
            self.lines[index(type_)].silence();
        }
    }

    /// The probes to ask now. Each is out until it is [`answered`](Self::answered): asked once only.
    pub fn due(&mut self, now: Mono) -> Vec<(ProbeType, Ticket)> {
        let ask = |type_| Some((type_, Ticket(self.lines[index(type_)].ask(now)?)));
        ProbeType::ALL.into_iter().filter_map(ask).collect()
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Mono> {
        self.lines.iter().filter_map(|line| line.due).min()
    }

    /// Takes in what came of a probe; gives what people should hear of it.
    pub fn answered(
        &mut self,
        type_: ProbeType,
        ticket: Ticket,
        outcome: ProbeOutcome,
        now: Mono,
    ) -> Option<ProbeEvent> {
        let line = &mut self.lines[index(type_)];
        if !line.answer(ticket.0, now) {
            return None;
        }
        let event = match &outcome {
            ProbeOutcome::Success => None,
            ProbeOutcome::Warning(text) => Some(("ProbeWarning", "warning", text)),
            ProbeOutcome::Failure(text) => Some(("Unhealthy", "failed", text)),
            ProbeOutcome::Unknown(text) => Some(("Unhealthy", "errored and resulted in unknown state", text)),
        };
        let event = event.map(|(reason, what, text)| ProbeEvent {
            reason,
            message: format!("{} probe {what}: {}", type_.as_str(), clip(text)),
        });
        match (line.count(outcome), type_) {
            (Some(Verdict::Good), ProbeType::Startup) => {
                self.started = true;
                line.silence();
                self.schedule(now);
            }
            (Some(Verdict::Bad(message)), ProbeType::Startup | ProbeType::Liveness) => {
                self.failed = Some(ProbeFailure { probe: type_, message });
                self.lines[index(ProbeType::Startup)].silence();
                self.lines[index(ProbeType::Liveness)].silence();
            }
            (Some(verdict), ProbeType::Readiness) => self.ready = matches!(verdict, Verdict::Good),
            (Some(Verdict::Good), ProbeType::Liveness) | (None, _) => {}
        }
        event
    }

    /// What is known.
    pub fn facts(&self) -> ProbeFacts {
        let last = ProbeType::ALL.into_iter().filter_map(|type_| self.lines[index(type_)].status(type_));
        ProbeFacts {
            run: self.run,
            started: self.started,
            ready: self.started && self.ready,
            failed: self.failed.clone(),
            last: last.collect(),
        }
    }

    /// What another agent must know of it.
    pub fn kept(&self) -> KeptProbes {
        KeptProbes { run: self.run, started: self.started, ready: self.ready }
    }

    /// Gives each probe that may be asked a time, where it has none yet.
    fn schedule(&mut self, now: Mono) {
        for type_ in ProbeType::ALL {
            let wanted = match type_ {
                ProbeType::Startup => !self.started && self.failed.is_none() && !self.stopping,
                ProbeType::Liveness => self.started && self.failed.is_none() && !self.stopping,
                ProbeType::Readiness => self.started,
            };
            let (spread, started_at) = (self.spread.map(|spread| spread[index(type_)]), self.started_at);
            let line = &mut self.lines[index(type_)];
            let Some(probe) = line.probe.as_ref().filter(|_| wanted) else { continue };
            if line.is_idle() {
                let delay = Duration::from_secs(probe.initial_delay_seconds.into());
                let period = Duration::from_secs(probe.period().into());
                let spread = spread.map_or(Duration::ZERO, |parts| {
                    period.mul_f64(f64::from(u32::try_from(parts).unwrap_or(0)) / 1000.0)
                });
                line.due = Some(started_at.plus(delay).max(now.plus(spread)));
            }
        }
    }
}

/// A probe of a spec.
fn probe_of(spec: &ContainerSpec, type_: ProbeType) -> Option<&Probe> {
    match type_ {
        ProbeType::Startup => spec.startup_probe.as_ref(),
        ProbeType::Liveness => spec.liveness_probe.as_ref(),
        ProbeType::Readiness => spec.readiness_probe.as_ref(),
    }
}

/// How long a container has to end itself after a probe failed: the probe's word wins over the spec's.
pub(crate) fn grace_after(spec: &ContainerSpec, type_: ProbeType) -> Option<Duration> {
    let seconds = probe_of(spec, type_)?.termination_grace_period_seconds?;
    Some(Duration::from_secs(seconds.into()))
}

fn index(type_: ProbeType) -> usize {
    match type_ {
        ProbeType::Startup => 0,
        ProbeType::Liveness => 1,
        ProbeType::Readiness => 2,
    }
}

/// As much of a text as people need.
fn clip(text: &str) -> String {
    let text = text.trim_end();
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// How a probe's last word is shown.
fn status(type_: ProbeType, result: ProbeResult, failures: u32, message: &str) -> ProbeStatus {
    let message = Some(message.to_owned()).filter(|message| !message.is_empty());
    ProbeStatus { type_, result, failures, message }
}
