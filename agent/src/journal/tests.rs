use super::*;

fn open(path: &Path) -> (Journal, Loaded<u32>) {
    Journal::open(path, Syncer::start().unwrap()).unwrap()
}

#[test]
fn what_was_put_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let (mut journal, loaded) = open(&path);
    assert!(loaded.entries.is_empty());
    journal.put("a", &1).unwrap();
    journal.put("b", &2).unwrap();
    journal.put("a", &3).unwrap();
    journal.remove("b").unwrap();
    drop(journal);
    assert_eq!(open(&path).1.entries, BTreeMap::from([("a".to_owned(), 3)]));
}

#[test]
fn a_torn_tail_is_dropped_and_later_writes_are_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let (mut journal, _) = open(&path);
    journal.put("a", &1).unwrap();
    journal.put("b", &2).unwrap();
    drop(journal);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let (mut journal, loaded) = open(&path);
    assert_eq!((loaded.entries, loaded.corrupt), (BTreeMap::from([("a".to_owned(), 1)]), 0));
    journal.put("c", &3).unwrap();
    drop(journal);
    assert_eq!(open(&path).1.entries.into_keys().collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn a_corrupt_line_costs_that_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let (mut journal, _) = open(&path);
    for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
        journal.put(key, &value).unwrap();
    }
    drop(journal);
    let text = std::fs::read_to_string(&path).unwrap().replace("\"k\":\"b\"", "\"k\":\"x\"");
    std::fs::write(&path, text).unwrap();
    let (_, loaded) = open(&path);
    assert_eq!(
        (loaded.entries.into_keys().collect::<Vec<_>>(), loaded.corrupt),
        (vec!["a".into(), "c".into()], 1)
    );
}

#[test]
fn a_line_of_a_newer_release_is_kept_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let body = r#"{"v":2,"k":"a","shape":"unknown"}"#;
    std::fs::write(&path, format!("{:08x} {body}\n", crc32fast::hash(body.as_bytes()))).unwrap();
    let (mut journal, loaded) = open(&path);
    assert_eq!(loaded.newer, ["a"]);
    for n in 0..3000u32 {
        journal.put("churn", &n).unwrap();
    }
    drop(journal);
    let (_, loaded) = open(&path);
    assert_eq!(loaded.newer, ["a"], "rewriting must not lose what it does not understand");
    assert_eq!(loaded.entries["churn"], 2999);
    assert!(std::fs::metadata(&path).unwrap().len() < 100_000, "the garbage was never collected");
}

#[test]
fn a_flush_returns_after_what_was_written_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(&dir.path().join("j"));
    journal.put("a", &1).unwrap();
    journal.syncer.flush();
    assert!(journal.syncer.pending.lock().unwrap().is_empty());
}
