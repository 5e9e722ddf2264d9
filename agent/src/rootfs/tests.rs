use serde_json::json;

use super::*;

#[test]
fn the_history_tells_what_ran() {
    let image = stower_storage::ImageConfig {
        entrypoint: vec!["/e".into()],
        cmd: vec!["c".into()],
        ..Default::default()
    };
    for (spec, expected) in [
        (json!({}), "/e c"),
        (json!({"args": ["a"]}), "/e a"),
        (json!({"command": ["x"]}), "x"),
        (json!({"command": ["x"], "args": ["y", "z"]}), "x y z"),
    ] {
        assert_eq!(command_line(&spec, &image), expected);
    }
}

#[test]
fn options_are_read_strictly() {
    let read = |text| serde_json::from_str::<CommitOptions>(text);
    assert_eq!(read("{}").unwrap(), CommitOptions::default());
    assert!(!read(r#"{"pause": false}"#).unwrap().pause);
    assert!(read(r#"{"puase": false}"#).is_err());
}
