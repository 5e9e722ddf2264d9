//! Durations: Go's own cases, and properties.

use proptest::prelude::*;
use regex::Regex;

use super::*;

fn read(text: &str) -> Duration {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn as_go_writes_them() {
    for (text, canonical) in [
        ("0", "0s"),
        ("0s", "0s"),
        ("5s", "5s"),
        ("100ms", "100ms"),
        ("60s", "1m0s"),
        ("1m30s", "1m30s"),
        ("90m", "1h30m0s"),
        ("1.5h", "1h30m0s"),
        (".5s", "500ms"),
        ("1.s", "1s"),
        ("1.1us", "1.1\u{b5}s"),
        ("2.2ms", "2.2ms"),
        ("3.3s", "3.3s"),
        ("15ns", "15ns"),
        ("39h9m14.425s", "39h9m14.425s"),
        ("12\u{3bc}s", "12\u{b5}s"),
        ("0.3333333333333333333h", "19m59.999999999s"),
    ] {
        assert_eq!(read(text).to_string(), canonical, "{text}");
    }
    assert_eq!(read("100ms").as_std(), time::Duration::from_millis(100));
}

#[test]
fn what_is_no_duration() {
    use ParseDurationError::{Syntax, TooLong};
    for text in ["", "3", "-5s", "s", ".", ".s", "+", "1 s", "1d", "1.2.3s", "10s5", "ms", "1e3s"] {
        assert_eq!(text.parse::<Duration>(), Err(Syntax), "{text}");
    }
    for text in ["3000000h", "9223372036854775808ns", "99999999999999999999999999999999999999999s"] {
        assert_eq!(text.parse::<Duration>(), Err(TooLong), "{text}");
    }
}

proptest! {
    #[test]
    fn the_text_reads_back(nanos in 0u64..=9_223_372_036_854_775_807) {
        let duration = Duration::from(time::Duration::from_nanos(nanos));
        prop_assert_eq!(read(&duration.to_string()), duration);
    }

    /// A server that knows only the pattern and the length accepts nothing that is refused here.
    #[test]
    fn the_pattern_is_enough(text in "([0-9]{1,6}(\\.[0-9]{1,3})?[hm]|[0-9]{1,9}(ms|us|µs|ns|s)){1,4}") {
        let pattern = Regex::new(Duration::PATTERN).unwrap();
        prop_assert!(pattern.is_match(&text));
        if text.chars().count() <= Duration::MAX_LENGTH as usize {
            prop_assert!(text.parse::<Duration>().is_ok(), "{}", text);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}", near in "[0-9.hmsnuµ+-]{0,60}") {
        let _ = text.parse::<Duration>();
        let _ = near.parse::<Duration>();
    }
}
