//! How long to wait before a server is asked again: as client-go does, 800 ms, doubled up to 30 s, each with up to as much
//! again by chance, so that those who lost it together do not come back together.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(800);
/// The longest, without what chance adds.
const LONGEST: Duration = Duration::from_secs(30);

/// Waits of one who asks again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait. `chance` is from 0 to 1; `asked` is what the server asked for, which is never cut short.
    pub(crate) fn next(&mut self, asked: Option<Duration>, chance: f64) -> Duration {
        let own = LONGEST.min(FIRST * 2_u32.pow(self.failures.min(10)));
        self.failures = self.failures.saturating_add(1);
        let least = asked.unwrap_or_default().max(own);
        least + least.mul_f64(chance.clamp(0.0, 1.0))
    }

    /// It went well.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A number from 0 to 1, another one each time.
pub(crate) fn chance() -> f64 {
    let mut bytes = [0_u8; 4];
    // Without randomness all wait alike, which is the worst that comes of it.
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    match filled {
        Ok(_) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_bound_and_begin_anew_after_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..8).map(|_| backoff.next(None, 0.0).as_millis()).collect();
        assert_eq!(waits, [800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        backoff.reset();
        assert_eq!(backoff.next(None, 0.0), Duration::from_millis(800));
    }

    #[test]
    fn chance_adds_up_to_as_much_again() {
        assert_eq!(Backoff::default().next(None, 1.0), Duration::from_millis(1600));
        assert_eq!(Backoff::default().next(None, 0.5), Duration::from_millis(1200));
    }

    #[test]
    fn what_the_server_asked_for_is_never_cut_short() {
        let asked = Some(Duration::from_secs(20));
        assert_eq!(Backoff::default().next(asked, 0.0), Duration::from_secs(20));
        assert_eq!(Backoff::default().next(asked, 0.25), Duration::from_secs(25));
    }
}
