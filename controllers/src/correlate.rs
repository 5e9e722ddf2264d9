//! Which Events are told to a cluster, and how: counted, combined and limited as the kubelet does it (`client-go/tools/record`).

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use crate::{bucket::TokenBucket, time::Mono};

/// What becomes the message of what stands for many.
const COMBINED: &str = "(combined from similar events): ";
/// The longest message, in bytes; the newer API of events takes no longer ones.
const MAX_MESSAGE: usize = 1024;
/// The longest part of an Event's name that its object gives.
const MAX_NAME: usize = 236;

/// How many Events there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLimits {
    /// For one object: how many at once, and one each so much time after them.
    pub each: (u32, Duration),
    /// From so many Events on that differ in their message only, they are told as one.
    pub similar: usize,
    /// As long as they follow each other this closely.
    pub within: Duration,
    /// How many objects, groups and Events are remembered.
    pub remembered: usize,
}

impl Default for EventLimits {
    /// Those of client-go.
    fn default() -> Self {
        Self {
            each: (25, Duration::from_secs(300)),
            similar: 10,
            within: Duration::from_secs(600),
            remembered: 4096,
        }
    }
}

/// The object of an Event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct About {
    /// Its `apiVersion`.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty for what is in none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Occurrence {
    /// To what.
    pub about: About,
    /// Whether it needs attention.
    pub warning: bool,
    /// A word in UpperCamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// An Event as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenEvent {
    /// The name of the Event.
    pub name: String,
    /// What it tells.
    pub what: Occurrence,
    /// How often it happened.
    pub count: u32,
    /// When first.
    pub first: Timestamp,
    /// When last.
    pub last: Timestamp,
}

/// What to do with something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventAct {
    /// Make an Event of it.
    Create(WrittenEvent),
    /// Count it with the Event that is there.
    Count(WrittenEvent),
    /// Nothing: its object has had too many.
    Limited,
}

/// Remembers what was told.
#[derive(Debug, Clone, PartialEq)]
pub struct Correlator {
    limits: EventLimits,
    told: Remembered<Occurrence, WrittenEvent>,
    groups: Remembered<Occurrence, Vec<String>>,
    buckets: Remembered<About, TokenBucket>,
    /// The number in the last name that was given.
    last_name: i128,
}

impl Correlator {
    /// One that has told nothing.
    pub fn new(limits: EventLimits) -> Self {
        let most = limits.remembered;
        Self {
            limits,
            told: Remembered::new(most),
            groups: Remembered::new(most),
            buckets: Remembered::new(most),
            last_name: 0,
        }
    }

    /// Takes in what happened. `now` is for intervals, `at` is written.
    pub fn observe(&mut self, mut what: Occurrence, now: Mono, at: Timestamp) -> EventAct {
        cut(&mut what.message, MAX_MESSAGE);
        let key = self.combined(&mut what, now);
        let (burst, every) = self.limits.each;
        let before = self.told.get(&key, now).cloned();
        let known = before.is_some();
        let event = match before {
            Some(before) => WrittenEvent { what, count: before.count.saturating_add(1), last: at, ..before },
            None => WrittenEvent { name: self.name(&what.about, at), what, count: 1, first: at, last: at },
        };
        let about = event.what.about.clone();
        self.told.put(key, event.clone(), now);
        let bucket = self.buckets.get(&about, now);
        let taken = match bucket {
            Some(bucket) => bucket.take(now),
            None => {
                let mut bucket = TokenBucket::new(burst, every);
                let taken = bucket.take(now);
                self.buckets.put(about, bucket, now);
                taken
            }
        };
        match (taken, known) {
            (false, _) => EventAct::Limited,
            (true, true) => EventAct::Count(event),
            (true, false) => EventAct::Create(event),
        }
    }

    /// Makes it one with those that are like it, where these are too many; gives what it is known by.
    fn combined(&mut self, what: &mut Occurrence, now: Mono) -> Occurrence {
        let group = Occurrence { message: String::new(), ..what.clone() };
        let within = self.limits.within;
        let mut messages = match self.groups.last(&group) {
            Some((last, messages)) if last.until(now) <= within => messages.clone(),
            _ => Vec::new(),
        };
        if !messages.contains(&what.message) {
            messages.push(what.message.clone());
        }
        let many = messages.len() >= self.limits.similar;
        if many {
            // The number stays, and the memory of it.
            messages.pop();
        }
        self.groups.put(group.clone(), messages, now);
        if !many {
            return what.clone();
        }
        what.message.insert_str(0, COMBINED);
        cut(&mut what.message, MAX_MESSAGE);
        group
    }

    fn name(&mut self, about: &About, at: Timestamp) -> String {
        self.last_name = at.as_nanosecond().max(self.last_name + 1);
        let mut name = about.name.clone();
        cut(&mut name, MAX_NAME);
        format!("{}.{:x}", name.trim_end_matches(['.', '-']), self.last_name)
    }
}

fn cut(text: &mut String, most: usize) {
    text.truncate(text.floor_char_boundary(most));
}

/// A map that forgets what was not used for longest when it is full.
#[derive(Debug, Clone, PartialEq)]
struct Remembered<K, V> {
    most: usize,
    items: BTreeMap<K, (Mono, V)>,
}

impl<K: Ord + Clone, V> Remembered<K, V> {
    fn new(most: usize) -> Self {
        Self { most: most.max(1), items: BTreeMap::new() }
    }

    fn get(&mut self, key: &K, now: Mono) -> Option<&mut V> {
        let (used, value) = self.items.get_mut(key)?;
        *used = now;
        Some(value)
    }

    fn last(&self, key: &K) -> Option<(Mono, &V)> {
        self.items.get(key).map(|(used, value)| (*used, value))
    }

    fn put(&mut self, key: K, value: V, now: Mono) {
        if self.items.len() >= self.most && !self.items.contains_key(&key) {
            let oldest = self.items.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.items.remove(&oldest);
            }
        }
        self.items.insert(key, (now, value));
    }
}

#[cfg(test)]
mod tests;
