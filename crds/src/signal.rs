//! Signals by name or number.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::text::string_serde;

/// A signal of Linux, 1 to 64. Read as `SIGTERM`, `TERM` or a number; written as `SIGTERM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(u8);

/// No signal by that name or number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a signal: a name such as \"SIGTERM\" or \"TERM\", or a number from 1 to 64 in quotes")]
pub struct ParseSignalError;

/// Names by number, from 1 (`signal(7)`, x86 and ARM).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// The first and last real-time signal that programs see with glibc.
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

impl Signal {
    /// The pattern of the CRD's schema: exactly what [`Signal::from_str`] takes.
    pub const PATTERN: &str = "^((SIG)?(HUP|INT|QUIT|ILL|TRAP|ABRT|BUS|FPE|KILL|USR1|SEGV|USR2|PIPE|ALRM|TERM|STKFLT|CHLD|CONT|STOP|TSTP|TTIN|TTOU|URG|XCPU|XFSZ|VTALRM|PROF|WINCH|IO|PWR|SYS|RTMIN(\\+([1-9]|1[0-5]))?|RTMAX(-([1-9]|1[0-4]))?)|[1-9]|[1-5][0-9]|6[0-4])$";
    /// `SIGKILL`.
    pub const KILL: Signal = Signal(9);
    /// `SIGTERM`, which asks a program to end.
    pub const TERM: Signal = Signal(15);

    /// The signal of a number; `None` outside 1 to 64.
    pub fn from_number(number: i32) -> Option<Self> {
        u8::try_from(number).ok().filter(|n| (1..=64).contains(n)).map(Signal)
    }

    /// The number.
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }
}

impl FromStr for Signal {
    type Err = ParseSignalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0') {
            let number = text.parse().map_err(|_| ParseSignalError)?;
            return Signal::from_number(number).ok_or(ParseSignalError);
        }
        let name = text.strip_prefix("SIG").unwrap_or(text);
        if let Some(at) = NAMES.iter().position(|known| *known == name) {
            return u8::try_from(at + 1).map(Signal).map_err(|_| ParseSignalError);
        }
        let offset = |rest: &str, sign: char, max: u8| match rest.strip_prefix(sign) {
            None if rest.is_empty() => Ok(0),
            Some(digits) if !digits.starts_with(['0', '+']) => {
                digits.parse().ok().filter(|n| *n <= max).ok_or(ParseSignalError)
            }
            _ => Err(ParseSignalError),
        };
        if let Some(rest) = name.strip_prefix("RTMIN") {
            return Ok(Signal(RTMIN + offset(rest, '+', 15)?));
        }
        if let Some(rest) = name.strip_prefix("RTMAX") {
            return Ok(Signal(RTMAX - offset(rest, '-', 14)?));
        }
        Err(ParseSignalError)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            number if usize::from(number) <= NAMES.len() => {
                write!(f, "SIG{}", NAMES[usize::from(number) - 1])
            }
            RTMIN => f.write_str("SIGRTMIN"),
            RTMAX => f.write_str("SIGRTMAX"),
            number @ RTMIN..=49 => write!(f, "SIGRTMIN+{}", number - RTMIN),
            number @ 50..RTMAX => write!(f, "SIGRTMAX-{}", RTMAX - number),
            number => number.fmt(f),
        }
    }
}

string_serde!(Signal);

impl JsonSchema for Signal {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Signal".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": Signal::PATTERN, "maxLength": 12 })
    }
}

#[cfg(test)]
mod tests;
