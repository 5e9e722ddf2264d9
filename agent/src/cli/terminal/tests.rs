use super::*;

#[test]
fn keys_are_read_as_docker_has_them() {
    assert_eq!(keys("ctrl-p,ctrl-q").unwrap(), [16, 17]);
    assert_eq!(keys("a,ctrl-@,ctrl-[").unwrap(), [b'a', 0, 27]);
    for wrong in ["", "ctrl-", "ctrl-1", "ctrl-pp", "x,", "shift-a"] {
        assert!(keys(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_beginning_of_the_keys_is_sent_when_it_is_no_more_than_that() {
    let mut keys = Keys { keys: vec![16, 17], held: 0 };
    assert_eq!(keys.take(b"ab\x10"), (b"ab".to_vec(), false));
    assert_eq!(keys.take(b"c"), (b"\x10c".to_vec(), false));
    assert_eq!(keys.take(b"\x10\x10"), (b"\x10".to_vec(), false));
    assert_eq!(keys.take(b"\x11never"), (Vec::new(), true));
}
