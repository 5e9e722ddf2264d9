//! A workload to cut the power of, and the look at what is left of it.
//!
//! A test runs both, one after the other, on this machine: then nothing may be lost at all. The cuts are made in a virtual
//! machine, by `cargo xtask powercut`, which runs this binary there as two programs: the test `program` alone, told what to do by
//! the environment.
//!
//! | variable | |
//! |---|---|
//! | `POWERCUT_DO` | `work` or `verify` |
//! | `POWERCUT_ROOT` | the data root, on the disk whose power is cut |
//! | `POWERCUT_BESIDE` | a folder on another disk: image layouts, what volumes are filled with, mount points |
//! | `POWERCUT_DRIVER` | the storage driver |
//! | `POWERCUT_SEED`, `POWERCUT_ROUNDS` | what is done, and how long (0: until it is killed) |
//! | `POWERCUT_MARK` | a command that gets each mark as its last argument; without it, they go to `marks` in the folder beside |
//! | `POWERCUT_MUST` | the marks that hold: `image:NAME`, `volume:KEY`, with spaces between them |
//! | `POWERCUT_BEGUN` | what was only begun |
//!
//! A mark `+WHAT` follows an operation that has returned: from then on the thing is there whatever happens. A mark `-WHAT`
//! comes before its removal: from then on it may be there or not. A mark `~STEP=WHAT` says what is begun, so that it can be told
//! what a cut was in the middle of. The look prints `FIGURES NAME=NUMBER …` of what it has seen.

#[path = "../support/mod.rs"]
mod support;
mod things;
mod verify;
mod work;

use std::path::PathBuf;

use things::Place;

#[test]
fn program() {
    // Only of use as a process of its own.
    let Some(what) = std::env::var_os("POWERCUT_DO") else { return };
    let get = |name: &str| std::env::var(name).unwrap_or_default();
    let place = Place {
        root: PathBuf::from(get("POWERCUT_ROOT")),
        beside: PathBuf::from(get("POWERCUT_BESIDE")),
        driver: get("POWERCUT_DRIVER"),
    };
    if what == "work" {
        let number = |name: &str| get(name).parse().unwrap_or_else(|_| panic!("{name} is no number"));
        let mark = get("POWERCUT_MARK");
        let mark = mark.split_whitespace().map(str::to_owned).collect();
        work::work(&place, number("POWERCUT_SEED"), number("POWERCUT_ROUNDS"), mark);
    } else {
        let (must, begun) = (get("POWERCUT_MUST"), get("POWERCUT_BEGUN"));
        let [must, begun] = [&must, &begun].map(|text| text.split_whitespace().collect::<Vec<_>>());
        let wrong = verify::verify(&place, &must, &begun);
        assert!(wrong.is_empty(), "WRONG\n{}\n", wrong.join("\n"));
    }
}

/// What the marks say, in order.
fn must(marks: &str) -> Vec<&str> {
    let mut must = Vec::new();
    for mark in marks.lines() {
        match mark.split_at(1) {
            ("+", what) => must.push(what),
            ("-", what) => must.retain(|other| *other != what),
            _ => {}
        }
    }
    must
}

#[test]
fn root_without_a_cut_nothing_is_lost() {
    for driver in ["overlay", "native"] {
        let at = tempfile::Builder::new().prefix("stower-powercut").tempdir().unwrap();
        let place = Place {
            root: at.path().join("root"),
            beside: at.path().join("beside"),
            driver: driver.to_owned(),
        };
        work::work(&place, 7, 3, Vec::new());
        let marks = std::fs::read_to_string(place.beside.join("marks")).unwrap();
        let must = must(&marks);
        assert!(must.len() == 5, "{must:?}");
        assert_eq!(verify::verify(&place, &must, &[]), Vec::<String>::new(), "{driver}");

        // The look sees a file of a layer that lost its end, a blob that changed, a volume that lost a file, and what is gone.
        let layers = place.root.join("snapshots").join(driver).join("layers");
        let damaged = things::first_file(&layers);
        let content = std::fs::read(&damaged).unwrap();
        std::fs::write(&damaged, &content[..content.len() / 2]).unwrap();
        let data = place.root.join("volumes/plain/2/data");
        std::fs::remove_file(things::first_file(&data)).unwrap();
        let wrong = verify::verify(&place, &[&must[..], &["volume:no/such"]].concat(), &[]).join("\n");
        for part in ["its tree is not", "volume plain/2", "volume:no/such"] {
            assert!(wrong.contains(part), "{driver}: {part} in {wrong}");
        }
    }
}
