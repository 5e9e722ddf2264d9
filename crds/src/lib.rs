//! stower-crds.
