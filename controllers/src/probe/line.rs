//! One probe of one run.

use std::time::Duration;

use stower_crds::{Probe, ProbeResult, ProbeStatus, ProbeType};

use super::{ProbeOutcome, clip, status};
use crate::time::Mono;

/// Its threshold is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts as a success.
    Good,
    /// It counts as a failure, with what was said last.
    Bad(String),
}

/// When a probe is asked, and what it said.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Line {
    pub(super) probe: Option<Probe>,
    /// When it is asked next; `None` while it is asked, or not to be.
    pub(super) due: Option<Mono>,
    /// When it was asked, until it has answered.
    asked: Option<Mono>,
    ticket: u32,
    /// The last result that counts, and how often in a row it was given.
    last: Option<(bool, u32)>,
    /// The last result of all.
    shown: Option<(ProbeResult, String)>,
}

impl Line {
    /// Another probe in its place: what was said of the old one is passed over.
    pub(super) fn begin_anew(&mut self, probe: Option<Probe>) {
        *self = Self { probe, ticket: self.ticket.wrapping_add(1), ..Self::default() };
    }

    /// Whether nothing is to happen to it, so that it can be given a time.
    pub(super) fn is_idle(&self) -> bool {
        self.due.is_none() && self.asked.is_none()
    }

    /// The ticket of a question that is to be put now; then it is out.
    pub(super) fn ask(&mut self, now: Mono) -> Option<u32> {
        self.due.filter(|due| *due <= now)?;
        (self.due, self.asked) = (None, Some(now));
        self.ticket = self.ticket.wrapping_add(1);
        Some(self.ticket)
    }

    /// An answer has come. False when it is one to a question that is no longer put.
    pub(super) fn answer(&mut self, ticket: u32, now: Mono) -> bool {
        if ticket != self.ticket {
            return false;
        }
        let (Some(asked), Some(probe)) = (self.asked.take(), &self.probe) else { return false };
        // Counted from the question, as a ticker would; one that takes longer than a period is asked again at once.
        self.due = Some(asked.plus(Duration::from_secs(probe.period().into())).max(now));
        true
    }

    /// It is not asked any more, and what it still says is passed over.
    pub(super) fn silence(&mut self) {
        (self.due, self.asked) = (None, None);
        self.ticket = self.ticket.wrapping_add(1);
    }

    /// Counts a result; a verdict once there were enough of them.
    pub(super) fn count(&mut self, outcome: ProbeOutcome) -> Option<Verdict> {
        let probe = self.probe.as_ref()?;
        let (good, message) = match outcome {
            ProbeOutcome::Success => (true, String::new()),
            ProbeOutcome::Warning(text) => (true, clip(&text)),
            ProbeOutcome::Failure(text) => (false, clip(&text)),
            ProbeOutcome::Unknown(text) => {
                self.shown = Some((ProbeResult::Unknown, clip(&text)));
                return None;
            }
        };
        let (threshold, result) = if good {
            (probe.successes(), ProbeResult::Success)
        } else {
            (probe.failures(), ProbeResult::Failure)
        };
        let before = self.last.filter(|(last, _)| *last == good).map_or(0, |(_, times)| times);
        // More than enough is enough, so that one that fails for ever stays as it is.
        let times = before.saturating_add(1).min(threshold);
        self.last = Some((good, times));
        self.shown = Some((result, message.clone()));
        (times >= threshold).then_some(if good { Verdict::Good } else { Verdict::Bad(message) })
    }

    /// What it said last, if it has.
    pub(super) fn status(&self, type_: ProbeType) -> Option<ProbeStatus> {
        let (result, message) = self.shown.as_ref()?;
        let failures = self.last.filter(|(good, _)| !good).map_or(0, |(_, times)| times);
        Some(status(type_, *result, failures, message))
    }
}
