//! How often something may happen: a token bucket, as a number.

use std::time::Duration;

use crate::time::Mono;

/// A bucket that holds `burst` tokens and gains one each `every`. It is full at first.
///
/// Kept is only when it will be full again (the generic cell rate algorithm), so that one for each object costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    burst: u32,
    every: Duration,
    full_at: Mono,
}

impl TokenBucket {
    /// A full one. A `burst` of 0 is taken as 1.
    pub const fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, full_at: Mono::from_nanos(0) }
    }

    /// When the next token can be taken; now or earlier when there is one.
    pub fn ready_at(&self) -> Mono {
        self.full_at.minus(self.every.saturating_mul(self.burst.saturating_sub(1)))
    }

    /// Whether there is a token.
    pub fn is_ready(&self, now: Mono) -> bool {
        self.ready_at() <= now
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Mono) -> bool {
        let ready = self.is_ready(now);
        if ready {
            self.full_at = self.full_at.max(now).plus(self.every);
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Mono {
        Mono::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let mut bucket = TokenBucket::new(3, Duration::from_secs(1));
        let start = 1_000_000;
        let taken: Vec<u64> = (0..60).filter(|n| bucket.take(at(start + n * 100))).collect();
        assert_eq!(taken, [0, 1, 2, 10, 20, 30, 40, 50]);
    }

    #[test]
    fn it_fills_up_to_its_size_and_no_further() {
        let mut bucket = TokenBucket::new(2, Duration::from_secs(1));
        assert!(bucket.take(at(0)) && bucket.take(at(0)) && !bucket.take(at(0)));
        assert_eq!(bucket.ready_at(), at(1000));
        let later = at(3_600_000);
        assert!(bucket.take(later) && bucket.take(later) && !bucket.take(later));
    }
}
