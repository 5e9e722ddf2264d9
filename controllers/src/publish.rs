//! What is written of objects to where others see it, and when: the newest state of each, not too often, and again until it is
//! taken.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use stower_crds::Uid;

use crate::{bucket::TokenBucket, time::Mono};

/// How often something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishLimits {
    /// For all objects together: how many at once, and one each so much time after them.
    pub all: (u32, Duration),
    /// For one object.
    pub each: (u32, Duration),
    /// How long a state is held back for the next one, which most often follows at once.
    pub settle: Duration,
}

/// A state, told from another one by a number that its content gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(pub u64);

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publish<S> {
    /// Write this, and tell [`Outbox::answered`].
    Write(Uid, S),
    /// Nothing before this moment; nothing at all without one, until a state is put.
    Wait(Option<Mono>),
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was taken.
    Taken,
    /// The object is not there any more, or another one has its name.
    Gone,
    /// The object was refused; to be tried again so much later, if nothing newer is put.
    Refused(Duration),
    /// Nobody takes anything at present; everything waits so long.
    Away(Duration),
}

/// The states that wait.
#[derive(Debug, Clone, PartialEq)]
pub struct Outbox<S> {
    limits: PublishLimits,
    bucket: TokenBucket,
    items: BTreeMap<Uid, Item<S>>,
    /// Those that have something to write, who waits longest first.
    turns: VecDeque<Uid>,
    /// Nothing is written before.
    closed_until: Mono,
    writing: Option<(Uid, Mark)>,
}

#[derive(Debug, Clone, PartialEq)]
struct Item<S> {
    /// What is there, as far as is known.
    taken: Option<Mark>,
    wanted: Option<(Mark, S)>,
    not_before: Mono,
    bucket: TokenBucket,
}

impl<S: Clone> Outbox<S> {
    /// One that has nothing to write.
    pub fn new(limits: PublishLimits) -> Self {
        let bucket = TokenBucket::new(limits.all.0, limits.all.1);
        let (items, turns) = (BTreeMap::new(), VecDeque::new());
        Self { limits, bucket, items, turns, closed_until: Mono::from_nanos(0), writing: None }
    }

    /// The newest state of an object. One that waits is replaced by it; one that is there already is not written again.
    pub fn put(&mut self, uid: &Uid, mark: Mark, state: S, now: Mono) {
        let writes = self.writing.as_ref().filter(|(writes, _)| writes == uid).map(|(_, mark)| *mark);
        let settle = self.limits.settle;
        let item = self.item(uid, now);
        if writes == Some(mark) {
            // It is on its way; kept, for the case that it does not arrive.
            item.wanted = Some((mark, state));
            return;
        }
        if writes.is_none() && item.taken == Some(mark) {
            item.wanted = None;
            self.turns.retain(|waits| waits != uid);
            return;
        }
        if item.wanted.as_ref().is_some_and(|(wanted, _)| *wanted == mark) {
            return;
        }
        // What is being written keeps its place until the answer.
        if item.wanted.replace((mark, state)).is_none() {
            item.not_before = item.not_before.max(now.plus(settle));
            self.turns.push_back(uid.clone());
        }
    }

    fn item(&mut self, uid: &Uid, now: Mono) -> &mut Item<S> {
        let (burst, every) = self.limits.each;
        let bucket = TokenBucket::new(burst, every);
        let fresh = || Item { taken: None, wanted: None, not_before: now, bucket };
        self.items.entry(uid.clone()).or_insert_with(fresh)
    }

    /// The server has this state of an object, whoever wrote it.
    pub fn is_there(&mut self, uid: &Uid, mark: Mark, now: Mono) {
        if self.writing.as_ref().is_none_or(|(writes, _)| writes != uid) {
            self.item(uid, now).taken = Some(mark);
        }
    }

    /// What is there is not known any more: what is put next is written, whatever was taken before.
    pub fn doubt(&mut self, uid: &Uid) {
        if let Some(item) = self.items.get_mut(uid) {
            item.taken = None;
        }
    }

    /// The object is gone; nothing of it is written any more.
    pub fn forget(&mut self, uid: &Uid) {
        self.items.remove(uid);
        self.turns.retain(|waits| waits != uid);
    }

    /// What to do next. One write at a time.
    pub fn next(&mut self, now: Mono) -> Publish<S> {
        if self.writing.is_some() || self.turns.is_empty() {
            return Publish::Wait(None);
        }
        let open = self.closed_until.max(self.bucket.ready_at());
        let due = |item: &Item<S>| item.not_before.max(item.bucket.ready_at());
        let soonest = self.turns.iter().filter_map(|uid| self.items.get(uid)).map(due).min();
        let wait = Publish::Wait(soonest.map(|soonest| soonest.max(open)));
        if open > now {
            return wait;
        }
        let ready = |uid: &Uid| self.items.get(uid).is_some_and(|item| due(item) <= now);
        let Some(at) = self.turns.iter().position(ready) else { return wait };
        let Some(uid) = self.turns.remove(at) else { return wait };
        let Some(item) = self.items.get_mut(&uid) else { return wait };
        let Some((mark, state)) = item.wanted.take() else { return wait };
        item.bucket.take(now);
        self.bucket.take(now);
        self.writing = Some((uid.clone(), mark));
        // Kept until it is taken, so that it can be tried again.
        item.wanted = Some((mark, state.clone()));
        Publish::Write(uid, state)
    }

    /// What became of the write that [`Outbox::next`] gave.
    pub fn answered(&mut self, answer: Answer, now: Mono) {
        let Some((uid, mark)) = self.writing.take() else { return };
        if answer == Answer::Gone {
            self.forget(&uid);
        }
        if let Answer::Away(wait) = answer {
            self.closed_until = now.plus(wait);
        }
        let Some(item) = self.items.get_mut(&uid) else { return };
        let newer = item.wanted.as_ref().is_some_and(|(wanted, _)| *wanted != mark);
        match answer {
            Answer::Taken => {
                item.taken = Some(mark);
                if !newer {
                    item.wanted = None;
                }
            }
            Answer::Refused(wait) if !newer => item.not_before = now.plus(wait),
            // Whether it was taken is not known.
            _ => item.taken = None,
        }
        if item.wanted.is_some() && !self.turns.contains(&uid) {
            self.turns.push_back(uid);
        }
    }

    /// How many objects wait to be written.
    pub fn waiting(&self) -> usize {
        self.turns.len()
    }
}

#[cfg(test)]
mod tests;
