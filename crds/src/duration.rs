//! Durations as Kubernetes writes them: Go's `100ms`, `1m30s`.

use std::{fmt, str::FromStr, time};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::text::string_serde;

/// The longest duration that Go can hold, in nanoseconds: about 292 years.
const MAX: u128 = i64::MAX as u128;

/// A span of time, exact to the nanosecond and never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(time::Duration);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseDurationError {
    /// Not of the form number and unit, repeated.
    #[error("must be a duration such as \"100ms\", \"10s\" or \"1m30s\" (units: ns, us, ms, s, m, h)")]
    Syntax,
    /// More than 2^63 - 1 nanoseconds.
    #[error("duration is too long: it must be below 292 years")]
    TooLong,
}

const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl Duration {
    /// The pattern of the CRD's schema. With [`Duration::MAX_LENGTH`] it keeps every text below Go's range, so that a
    /// server that knows the schema alone accepts the same ones.
    pub const PATTERN: &str =
        r"^(0|([0-9]{1,6}(\.[0-9]{1,9})?[hm]|[0-9]{1,9}(\.[0-9]{1,9})?(s|ms|us|µs|ns))+)$";
    /// The longest text, in characters.
    pub const MAX_LENGTH: u32 = 20;

    /// A number of seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(time::Duration::from_secs(seconds))
    }

    /// A number of milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(time::Duration::from_millis(millis))
    }

    /// As the standard library has it.
    pub const fn as_std(self) -> time::Duration {
        self.0
    }
}

impl From<Duration> for time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl From<time::Duration> for Duration {
    /// What is longer than Go can hold becomes the longest.
    fn from(duration: time::Duration) -> Self {
        if duration.as_nanos() > MAX { from_nanos(MAX) } else { Self(duration) }
    }
}

fn from_nanos(nanos: u128) -> Duration {
    Duration(time::Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    /// As Go's `time.ParseDuration`, for durations that are not negative.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        use ParseDurationError::{Syntax, TooLong};
        if text == "0" {
            return Ok(Self::default());
        }
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest.is_empty() {
            return Err(Syntax);
        }
        let mut nanos = 0u128;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(Syntax)?;
            let (number, after) = rest.split_at(end);
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
                return Err(Syntax);
            }
            let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            let (_, size) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(Syntax)?;
            let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| TooLong)? };
            let fraction = &fraction[..fraction.len().min(18)];
            let part = match fraction.parse::<u128>() {
                Ok(digits) => digits * size / 10u128.pow(u32::try_from(fraction.len()).map_err(|_| Syntax)?),
                Err(_) => 0,
            };
            nanos = whole
                .checked_mul(*size)
                .and_then(|value| value.checked_add(part))
                .and_then(|value| value.checked_add(nanos))
                .filter(|value| *value <= MAX)
                .ok_or(TooLong)?;
            rest = after;
        }
        Ok(from_nanos(nanos))
    }
}

impl fmt::Display for Duration {
    /// As Go's `Duration.String`: `1m30s`, `100ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let fraction = |f: &mut fmt::Formatter<'_>, value: u128, unit: u128, width: usize, name: &str| {
            let part = format!("{:0width$}", value % unit);
            let part = part.trim_end_matches('0');
            let dot = if part.is_empty() { "" } else { "." };
            write!(f, "{}{dot}{part}{name}", value / unit)
        };
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => fraction(f, nanos, 1_000, 3, "\u{b5}s"),
            1_000_000..1_000_000_000 => fraction(f, nanos, 1_000_000, 6, "ms"),
            _ => {
                let minutes = nanos / 60_000_000_000;
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                fraction(f, nanos % 60_000_000_000, 1_000_000_000, 9, "s")
            }
        }
    }
}

string_serde!(Duration);

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": Duration::PATTERN, "maxLength": Duration::MAX_LENGTH })
    }
}

#[cfg(test)]
mod tests;
