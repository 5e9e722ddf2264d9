//! Waiting for a state of the world, never for time to pass.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a predicate is looked at again.
const INTERVAL: Duration = Duration::from_millis(15);

/// The generous limit after which a wait is a failure: 180 s, or `STOWER_E2E_DEADLINE` in seconds.
pub fn deadline() -> Duration {
    let seconds = std::env::var("STOWER_E2E_DEADLINE").ok().and_then(|text| text.parse().ok()).unwrap_or(180);
    Duration::from_secs(seconds)
}

/// Looks at the world until `look` finds what it wants. Level-triggered: what counts is the state as it is, however
/// it came about. An error of `look` counts as "not yet", and the last one is told when the time is up.
pub fn wait_for<T>(what: impl Display, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    wait_long_for(what, deadline(), look)
}

/// [`wait_for`] with a limit of its own.
pub fn wait_long_for<T>(
    what: impl Display,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if start.elapsed() > limit {
            let text = format!("waited {} s in vain for: {what}", limit.as_secs());
            return match last {
                Some(error) => Err(error).context(text),
                None => bail!(text),
            };
        }
        std::thread::sleep(INTERVAL);
    }
}
