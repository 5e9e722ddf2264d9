//! Places at which a test can end the process, as a crash would.

/// Ends the process at once when the environment says `STOWER_FAILPOINT=name`. Nothing without the feature
/// `failpoints`.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::reach($name);
    };
}
pub(crate) use failpoint;

/// All names, so that a test can go through each.
#[cfg(feature = "failpoints")]
pub const ALL: &[&str] = &[
    "stage.made",
    "stage.written",
    "finish.done",
    "finish.renamed",
    "seal.synced",
    "seal.recorded",
    "prepare.made",
    "prepare.renamed",
    "commit.recorded",
    "commit.renamed",
    "remove.renamed",
    "remove_layer.renamed",
];

#[cfg(feature = "failpoints")]
pub(crate) fn reach(name: &str) {
    debug_assert!(ALL.contains(&name), "a failpoint that is not listed: {name}");
    if std::env::var_os("STOWER_FAILPOINT").is_some_and(|wanted| wanted == name) {
        // No destructor and no buffer gets a chance.
        std::process::abort();
    }
}
