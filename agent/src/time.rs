//! The clocks. Nobody else reads them for a decision.

use stower_controllers::{BootId, Mono, Now};

/// Nanoseconds since the machine booted, sleep included (`CLOCK_BOOTTIME`).
pub(crate) fn now_mono() -> Mono {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Mono::from_nanos(
        seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0)),
    )
}

/// All clocks at once.
pub(crate) fn now(boot_id: &BootId) -> Now {
    Now { mono: now_mono(), wall: wall(), boot_id: boot_id.clone() }
}

/// The wall clock, for people. A test can set it for this agent alone, in a build that is no release: the file that
/// `STOWER_WALL_OFFSET` names has the seconds that it is off.
fn wall() -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    #[cfg(debug_assertions)]
    if let Some(path) = std::env::var_os("STOWER_WALL_OFFSET")
        && let Ok(text) = std::fs::read_to_string(path)
        && let Ok(seconds) = text.trim().parse()
    {
        return now.saturating_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(now);
    }
    now
}
