//! Times as people read them, and durations as people write them.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

/// How long ago, in one or two units, as Kubernetes' `duration.HumanDuration` has it.
pub(super) fn human(seconds: i64) -> String {
    let two = |a: i64, a_unit: &str, b: i64, b_unit: &str| {
        if b == 0 { format!("{a}{a_unit}") } else { format!("{a}{a_unit}{b}{b_unit}") }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(hours / 24, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{}d", hours / 24),
        63_072_000..252_288_000 => two(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        252_288_000.. => format!("{}y", hours / 24 / 365),
    }
}

/// The age of a time in an object, `<unknown>` when there is none.
pub(super) fn since(time: &Value, now: Timestamp) -> String {
    match parse(time) {
        Some(time) => human(now.as_second() - time.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// A time in an object.
pub(super) fn parse(time: &Value) -> Option<Timestamp> {
    time.as_str()?.parse().ok()
}

/// A time in full with its age, as in `Sat, 21 Nov 2026 10:13:05 +0000 (5m ago)`.
pub(super) fn full(time: &Value, now: Timestamp) -> String {
    let Some(at) = parse(time) else { return time.as_str().unwrap_or("<unknown>").to_owned() };
    let text = at.strftime("%a, %d %b %Y %H:%M:%S +0000");
    let seconds = now.as_second() - at.as_second();
    if seconds < -1 {
        format!("{text} (in {})", human(-seconds))
    } else {
        format!("{text} ({} ago)", human(seconds))
    }
}

/// Reads a duration as Go writes it (`1h30m`, `1.5s`, `300ms`), with days too; a bare number is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("invalid duration {text:?}: write it as in 90s, 10m or 2h30m");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    if let Ok(seconds) = rest.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (value, tail) = rest.split_at(number);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(wrong()),
        };
        total += value.parse::<f64>().map_err(|_| wrong())? * scale;
        rest = tail;
    }
    Duration::try_from_secs_f64(total).map_err(|_| wrong())
}

/// Bytes as people read them, in powers of ten as Docker prints image sizes.
pub(super) fn bytes(size: u64) -> String {
    let mut scaled = u128::from(size) * 10;
    for unit in ["B", "kB", "MB", "GB", "TB", "PB"] {
        // Tenths, until they are fewer than a thousand units.
        if scaled < 10_000 || unit == "PB" {
            return if unit == "B" || scaled >= 1000 || scaled % 10 == 0 {
                format!("{}{unit}", scaled / 10)
            } else {
                format!("{}.{}{unit}", scaled / 10, scaled % 10)
            };
        }
        scaled /= 1000;
    }
    format!("{size}B")
}

#[cfg(test)]
mod tests;
