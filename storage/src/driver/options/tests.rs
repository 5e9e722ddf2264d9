//! What options say.

use super::*;

fn pair(option: &str, value: &str) -> (String, String) {
    (option.to_owned(), value.to_owned())
}

#[test]
fn sizes() {
    for (text, expected) in [
        ("0", 0),
        ("4096", 4096),
        ("1b", 1),
        ("2k", 2048),
        ("2KB", 2048),
        ("2 KiB", 2048),
        ("1.5m", 3 << 19),
        ("10G", 10 << 30),
        ("100gb", 100 << 30),
        ("2T", 2 << 40),
        ("1p", 1 << 50),
    ] {
        assert_eq!(bytes("o", text), Ok(expected), "{text}");
    }
    for text in [
        "",
        "g",
        "-1",
        "1x",
        "1 2",
        "1.2.3",
        ".5",
        "1kib8",
        "99999999999999999999",
        "99999999p",
        "1.1234567890g",
    ] {
        let refused = bytes("dm.basesize", text).unwrap_err().to_string();
        assert!(refused.starts_with("storage option dm.basesize="), "{refused}");
    }
}

#[test]
fn options_are_checked_by_name() {
    const KNOWN: &[&str] = &["a.one", "a.two"];
    assert_eq!(check("a", KNOWN, &[pair("a.two", ""), pair("a.one", "")]), Ok(()));
    let unknown = check("a", KNOWN, &[pair("a.one", ""), pair("b.one", "")]).unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "storage option \"b.one\" is not known to the driver a, which has these: a.one, a.two"
    );
    let none = check("b", &[], &[pair("a.one", "")]).unwrap_err();
    assert!(none.to_string().ends_with("which has no options"), "{none}");
    let twice = check("a", KNOWN, &[pair("a.one", "1"), pair("a.one", "1")]).unwrap_err();
    assert_eq!(twice, OptionError::Twice("a.one".to_owned()));
}
