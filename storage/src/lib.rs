//! stower-storage.
