//! Where the power is cut, and what is certain by then.

use crate::log_writes::{Entry, flag};

/// What the log begins its telling part with.
pub(super) const BEGIN: &str = "begin";

/// The power fails when so many entries of the log have reached the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// The number of entries.
    pub(super) after: usize,
    /// What kind of moment it is.
    pub(super) moment: Moment,
}

/// Kinds of moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// A flush (or a write past the cache) has just reached the disk.
    Flushed,
    /// All but the last of what that was for has.
    Unflushed,
    /// Any.
    Between,
}

/// `count` different cuts after the last mark [`BEGIN`], fewer only where the log has no more: pairs at flushes drawn by `seed`, just
/// after each and without the entry before it; then any.
pub(super) fn choose(entries: &[Entry], count: usize, seed: u64) -> Vec<Cut> {
    let first = entries.iter().rposition(|entry| entry.mark.as_deref() == Some(BEGIN)).map_or(0, |at| at + 1);
    let mut random = Random(seed);
    let is_flush = |at: &usize| entries[*at].has(flag::FLUSH | flag::FUA);
    let mut flushes: Vec<_> = (first..entries.len()).filter(is_flush).collect();
    random.shuffle(&mut flushes);
    let mut cuts: Vec<Cut> = Vec::new();
    let mut add = |after: usize, moment| {
        if cuts.len() < count && after >= first && !cuts.iter().any(|cut| cut.after == after) {
            cuts.push(Cut { after, moment });
        }
    };
    for at in flushes {
        add(at + 1, Moment::Flushed);
        if let Some(before) = entries[..at].iter().rposition(|entry| entry.sectors > 0) {
            add(before, Moment::Unflushed);
        }
    }
    let mut others: Vec<_> = (first..=entries.len()).collect();
    random.shuffle(&mut others);
    for after in others {
        add(after, Moment::Between);
    }
    cuts.sort_by_key(|cut| cut.after);
    cuts
}

/// What is certain after marks in this order: what a mark `+WHAT` has said and no `-WHAT` has taken back.
pub(super) fn certain<'a>(marks: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut certain = Vec::new();
    for mark in marks {
        if let Some(what) = mark.strip_prefix('+') {
            certain.push(what);
        } else if let Some(what) = mark.strip_prefix('-') {
            certain.retain(|other| *other != what);
        }
    }
    certain
}

/// What may be after marks in this order: what `~STEP=WHAT` has begun and no `+WHAT` has ended.
pub(super) fn begun<'a>(marks: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut begun = Vec::new();
    for mark in marks {
        if let Some((_, what)) = mark.strip_prefix('~').and_then(|step| step.split_once('=')) {
            begun.push(what);
        } else if let Some(what) = mark.strip_prefix('+') {
            begun.retain(|other| *other != what);
        }
    }
    begun
}

/// What the storage's work was at after marks in this order: a step of it, `remove`, or `between` two.
pub(super) fn step<'a>(marks: impl DoubleEndedIterator<Item = &'a str>) -> &'a str {
    for mark in marks.rev() {
        let (kind, rest) = mark.split_at(mark.len().min(1));
        let is_storage = ["image:", "volume:"].iter().any(|what| rest.starts_with(what));
        match (kind, rest.split_once('=')) {
            // The journals' own.
            ("~", Some(("put" | "take", _))) => {}
            ("~", Some((step, _))) => return step,
            ("-", _) if is_storage => return "remove",
            ("+", _) if is_storage => break,
            _ => {}
        }
    }
    "between"
}

/// splitmix64: the same numbers for a seed, for ever.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    /// Below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let other = self.below(end as u64 + 1);
            items.swap(end, usize::try_from(other).unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests;
