//! Places at which a test ends the agent as a crash would.

/// Ends the process at once where the environment says `STOWER_FAILPOINT=name`; nothing in a release.
#[doc(hidden)]
pub fn failpoint(name: &str) {
    #[cfg(debug_assertions)]
    if std::env::var_os("STOWER_FAILPOINT").is_some_and(|wanted| wanted == name) {
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
