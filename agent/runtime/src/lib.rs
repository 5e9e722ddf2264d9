//! stower-runtime.
