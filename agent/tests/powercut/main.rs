//! What the agent keeps durably, to cut the power of: a ledger and records in journals, and the look at what is left.
//!
//! As the workload of the storage crate's `tests/powercut`, which says what the variables of the environment and the marks mean:
//! `cargo xtask powercut` runs both side by side on one disk.
//!
//! | mark | what is certain |
//! |---|---|
//! | `ledger:KEY=N`, `records:KEY=N` | the journal has the key, with N or what was put later |
//! | `ledger:KEY=gone` | it has not |

#[allow(dead_code, reason = "what the agent needs beside")]
#[path = "../../src/journal/mod.rs"]
mod journal;

use std::path::{Path, PathBuf};
use std::process::Command;

use journal::{Journal, Loaded, Syncer};

/// Names of journals, each a folder of its own, as the agent has them.
const JOURNALS: [&str; 2] = ["ledger", "records"];
/// Puts of one key between two syncs: the file is rewritten every few rounds.
const BURST: u64 = 400;

#[test]
fn program() {
    // Only of use as a process of its own.
    let Some(what) = std::env::var_os("POWERCUT_DO") else { return };
    let get = |name: &str| std::env::var(name).unwrap_or_default();
    let root = PathBuf::from(get("POWERCUT_ROOT"));
    if what == "work" {
        let rounds = get("POWERCUT_ROUNDS").parse().expect("POWERCUT_ROUNDS is no number");
        let mark = get("POWERCUT_MARK");
        let (program, arguments) = mark.split_once(' ').expect("POWERCUT_MARK is no command");
        work(&root, rounds, &mut |text| {
            let status = Command::new(program).args(arguments.split(' ')).arg(text).status();
            assert!(status.unwrap().success(), "mark {text}");
        });
    } else {
        let (must, begun) = (get("POWERCUT_MUST"), get("POWERCUT_BEGUN"));
        let wrong = verify(&root, must.split_whitespace(), begun.split_whitespace());
        assert!(wrong.is_empty(), "WRONG\n{}\n", wrong.join("\n"));
    }
}

fn open(root: &Path, name: &str, syncer: &Syncer) -> Result<(Journal, Loaded<u64>), String> {
    std::fs::create_dir_all(root.join(name)).map_err(|error| error.to_string())?;
    Journal::open(&root.join(name).join("it.journal"), syncer.clone()).map_err(|error| format!("{error:?}"))
}

/// Objects come and go, and one record changes all the time. For so many rounds, or (0) until it is killed.
fn work(root: &Path, rounds: u64, mark: &mut dyn FnMut(&str)) {
    let syncer = Syncer::start().unwrap();
    let (mut ledger, loaded) = open(root, "ledger", &syncer).unwrap();
    let (mut records, _) = open(root, "records", &syncer).unwrap();
    // One that was killed is followed by one that goes on behind what it had done.
    let first = loaded.entries.values().max().map_or(0, |last| last + 1);
    for round in (first..).take_while(|round| rounds == 0 || round - first < rounds) {
        mark(&format!("~put=ledger:default/{round}={round}"));
        ledger.put(&format!("default/{round}"), &round).unwrap();
        syncer.flush();
        mark(&format!("+ledger:default/{round}={round}"));
        mark(&format!("~put=records:counter={}", round * BURST + BURST - 1));
        for n in 0..BURST {
            records.put("counter", &(round * BURST + n)).unwrap();
        }
        syncer.flush();
        mark(&format!("+records:counter={}", round * BURST + BURST - 1));
        if let Some(last) = round.checked_sub(2).filter(|last| *last >= first) {
            mark(&format!("-ledger:default/{last}={last}"));
            mark(&format!("~take=ledger:default/{last}=gone"));
            ledger.remove(&format!("default/{last}")).unwrap();
            syncer.flush();
            mark(&format!("+ledger:default/{last}=gone"));
            mark(&format!("-records:counter={}", last * BURST + BURST - 1));
        }
    }
}

/// What is wrong, a line each. What was only begun is counted where it is not there.
fn verify<'a>(
    root: &Path,
    must: impl Iterator<Item = &'a str>,
    begun: impl Iterator<Item = &'a str>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let syncer = Syncer::start().unwrap();
    let mut all = Vec::new();
    for name in JOURNALS {
        match open(root, name, &syncer) {
            Ok((mut journal, loaded)) => {
                if loaded.corrupt > 0 || !loaded.newer.is_empty() {
                    wrong.push(format!(
                        "{name}: {} damaged lines, {} newer",
                        loaded.corrupt,
                        loaded.newer.len()
                    ));
                }
                // Work goes on.
                if let Err(error) = journal.put("after", &1) {
                    wrong.push(format!("{name}: {error:?}"));
                }
                all.push((name, loaded.entries));
            }
            Err(error) => wrong.push(format!("{name} does not open: {error}")),
        }
    }
    syncer.flush();
    for (name, entries) in &all {
        match open(root, name, &syncer) {
            Ok((_, again)) if again.entries.get("after") == Some(&1) => {
                if entries.iter().any(|(key, value)| key != "after" && again.entries.get(key) != Some(value))
                {
                    wrong.push(format!("{name} has other entries when it is opened again"));
                }
            }
            other => wrong.push(format!("{name} does not take a new entry: {other:?}")),
        }
    }
    let found = |what: &str| -> Option<(bool, Option<u64>)> {
        let (name, rest) = what.split_once(':')?;
        let (_, entries) = all.iter().find(|(known, _)| *known == name)?;
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        let found = entries.get(key).copied();
        let holds = match value {
            "gone" => found.is_none(),
            value => found.is_some_and(|found| found >= value.parse().unwrap()),
        };
        Some((holds, found))
    };
    for what in must {
        if let Some((false, found)) = found(what) {
            wrong.push(format!("{what} had been promised, and it is {found:?}"));
        }
    }
    let lost = begun.filter(|what| found(what).is_some_and(|(holds, _)| !holds)).count();
    let entries: usize = all.iter().map(|(_, entries)| entries.len()).sum();
    println!("FIGURES entries={entries} begun-and-lost={lost}");
    wrong
}

#[test]
fn without_a_cut_nothing_is_lost_and_what_is_missing_is_seen() {
    let at = tempfile::tempdir().unwrap();
    let mut marks = Vec::new();
    work(at.path(), 4, &mut |mark| marks.push(mark.to_owned()));
    assert_eq!(marks.len(), 4 * 4 + 2 * 4, "{marks:?}");
    let must = ["ledger:default/1=gone", "ledger:default/3=3", "records:counter=1599"];
    assert!(must.iter().all(|what| marks.contains(&format!("+{what}"))), "{marks:?}");
    assert_eq!(verify(at.path(), must.into_iter(), [].into_iter()), Vec::<String>::new());
    let wrong = ["ledger:default/1=1", "ledger:default/3=gone", "records:counter=1600"];
    assert_eq!(verify(at.path(), wrong.into_iter(), [].into_iter()).len(), 3);

    let path = at.path().join("ledger/it.journal");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(verify(at.path(), [].into_iter(), [].into_iter()).join("\n").contains("1 damaged"));
}
