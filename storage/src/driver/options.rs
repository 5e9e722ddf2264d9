//! Options of drivers, as `--storage-opt` has them: `name=value`, read strictly.

/// Why an option was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptionError {
    /// The driver does not have it.
    #[error("storage option {option:?} is not known to the driver {driver}, which has {}", listed(known))]
    Unknown {
        /// The option.
        option: String,
        /// The driver.
        driver: &'static str,
        /// Those that it has.
        known: &'static [&'static str],
    },
    /// It has no such value.
    #[error("storage option {option}={value:?} is not valid: {expected}")]
    Value {
        /// The option.
        option: String,
        /// What was given.
        value: String,
        /// What it takes.
        expected: String,
    },
    /// It was given more than once.
    #[error("storage option {0:?} is given more than once")]
    Twice(String),
}

fn listed(known: &[&str]) -> String {
    match known {
        [] => "no options".to_owned(),
        known => format!("these: {}", known.join(", ")),
    }
}

impl OptionError {
    /// A value that the option does not take; `expected` says what it does.
    pub(crate) fn value(option: &str, value: &str, expected: impl Into<String>) -> Self {
        Self::Value { option: option.to_owned(), value: value.to_owned(), expected: expected.into() }
    }
}

/// Refuses what is not in `known`, and what is there twice.
pub(crate) fn check(
    driver: &'static str,
    known: &'static [&'static str],
    options: &[(String, String)],
) -> Result<(), OptionError> {
    for (index, (option, _)) in options.iter().enumerate() {
        if !known.contains(&option.as_str()) {
            return Err(OptionError::Unknown { option: option.clone(), driver, known });
        }
        if options[..index].iter().any(|(before, _)| before == option) {
            return Err(OptionError::Twice(option.clone()));
        }
    }
    Ok(())
}

/// A size in bytes, as Docker writes it: a number, which may have a fraction, and one of `b`, `k`, `m`, `g`, `t`, `p`, also as
/// `kb` or `KiB`; all are powers of 1024.
pub(crate) fn bytes(option: &str, value: &str) -> Result<u64, OptionError> {
    size(value).ok_or_else(|| OptionError::value(option, value, "expected a size, such as 512M or 10G"))
}

fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let power = match unit.trim_start().trim_end_matches('b') {
        "" => 0,
        "k" | "ki" => 1,
        "m" | "mi" => 2,
        "g" | "gi" => 3,
        "t" | "ti" => 4,
        "p" | "pi" => 5,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let unit = 1024_u64.pow(power);
    let parts = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()? };
    let rest = u64::try_from(u128::from(fraction) * u128::from(unit) / u128::from(parts)).ok()?;
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(rest)
}

#[cfg(test)]
mod tests;
