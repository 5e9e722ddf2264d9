//! Amounts as Kubernetes writes them: `500m`, `64Mi`, `1e3`.

use std::{cmp::Ordering, fmt, hash, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Parts of one; the smallest step that Kubernetes keeps.
const NANO: i128 = 1_000_000_000;
/// The largest magnitude, as in Kubernetes: 2^63 - 1.
const MAX: i128 = i64::MAX as i128 * NANO;

/// An amount, exact to 10^-9 and of a magnitude below 2^63. Two amounts are equal when their values are; the
/// text is canonical, in the family of suffixes that it was read in.
///
/// Source of the rules: `apimachinery/pkg/api/resource/quantity.go`.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Binary,
    Decimal,
    Exponent,
}

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseQuantityError {
    /// Not of the form number and suffix.
    #[error("must be a quantity: a number with an optional suffix such as \"500m\", \"64Mi\" or \"1G\"")]
    Syntax,
    /// Of a magnitude of 2^63 or more.
    #[error("quantity is too large: it must be below 2^63")]
    TooLarge,
}

const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

impl Quantity {
    /// The pattern of the CRD's schema, which is what Kubernetes itself publishes for quantities, without signs:
    /// no amount here is negative.
    pub const PATTERN: &str =
        r"^(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE][+-]?[0-9]{1,2}))?$";

    /// A whole number, written with decimal suffixes.
    pub fn from_int(value: i64) -> Self {
        Self { nanos: i128::from(value) * NANO, format: Format::Decimal }
    }

    /// A number of bytes, written with binary suffixes.
    pub fn from_bytes(bytes: u64) -> Self {
        Self { nanos: (i128::from(bytes) * NANO).min(MAX), format: Format::Binary }
    }

    /// The value in whole units (bytes, for memory), rounded up; `None` when it is negative.
    pub fn units(&self) -> Option<u64> {
        u64::try_from(self.scaled(NANO)).ok()
    }

    /// The value in thousandths (millicores, for cpu), rounded up; `None` when it is negative or above 2^64 of them.
    pub fn millis(&self) -> Option<u64> {
        u64::try_from(self.scaled(NANO / 1000)).ok()
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Divides and rounds away from zero, as Kubernetes does.
    fn scaled(&self, unit: i128) -> i128 {
        let quotient = self.nanos / unit;
        if self.nanos % unit == 0 { quotient } else { quotient + self.nanos.signum() }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl hash::Hash for Quantity {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        use ParseQuantityError::{Syntax, TooLarge};
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(Syntax);
        }
        let (base2, base10, format) = read_suffix(suffix).ok_or(Syntax)?;

        // The number is `digits * 10^-scale`. Zeros that carry nothing go first, so that only real size overflows.
        let fraction = fraction.trim_end_matches('0');
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        let (mut nanos, mut round_up) = (0i128, false);
        if !digits.is_empty() {
            let scale = i64::try_from(fraction.len()).map_err(|_| TooLarge)?;
            let mut exponent = i64::from(base10) + 9 - scale;
            // What lies below 10^-9 even after the largest binary factor cannot change more than the rounding.
            let keep = 60;
            let head = if digits.len() > keep { &digits[..keep] } else { digits };
            exponent += i64::try_from(digits.len() - head.len()).map_err(|_| TooLarge)?;
            round_up = digits[head.len()..].bytes().any(|b| b != b'0');
            (nanos, round_up) = scale_digits(head, exponent, base2, round_up).ok_or(TooLarge)?;
        }
        if round_up {
            nanos += 1;
        }
        if nanos > MAX {
            return Err(TooLarge);
        }
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// `digits * 2^base2 * 10^exponent`, with whether something below one was cut off; `None` when it is too large.
fn scale_digits(digits: &str, exponent: i64, base2: u32, cut: bool) -> Option<(i128, bool)> {
    // Digits are pushed one by one into `value`, so that a long fraction does not overflow before it is scaled down.
    let length = i64::try_from(digits.len()).ok()?;
    let kept = (length + exponent).clamp(0, length);
    if length + exponent > 40 {
        return None;
    }
    let binary = 1i128.checked_shl(base2)?;
    let kept_count = usize::try_from(kept).ok()?;
    let (high, low) = digits.split_at(kept_count);
    let mut value = 0i128;
    for digit in high.bytes() {
        value = value.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
    }
    if exponent > 0 {
        value = value.checked_mul(10i128.checked_pow(u32::try_from(exponent).ok()?)?)?;
    }
    value = value.checked_mul(binary)?;
    // The part below one: `0.[zeros]low * 2^base2`, in long multiplication, 18 digits of it at a time being plenty
    // to find its whole part exactly (2^60 < 10^19).
    let zeros = usize::try_from((-(length + exponent)).max(0)).ok()?;
    let mut rest: Vec<u8> =
        std::iter::repeat_n(0u8, zeros.min(128)).chain(low.bytes().map(|b| b - b'0')).collect();
    let mut carry = 0i128;
    for digit in rest.iter_mut().rev() {
        let product = i128::from(*digit) * binary + carry;
        carry = product / 10;
        *digit = u8::try_from(product % 10).ok()?;
    }
    value = value.checked_add(carry)?;
    Some((value, cut || rest.iter().any(|d| *d != 0)))
}

/// Power of two, power of ten and family of a suffix.
fn read_suffix(suffix: &str) -> Option<(u32, i32, Format)> {
    if let Some((_, power)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((*power, 0, Format::Binary));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((0, *power, Format::Decimal));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if digits.is_empty() || digits.len() > 2 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((0, exponent.parse().ok()?, Format::Exponent))
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that allows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.nanos.unsigned_abs();
        let nano = NANO.unsigned_abs();
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.nanos < 0 {
            f.write_str("-")?;
        }
        if self.format == Format::Binary && magnitude.is_multiple_of(nano) && magnitude / nano >= 1024 {
            let whole = magnitude / nano;
            let (name, power) = BINARY
                .iter()
                .rev()
                .find(|(_, power)| whole.is_multiple_of(1u128 << power))
                .unwrap_or(&("", 0));
            return write!(f, "{}{name}", whole >> power);
        }
        let (name, power) = DECIMAL
            .iter()
            .rev()
            .find(|(_, power)| magnitude.is_multiple_of(10u128.pow((power + 9).unsigned_abs())))
            .unwrap_or(&DECIMAL[0]);
        let value = magnitude / 10u128.pow((power + 9).unsigned_abs());
        match (self.format, power) {
            (Format::Exponent, 0) => write!(f, "{value}"),
            (Format::Exponent, power) => write!(f, "{value}e{power}"),
            _ => write!(f, "{value}{name}"),
        }
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Int(i64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Int(value) => Ok(Quantity::from_int(value)),
            Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": Quantity::PATTERN,
            "maxLength": 32,
            "minimum": 0,
        })
    }
}

#[cfg(test)]
mod tests;
