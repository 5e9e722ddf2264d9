//! What happened, for people: Kubernetes-style events, counted instead of repeated, and bounded.

use std::{collections::VecDeque, sync::Mutex};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::broadcast;

/// How many events are kept.
const KEPT: usize = 1000;

/// One event, as the local API shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    /// The object's namespace.
    pub namespace: String,
    /// The object's kind, such as `Container`.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// `Normal` or `Warning`.
    #[serde(rename = "type")]
    pub type_: EventType,
    /// A word in UpperCamelCase, such as `Pulled`.
    pub reason: String,
    /// What happened, for a person.
    pub message: String,
    /// How often it happened.
    pub count: u32,
    /// When it first happened.
    pub first_seen: Timestamp,
    /// When it last happened.
    pub last_seen: Timestamp,
}

impl EventView {
    /// An event of a node, now.
    #[must_use]
    pub(crate) fn of_node(name: String, type_: EventType, reason: &str, message: String) -> Self {
        Self::now(("default".to_owned(), "Node", name), type_, reason, message)
    }

    /// An event of what has this namespace, kind and name, now.
    #[must_use]
    pub(crate) fn now(
        (namespace, kind, name): (String, &str, String),
        type_: EventType,
        reason: &str,
        message: String,
    ) -> Self {
        let now = Timestamp::now();
        Self {
            namespace,
            kind: kind.to_owned(),
            name,
            type_,
            reason: reason.to_owned(),
            message,
            count: 1,
            first_seen: now,
            last_seen: now,
        }
    }
}

/// Whether an event needs attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum EventType {
    /// As expected.
    Normal,
    /// Something to look at.
    Warning,
}

/// The last events of this agent.
#[derive(Debug)]
pub struct EventLog {
    kept: Mutex<VecDeque<EventView>>,
    feed: broadcast::Sender<EventView>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self { kept: Mutex::default(), feed: broadcast::channel(256).0 }
    }
}

impl EventLog {
    /// Adds an event, or counts it when the same one is among the kept.
    pub fn add(&self, mut event: EventView) {
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let same = |old: &EventView| {
            (&old.namespace, &old.kind, &old.name, &old.reason, &old.message)
                == (&event.namespace, &event.kind, &event.name, &event.reason, &event.message)
        };
        if let Some(old) = kept.iter().position(same).and_then(|at| kept.remove(at)) {
            event.count = old.count.saturating_add(event.count);
            event.first_seen = old.first_seen;
        } else if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        drop(kept);
        let _ = self.feed.send(event);
    }

    /// All that are kept, the most recent last.
    #[must_use]
    pub fn all(&self) -> Vec<EventView> {
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter().cloned().collect()
    }

    /// Those to come.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<EventView> {
        self.feed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, second: i64) -> EventView {
        let at = Timestamp::from_second(second).unwrap();
        EventView {
            namespace: "default".into(),
            kind: "Container".into(),
            name: name.into(),
            type_: EventType::Normal,
            reason: "Started".into(),
            message: "started".into(),
            count: 1,
            first_seen: at,
            last_seen: at,
        }
    }

    #[test]
    fn the_same_event_is_counted_and_moves_to_the_end() {
        let log = EventLog::default();
        for (name, second) in [("a", 1), ("b", 2), ("a", 3)] {
            log.add(event(name, second));
        }
        let seen: Vec<_> = log
            .all()
            .into_iter()
            .map(|e| (e.name, e.count, e.first_seen.as_second(), e.last_seen.as_second()))
            .collect();
        assert_eq!(seen, [("b".into(), 1, 2, 2), ("a".into(), 2, 1, 3)]);
    }

    #[test]
    fn the_log_is_bounded() {
        let log = EventLog::default();
        for n in 0..KEPT + 10 {
            log.add(event(&n.to_string(), 1));
        }
        assert_eq!(log.all().len(), KEPT);
        assert_eq!(log.all()[0].name, "10");
    }
}
