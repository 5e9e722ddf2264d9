//! stower.
