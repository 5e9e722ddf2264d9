//! stower-e2e.
