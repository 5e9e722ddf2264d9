//! The Events that wait to be told.

use std::collections::VecDeque;

use stower_controllers::WrittenEvent;

/// How many wait at most. What the kubelet's own queue holds.
const MOST: usize = 1000;

/// An Event to be told.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Telling {
    pub(super) event: WrittenEvent,
    /// The server has been told of it before.
    pub(super) known: bool,
}

/// In the order in which they came; the oldest fall off when there are too many.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Telling>);

impl Queue {
    /// Adds one, and says how many fell off. One of the same name that still waits is brought up to date.
    pub(super) fn put(&mut self, telling: Telling) -> u64 {
        if let Some(waits) = self.0.iter_mut().find(|waits| waits.event.name == telling.event.name) {
            waits.event = telling.event;
            return 0;
        }
        self.0.push_back(telling);
        if self.0.len() <= MOST {
            return 0;
        }
        self.0.pop_front();
        1
    }

    /// Takes the one that waits longest.
    pub(super) fn take(&mut self) -> Option<Telling> {
        self.0.pop_front()
    }

    /// Puts one that could not be told back to where it was, and says how many fell off.
    pub(super) fn put_back(&mut self, telling: Telling) -> u64 {
        if let Some(newer) = self.0.iter_mut().find(|waits| waits.event.name == telling.event.name) {
            newer.known = telling.known;
            return 0;
        }
        if self.0.len() >= MOST {
            // It is the oldest.
            return 1;
        }
        self.0.push_front(telling);
        0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use stower_controllers::{About, Occurrence};

    use super::*;

    fn telling(name: &str, count: u32, known: bool) -> Telling {
        let word = |text: &str| text.to_owned();
        let about = About {
            api_version: word("stower.dev/v1alpha1"),
            kind: word("Container"),
            namespace: word("default"),
            name: word("web"),
            uid: word("u"),
        };
        let what = Occurrence { about, warning: false, reason: word("Started"), message: word("started") };
        let at = Timestamp::UNIX_EPOCH;
        Telling { event: WrittenEvent { name: word(name), what, count, first: at, last: at }, known }
    }

    #[test]
    fn one_that_waits_is_brought_up_to_date() {
        let mut queue = Queue::default();
        queue.put(telling("a", 1, false));
        queue.put(telling("b", 1, false));
        queue.put(telling("a", 2, true));
        assert_eq!(queue.take(), Some(telling("a", 2, false)), "it was never told");
        assert_eq!(queue.take(), Some(telling("b", 1, false)));
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn one_that_could_not_be_told_keeps_its_place_and_what_came_since() {
        let mut queue = Queue::default();
        queue.put(telling("a", 1, false));
        queue.put(telling("b", 1, false));
        let first = queue.take().unwrap();
        assert_eq!(queue.put_back(first.clone()), 0);
        assert_eq!(queue.take(), Some(first.clone()));
        queue.put(telling("a", 2, true));
        queue.put_back(first);
        assert_eq!(queue.take(), Some(telling("b", 1, false)));
        assert_eq!(
            queue.take(),
            Some(telling("a", 2, false)),
            "whether it arrived is not known, so it is made"
        );
    }

    #[test]
    fn the_oldest_fall_off() {
        let mut queue = Queue::default();
        let dropped: u64 = (0..MOST + 7).map(|n| queue.put(telling(&n.to_string(), 1, false))).sum();
        assert_eq!((dropped, queue.0.len()), (7, MOST));
        assert_eq!(queue.take().unwrap().event.name, "7");
        queue.put(telling("new", 1, false));
        assert_eq!(queue.put_back(telling("old", 1, false)), 1);
    }
}
