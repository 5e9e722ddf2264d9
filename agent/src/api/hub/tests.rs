use std::collections::BTreeMap;

use super::*;
use crate::api::tests::{Memory, container};

fn versions(hub: &Hub, from: Cursor) -> Result<Vec<u64>, Gone> {
    hub.read(from, 100).map(|(entries, _)| entries.iter().map(|entry| entry.version).collect())
}

fn modified(name: &str, version: u64) -> Change {
    Change::Modified(Arc::new(container(name, version)))
}

#[test]
fn a_version_finds_the_changes_after_it() {
    let memory = Memory::with(&["a"]);
    let (hub, _changes) = Hub::new(&*memory);
    for version in 2..=5 {
        hub.add(modified("a", version), &*memory);
    }
    assert_eq!(versions(&hub, hub.after(3).unwrap()), Ok(vec![4, 5]));
    assert_eq!(versions(&hub, hub.end()), Ok(vec![]));
    assert_eq!(hub.after(0), Err(Gone), "what was before the hub is not known");
}

#[test]
fn changes_that_are_no_longer_kept_are_gone() {
    let memory = Memory::with(&["a"]);
    let (hub, _changes) = Hub::with_limit(&*memory, 2);
    let start = hub.end();
    for version in 2..=5 {
        hub.add(modified("a", version), &*memory);
    }
    assert_eq!(hub.after(2), Err(Gone));
    assert_eq!(versions(&hub, hub.after(3).unwrap()), Ok(vec![4, 5]));
    assert_eq!(hub.read(start, 1).unwrap_err(), Gone, "a slow reader is told");
}

#[test]
fn a_change_knows_what_was_before() {
    let memory = Memory::with(&["a"]);
    let (hub, _changes) = Hub::new(&*memory);
    let start = hub.end();
    hub.add(modified("a", 2), &*memory);
    hub.add(Change::Deleted(Arc::new(container("a", 3))), &*memory);
    let (entries, _) = hub.read(start, 10).unwrap();
    assert_eq!(entries[0].before.as_ref().map(|o| o.resource_version), Some(1));
    assert_eq!(entries[1].before.as_ref().map(|o| o.resource_version), Some(2));
    assert!(entries[1].now.is_none());
}

#[test]
fn a_deletion_is_never_older_than_what_was_told_before() {
    let memory = Memory::with(&["a", "b"]);
    let (hub, _changes) = Hub::new(&*memory);
    hub.add(modified("b", 7), &*memory);
    let start = hub.end();
    hub.add(Change::Deleted(Arc::new(container("a", 1))), &*memory);
    assert_eq!(versions(&hub, start), Ok(vec![7]));
}

#[tokio::test]
async fn changes_that_were_missed_end_every_watch() {
    let memory = Memory::with(&["a"]);
    let (hub, changes) = Hub::new(&*memory);
    let start = hub.end();
    let mut signal = hub.signal();
    for version in 2..200 {
        memory.set(container("a", version));
    }
    let feeding = Arc::clone(&memory);
    let fed = Arc::clone(&hub);
    let task = tokio::spawn(async move { fed.feed(changes, &*feeding).await });
    signal.changed().await.unwrap();
    assert_eq!(hub.read(start, 1).unwrap_err(), Gone);
    assert_eq!(hub.after(150), Err(Gone));
    assert!(hub.after(199).is_ok());
    task.abort();
}

/// Far more changes than are kept as they are: all read the same, with what was there before.
#[test]
fn changes_that_wait_as_text_are_read_as_they_were() {
    let memory = Memory::with(&["a", "b"]);
    let (hub, _changes) = Hub::new(&*memory);
    let start = hub.end();
    let mut expected = Vec::new();
    let (mut before, mut version) = (BTreeMap::from([("a", 1), ("b", 2)]), 2);
    for round in 0..100 {
        let name = if round % 3 == 0 { "b" } else { "a" };
        version += 1;
        let gone = round % 10 == 9;
        let change = container(name, version);
        let former = if gone { before.remove(name) } else { before.insert(name, version) };
        expected.push((version, (!gone).then_some(version), former));
        let change =
            if gone { Change::Deleted(Arc::new(change)) } else { Change::Modified(Arc::new(change)) };
        hub.add(change, &*memory);
    }
    assert!(matches!(hub.kept().entries[50], Slot::Packed { .. }), "nothing waits as text");
    let (entries, _) = hub.read(start, 1000).unwrap();
    let number = |view: &Option<Arc<ObjectView>>| view.as_ref().map(|view| view.resource_version);
    for (entry, (version, now, former)) in entries.iter().zip(&expected) {
        // What is deleted without having been there is told as it was last.
        let former = former.or_else(|| now.is_none().then_some(*version));
        assert_eq!((entry.version, number(&entry.now), number(&entry.before)), (*version, *now, former));
        if let Some(view) = &entry.now {
            let name = view.key.name.as_str();
            assert_eq!(**view, container(name, *version), "another object");
        }
    }
}
