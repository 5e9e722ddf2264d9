//! Signals: names, numbers, and the pattern.

use regex::Regex;

use super::*;

#[test]
fn names_and_numbers() {
    for (text, number, name) in [
        ("SIGTERM", 15, "SIGTERM"),
        ("TERM", 15, "SIGTERM"),
        ("15", 15, "SIGTERM"),
        ("KILL", 9, "SIGKILL"),
        ("SIGSYS", 31, "SIGSYS"),
        ("HUP", 1, "SIGHUP"),
        ("WINCH", 28, "SIGWINCH"),
        ("RTMIN", 34, "SIGRTMIN"),
        ("SIGRTMIN+3", 37, "SIGRTMIN+3"),
        ("RTMAX-14", 50, "SIGRTMAX-14"),
        ("64", 64, "SIGRTMAX"),
        ("33", 33, "33"),
    ] {
        let signal: Signal = text.parse().unwrap();
        assert_eq!((signal.number(), signal.to_string().as_str()), (number, name), "{text}");
    }
    for text in [
        "",
        "SIG",
        "FOO",
        "sigterm",
        "0",
        "65",
        "015",
        "-9",
        "RTMIN+16",
        "RTMAX-15",
        "RTMIN+0",
        "RTMIN3",
        "RTMIN++3",
        "SIGSIGTERM",
        "SIG15",
    ] {
        assert_eq!(text.parse::<Signal>(), Err(ParseSignalError), "{text}");
    }
    assert_eq!(Signal::from_number(0), None);
    assert_eq!(Signal::from_number(65), None);
}

#[test]
fn the_pattern_is_what_is_read() {
    let pattern = Regex::new(Signal::PATTERN).unwrap();
    let bodies = NAMES.iter().map(|name| (*name).to_owned()).chain((0..70).map(|number| number.to_string()));
    let offsets = (0..20).flat_map(|n| [format!("RTMIN+{n}"), format!("RTMAX-{n}"), format!("RTMIN-{n}")]);
    for body in bodies.chain(offsets).chain(["RTMIN".to_owned(), "X".to_owned()]) {
        for text in [body.clone(), format!("SIG{body}"), body.to_lowercase()] {
            assert_eq!(pattern.is_match(&text), text.parse::<Signal>().is_ok(), "{text}");
        }
    }
    for number in 1..=64 {
        let signal = Signal::from_number(number).unwrap();
        assert_eq!(signal.to_string().parse(), Ok(signal));
        assert!(pattern.is_match(&signal.to_string()));
    }
}
