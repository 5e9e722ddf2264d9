//! stower-controllers.
