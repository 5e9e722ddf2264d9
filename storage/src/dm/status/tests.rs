use super::*;

fn works(text: &str) -> Working {
    match text.parse() {
        Ok(Pool::Works(it)) => it,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn a_pool_that_works() {
    let it = works("7 66/524288 4/1638400 - rw discard_passdown queue_if_no_space - 1024 ");
    assert_eq!(
        it,
        Working {
            transaction: 7,
            metadata: Blocks { used: 66, total: 524_288 },
            data: Blocks { used: 4, total: 1_638_400 },
            held_root: None,
            mode: Mode::ReadWrite,
            passdown: true,
            error_if_no_space: false,
            needs_check: false,
        }
    );
}

#[test]
fn every_state_of_a_pool() {
    let it = works("0 1/2 3/3 - out_of_data_space no_discard_passdown error_if_no_space - 1024");
    assert_eq!((it.mode, it.passdown, it.error_if_no_space), (Mode::OutOfDataSpace, false, true));
    let it = works("0 1/2 3/4 - ro ignore_discard queue_if_no_space needs_check 1024");
    assert_eq!((it.mode, it.passdown, it.needs_check), (Mode::ReadOnly, false, true));
    let it = works("0 1/2 3/4 17 rw discard_passdown queue_if_no_space - 1024");
    assert_eq!((it.held_root, it.needs_check), (Some(17), false));
    // As Linux 3.2 had it.
    assert_eq!(works("0 1/2 3/4 - rw").mode, Mode::ReadWrite);
    assert_eq!("Fail".parse(), Ok(Pool::Fail));
    assert_eq!("Error".parse(), Ok(Pool::Error));
}

#[test]
fn what_is_no_pools_status() {
    for text in [
        "",
        "-",
        "0",
        "0 1/2",
        "0 1/2 3/4 -",
        "0 1/2 3 - rw",
        "x 1/2 3/4 - rw",
        "0 1/2 3/4 x rw",
        "0 -1/2 3/4 - rw",
    ] {
        assert!(text.parse::<Pool>().is_err(), "{text}");
    }
}

#[test]
fn every_state_of_a_thin_device() {
    assert_eq!("0 -".parse(), Ok(Thin::Works { mapped: 0, highest: None }));
    assert_eq!("2048 20971519".parse(), Ok(Thin::Works { mapped: 2048, highest: Some(20_971_519) }));
    assert_eq!("Fail".parse(), Ok(Thin::Fail));
    assert_eq!("-".parse(), Ok(Thin::Unknown));
    assert_eq!("Error".parse(), Ok(Thin::Error));
    for text in ["", "12", "x -", "1 x", "1 2 3"] {
        assert!(text.parse::<Thin>().is_err(), "{text}");
    }
}
