//! What a container may write to its root filesystem: what it should be, what it is, and whether the one can become the
//! other while there is the layer.

use stower_crds::{ContainerSpec, Quantity, Reason};

use crate::observed::{ObservedContainer, RootfsState};

/// The limit of a writable layer, as its driver tells it. Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerLimit {
    /// The most that can be written; `None` for as much as there is.
    pub bytes: Option<u64>,
    /// What it would be if none had been asked for.
    pub without: Option<u64>,
    /// The driver rounds limits to a multiple of this.
    pub block: u64,
    /// What can become of it.
    pub change: LimitChange,
}

/// How the limit of a layer that is there can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitChange {
    /// In any way.
    Any,
    /// It can become larger.
    Grow,
    /// Not at all; a new layer has any.
    Fresh,
    /// The driver has none.
    Never,
}

/// Why a limit stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

/// The limit that a spec asks for, in bytes.
pub(crate) fn wanted(spec: &ContainerSpec) -> Option<u64> {
    spec.resources.limits.ephemeral_storage.as_ref().and_then(Quantity::units)
}

impl LayerLimit {
    /// Whether this is what was asked for.
    pub(crate) fn is(&self, want: Option<u64>) -> bool {
        match (self.bytes, want) {
            (have, None) => have == self.without,
            (Some(have), Some(want)) => have.abs_diff(want) < self.block.max(1),
            (None, Some(_)) => false,
        }
    }
}

/// Why the layer that is there does not get the limit that the spec asks for; `None` when it has it or can be given it.
pub(crate) fn kept(spec: &ContainerSpec, observed: &ObservedContainer) -> Option<Kept> {
    let RootfsState::Present { .. } = observed.rootfs else { return None };
    let limit = observed.limit?;
    let LayerLimit { bytes: have, change, .. } = limit;
    let want = wanted(spec);
    if limit.is(want) || change == LimitChange::Any {
        return None;
    }
    let said = |reason, message| Some(Kept { reason, message });
    let size = Quantity::from_bytes;
    match (have, want) {
        _ if change == LimitChange::Never => {
            let message = "the storage driver of this node cannot limit what a container writes";
            said(Reason::Infeasible, message.to_owned())
        }
        (Some(have), Some(want)) if want > have && change == LimitChange::Grow => None,
        (Some(have), Some(want)) if want < have => said(
            Reason::CannotShrink,
            format!(
                "its writable layer is limited to {} and cannot shrink: {} takes effect with a new layer",
                size(have),
                size(want)
            ),
        ),
        (have, Some(want)) => {
            let have = have
                .map_or_else(|| "has no limit".to_owned(), |have| format!("is limited to {}", size(have)));
            said(
                Reason::Deferred,
                format!("its writable layer {have}: {} takes effect with a new layer", size(want)),
            )
        }
        (have, None) => {
            let have = size(have.unwrap_or_default());
            said(
                Reason::Deferred,
                format!("its writable layer stays limited to {have} until there is a new layer"),
            )
        }
    }
}

#[cfg(test)]
mod tests;
