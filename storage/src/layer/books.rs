//! What has to be remembered until a layer's end. All of it is counted: a layer that compresses well must not make the
//! process grow without an end.

use std::collections::{BTreeMap, BTreeSet};

use super::meta::Meta;
use super::tar::Time;
use super::{LayerError, UnpackLimits};

/// What is known of a directory that this layer has to do with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DirState {
    pub(super) origin: Origin,
    /// Nothing that lower layers have in it shows.
    pub(super) opaque: bool,
    /// Nothing of a lower directory of this path counts, its owner and mode neither.
    pub(super) detached: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The layer has an entry for it.
    Explicit(Meta),
    /// It was there, with this time of modification.
    Touched(Time),
    /// Made because something lies in it.
    Made,
}

impl DirState {
    pub(super) fn touched(time: Time) -> Self {
        Self { origin: Origin::Touched(time), opaque: false, detached: false }
    }

    pub(super) fn made() -> Self {
        Self { origin: Origin::Made, opaque: false, detached: false }
    }
}

/// See the module. Paths are those of real directories, from the root down.
pub(super) struct Books<'a> {
    limits: &'a UnpackLimits,
    pub(super) dirs: BTreeMap<Vec<u8>, DirState>,
    /// Apart only: whiteouts that stand in the tree.
    pub(super) whiteouts: BTreeSet<Vec<u8>>,
    /// Apart only: every path at which a directory was ever implied. If a lower layer has a link there, all of it was
    /// resolved wrongly.
    pub(super) implied: BTreeSet<Vec<u8>>,
    entries: u64,
    held: u64,
}

/// A path in one of the collections takes about this beside its own bytes.
const OVERHEAD: usize = 128;

fn cost(path: &[u8], state: Option<&DirState>) -> u64 {
    let attributes = match state.map(|state| &state.origin) {
        Some(Origin::Explicit(meta)) => {
            meta.xattrs.iter().map(|(name, value)| name.as_bytes().len() + value.len() + OVERHEAD).sum()
        }
        _ => 0,
    };
    u64::try_from(path.len() + attributes + OVERHEAD).unwrap_or(u64::MAX)
}

impl<'a> Books<'a> {
    pub(super) fn new(root: DirState, limits: &'a UnpackLimits) -> Self {
        let dirs = BTreeMap::from([(Vec::new(), root)]);
        Self { limits, dirs, whiteouts: BTreeSet::new(), implied: BTreeSet::new(), entries: 0, held: 0 }
    }

    /// One more entry, or a directory that one implies.
    pub(super) fn count(&mut self) -> Result<(), LayerError> {
        self.entries += 1;
        if self.entries > self.limits.max_entries {
            return Err(LayerError::Limit { what: "entries", limit: self.limits.max_entries });
        }
        Ok(())
    }

    fn hold(&mut self, bytes: u64) -> Result<(), LayerError> {
        self.held = self.held.saturating_add(bytes);
        if self.held > self.limits.max_held {
            let what = "bytes of what is set last (names and attributes of directories, whiteouts)";
            return Err(LayerError::Limit { what, limit: self.limits.max_held });
        }
        Ok(())
    }

    fn let_go(&mut self, bytes: u64) {
        self.held = self.held.saturating_sub(bytes);
    }

    pub(super) fn set(&mut self, path: Vec<u8>, state: DirState) -> Result<(), LayerError> {
        let added = cost(&path, Some(&state));
        if let Some(before) = self.dirs.remove(&path) {
            self.let_go(cost(&path, Some(&before)));
        }
        self.hold(added)?;
        self.dirs.insert(path, state);
        Ok(())
    }

    /// The layer says itself what the directory is.
    pub(super) fn describe(&mut self, path: Vec<u8>, meta: Meta) -> Result<(), LayerError> {
        let before = self.dirs.get(&path).cloned().unwrap_or_else(DirState::made);
        self.set(path, DirState { origin: Origin::Explicit(meta), ..before })
    }

    pub(super) fn whiteout(&mut self, path: Vec<u8>) -> Result<(), LayerError> {
        self.hold(cost(&path, None))?;
        self.whiteouts.insert(path);
        Ok(())
    }

    pub(super) fn imply(&mut self, path: Vec<u8>) -> Result<(), LayerError> {
        if !self.implied.contains(&path) {
            self.hold(cost(&path, None))?;
            self.implied.insert(path);
        }
        Ok(())
    }

    /// The whiteout at `path` is gone.
    pub(super) fn unmark(&mut self, path: &[u8]) {
        if self.whiteouts.remove(path) {
            self.let_go(cost(path, None));
        }
    }

    /// The directory at `path` is gone, with all that was in it.
    pub(super) fn forget(&mut self, path: &[u8]) {
        let below = [path, b"/"].concat();
        let from = || std::ops::Bound::Included(below.clone());
        let range = || (from(), std::ops::Bound::Unbounded);
        let inside = |path: &&Vec<u8>| path.starts_with(&below);
        let mut dirs: Vec<_> =
            self.dirs.range(range()).map(|(path, _)| path).take_while(inside).cloned().collect();
        dirs.push(path.to_vec());
        for path in dirs {
            if let Some(state) = self.dirs.remove(&path) {
                self.let_go(cost(&path, Some(&state)));
            }
        }
        let whiteouts: Vec<_> = self.whiteouts.range(range()).take_while(inside).cloned().collect();
        for path in whiteouts {
            self.unmark(&path);
        }
    }
}
