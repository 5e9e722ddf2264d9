use super::*;
use serde_json::json;

#[test]
fn ages_are_those_of_kubectl() {
    // The pairs of Kubernetes' own test of HumanDuration.
    for (seconds, text) in [
        (1, "1s"),
        (70, "70s"),
        (190, "3m10s"),
        (600, "10m"),
        (47 * 60, "47m"),
        (3600, "60m"),
        (5 * 3600 + 37 * 60, "5h37m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (49 * 3600, "2d1h"),
        (8 * 86_400, "8d"),
        (364 * 86_400, "364d"),
        (2 * 365 * 86_400 + 25 * 86_400, "2y25d"),
        (8 * 365 * 86_400, "8y"),
        (0, "0s"),
        (-1, "0s"),
        (-2, "<invalid>"),
    ] {
        assert_eq!(human(seconds), text, "{seconds}");
    }
}

#[test]
fn times_are_told_in_full() {
    let now: Timestamp = "2026-11-21T10:18:05Z".parse().unwrap();
    assert_eq!(full(&json!("2026-11-21T10:13:05.25Z"), now), "Sat, 21 Nov 2026 10:13:05 +0000 (5m ago)");
    assert_eq!(full(&json!("2026-11-21T10:18:25Z"), now), "Sat, 21 Nov 2026 10:18:25 +0000 (in 20s)");
    assert_eq!(since(&Value::Null, now), "<unknown>");
}

#[test]
fn durations_are_read_as_go_writes_them() {
    for (text, millis) in [
        ("90s", 90_000),
        ("10m", 600_000),
        ("2h30m", 9_000_000),
        ("1.5s", 1500),
        ("300ms", 300),
        ("5", 5000),
        ("1d", 86_400_000),
        ("0", 0),
    ] {
        assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "m", "5x", "1h-2m", "-5s", "1.2.3s", "5 m"] {
        assert!(duration(text).unwrap_err().contains("write it as in 90s, 10m or 2h30m"), "{text}");
    }
}

#[test]
fn sizes_have_three_digits_or_so() {
    for (size, text) in [
        (0, "0B"),
        (999, "999B"),
        (1000, "1kB"),
        (1500, "1.5kB"),
        (99_900, "99.9kB"),
        (123_456_789, "123MB"),
        (5_000_000_000, "5GB"),
        (u64::MAX, "18446PB"),
    ] {
        assert_eq!(bytes(size), text, "{size}");
    }
}
