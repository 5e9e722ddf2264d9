//! Times and numbers as text, without an allocator. Pure; shared by the shim and the library.

/// Bytes of a time as [`rfc3339`] writes it.
pub const TIME_LEN: usize = 30;

/// `2026-11-21T10:11:12.123456789Z`: RFC 3339 in UTC, always with nine digits, so that text order is time order.
/// The years 0 to 9999 are possible, later seconds give the last of them.
pub fn rfc3339(secs: u64, nanos: u32) -> [u8; TIME_LEN] {
    const LAST: u64 = 253_402_300_799;
    let secs = if secs > LAST { LAST } else { secs };
    let (year, month, day) = civil(secs / 86_400);
    let day_secs = secs % 86_400;
    let mut out = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut out[0..4], year);
    digits(&mut out[5..7], month);
    digits(&mut out[8..10], day);
    digits(&mut out[11..13], day_secs / 3600);
    digits(&mut out[14..16], day_secs / 60 % 60);
    digits(&mut out[17..19], day_secs % 60);
    digits(&mut out[20..29], u64::from(nanos) % 1_000_000_000);
    out
}

/// Seconds and nanoseconds of a time in the form that [`rfc3339`] writes; `None` for any other text.
pub fn parse_rfc3339(text: &[u8]) -> Option<(u64, u32)> {
    if text.len() != TIME_LEN {
        return None;
    }
    for (at, want) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (29, b'Z')] {
        if text[at] != want {
            return None;
        }
    }
    let year = number(&text[0..4])?;
    let month = number(&text[5..7])?;
    let day = number(&text[8..10])?;
    let hour = number(&text[11..13])?;
    let minute = number(&text[14..16])?;
    let second = number(&text[17..19])?;
    let nanos = number(&text[20..29])?;
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_from_civil(year, month, day);
    if civil(days) != (year, month, day) {
        return None;
    }
    Some((days * 86_400 + hour * 3600 + minute * 60 + second, u32::try_from(nanos).ok()?))
}

/// A decimal number; `None` when it is empty, has another character or does not fit.
pub fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut n: u64 = 0;
    for &c in text {
        if !c.is_ascii_digit() {
            return None;
        }
        n = n.checked_mul(10)?.checked_add(u64::from(c - b'0'))?;
    }
    Some(n)
}

/// Writes `n` in decimal to the end of `buf` and returns that part.
pub fn decimal(mut n: u64, buf: &mut [u8; 20]) -> &[u8] {
    let mut at = buf.len();
    loop {
        at -= 1;
        buf[at] = digit(n % 10);
        n /= 10;
        if n == 0 || at == 0 {
            return &buf[at..];
        }
    }
}

fn digits(out: &mut [u8], mut n: u64) {
    for d in out.iter_mut().rev() {
        *d = digit(n % 10);
        n /= 10;
    }
}

#[allow(clippy::cast_possible_truncation)] // below ten
const fn digit(n: u64) -> u8 {
    b'0' + (n % 10) as u8
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`), for days that are not negative.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// The inverse of [`civil`] for years from 1970.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y / 400;
    let yoe = y % 400;
    let mp = if month > 2 { month - 3 } else { month + 9 };
    let doy = (153 * mp + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}
