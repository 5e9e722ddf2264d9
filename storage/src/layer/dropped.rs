//! Attributes that are dropped from a tree, told together: a layer may have a million of them, and the log has one line a kind.

use std::cell::RefCell;

use super::shown;

/// Why an attribute is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is one of overlayfs's own books, which no image may write.
    Overlay,
    /// The filesystem there does not take it.
    Unsupported,
}

/// How many there were, and which came first.
#[derive(Debug, Default)]
struct Tally {
    count: u64,
    path: String,
    attribute: String,
}

type Tallies = [Tally; 2];

thread_local! {
    /// Of the tree that this thread is writing.
    static UNDER_WAY: RefCell<Option<Tallies>> = const { RefCell::new(None) };
}

/// Writes a tree, and tells at the end what was dropped from it, however that ends.
pub(crate) fn together<T>(write: impl FnOnce() -> T) -> T {
    /// What was under way before.
    struct Tell(Option<Tallies>);
    impl Drop for Tell {
        fn drop(&mut self) {
            let ended = UNDER_WAY.with(|all| std::mem::replace(&mut *all.borrow_mut(), self.0.take()));
            for (why, tally) in [Why::Overlay, Why::Unsupported].into_iter().zip(ended.into_iter().flatten())
            {
                tell(why, &tally);
            }
        }
    }
    let _tell = Tell(UNDER_WAY.with(|all| all.replace(Some(Tallies::default()))));
    write()
}

/// Remembers that an attribute was dropped; tells it at once where no tree is being written.
pub(crate) fn note(why: Why, path: &[u8], attribute: &[u8]) {
    let first = || Tally { count: 1, path: shown(path), attribute: shown(attribute) };
    UNDER_WAY.with(|all| match &mut *all.borrow_mut() {
        Some(tallies) => match &mut tallies[why as usize] {
            tally if tally.count > 0 => tally.count += 1,
            tally => *tally = first(),
        },
        None => tell(why, &first()),
    });
}

fn tell(why: Why, tally: &Tally) {
    let Tally { count, path, attribute } = tally;
    match why {
        _ if *count == 0 => {}
        Why::Overlay => {
            tracing::warn!(
                count,
                path,
                attribute,
                "dropped extended attributes that are overlayfs's own; the first is named"
            );
        }
        Why::Unsupported => {
            tracing::warn!(
                count,
                path,
                attribute,
                "dropped extended attributes that this filesystem does not take; the first is named"
            );
        }
    }
}

#[cfg(test)]
mod tests;
