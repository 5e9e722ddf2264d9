use super::shown;

#[test]
fn names_stay_on_their_line() {
    assert_eq!(shown("/plain \u{e9}"), "/plain \u{e9}");
    assert_eq!(shown("/a\nb\u{1b}[2J"), "/a\\nb\\u{1b}[2J");
}
