//! What is told of snapshots and layers, and that the telling is right while they come and go.

use std::collections::BTreeSet;

use super::{Bench, Check, Files, Item, close};
use crate::diff::DiffError;
use crate::digest::ChainId;
use crate::driver::{LayerRecord, SnapshotKey, SnapshotKind, SnapshotRecord};
use crate::mount::Mount;
use crate::snapshots::{CommitError, PrepareError, SnapshotError, Snapshots};

pub(super) const CHECKS: &[Check] = &[
    ("empty_store", empty_store),
    ("unknown_snapshot", unknown_snapshot),
    ("stat_active", stat_active),
    ("stat_committed", stat_committed),
    ("commit_twice", commit_twice),
    ("transitivity", transitivity),
    ("prepare_view_failing", prepare_view_failing),
    ("walk", walk),
    ("stat_in_walk", stat_in_walk),
    ("remove_in_walk", remove_in_walk),
    ("close_twice", close_twice),
    ("same_mounts_for_ever", same_mounts_for_ever),
];

fn records(store: &Snapshots) -> (Vec<SnapshotRecord>, Vec<LayerRecord>) {
    (store.list(), store.layers())
}

fn empty_store(bench: &mut Bench) {
    for _ in 0..2 {
        assert_eq!(records(bench.store()), (Vec::new(), Vec::new()));
        let nowhere = ChainId::base(bench.diff_id());
        assert!(!bench.store().has(&nowhere));
        bench.store().remove_layer(&nowhere).unwrap();
        bench.reopen();
    }
}

/// What is asked of a snapshot that is not there says so; what would end it has nothing to do.
fn unknown_snapshot(bench: &mut Bench) {
    let key = bench.key();
    let diff_id = bench.diff_id();
    let store = bench.store();
    let not_found = |error: &SnapshotError| matches!(error, SnapshotError::NotFound(it) if *it == key);
    assert!(not_found(&store.activate(&key).unwrap_err()));
    assert!(not_found(&store.usage(&key).unwrap_err()));
    assert!(not_found(&store.resize(&key, None).unwrap_err()));
    assert!(matches!(store.commit(&key, &diff_id).unwrap_err(), CommitError::Snapshot(it) if not_found(&it)));
    assert!(matches!(store.changes(&key, &[]).unwrap_err(), DiffError::Snapshot(it) if not_found(&it)));
    assert!(
        matches!(store.export(&key, &mut Vec::new()).unwrap_err(), DiffError::Snapshot(it) if not_found(&it))
    );
    store.deactivate(&key).unwrap();
    store.remove(&key).unwrap();
    assert_eq!(records(store), (Vec::new(), Vec::new()));
}

fn stat_active(bench: &mut Bench) {
    let base = bench.commit(None, |files| files.write("foo", "1"));
    let mut expected = Vec::new();
    for parent in [None, Some(base)] {
        for kind in [SnapshotKind::Writable, SnapshotKind::View] {
            let key = bench.key();
            match kind {
                SnapshotKind::Writable => bench.store().prepare(&key, parent.as_ref()).unwrap(),
                SnapshotKind::View => bench.store().view(&key, parent.as_ref()).unwrap(),
            }
            expected.push(SnapshotRecord { key, kind, parent });
        }
    }
    assert_eq!(bench.store().list(), expected);
    for snapshot in &expected {
        close(bench.mount(&snapshot.key));
    }
    assert_eq!(bench.store().list(), expected, "in use");
    for snapshot in &expected {
        bench.store().deactivate(&snapshot.key).unwrap();
    }
    bench.reopen();
    assert_eq!(bench.store().list(), expected, "after a restart");
}

fn stat_committed(bench: &mut Bench) {
    let (key, mount) = bench.mounted(None);
    Files::new(&mount).write("foo", "1");
    close(mount);
    let diff_id = bench.diff_id();
    let chain = bench.store().commit(&key, &diff_id).unwrap();
    let expected = vec![LayerRecord { chain: ChainId::base(diff_id), parent: None, diff_id }];
    for _ in 0..2 {
        assert_eq!(records(bench.store()), (Vec::new(), expected.clone()));
        assert!(bench.store().has(&chain));
        assert!(matches!(bench.store().activate(&key), Err(SnapshotError::NotFound(_))));
        bench.reopen();
    }
}

/// What was committed is no snapshot any more, and its key is free.
fn commit_twice(bench: &mut Bench) {
    let (key, mount) = bench.mounted(None);
    Files::new(&mount).write("foo", "1");
    close(mount);
    let (first, second) = (bench.diff_id(), bench.diff_id());
    let chain = bench.store().commit(&key, &first).unwrap();
    for again in [first, second] {
        assert!(matches!(
            bench.store().commit(&key, &again),
            Err(CommitError::Snapshot(SnapshotError::NotFound(_)))
        ));
    }
    bench.store().prepare(&key, Some(&chain)).unwrap();
    assert_eq!(Files::new(&bench.mount(&key)).read("foo"), "1");
    assert_eq!(bench.store().layers().len(), 1);
}

/// Whose parent is whose holds all the way down, and the nearest one shows.
fn transitivity(bench: &mut Bench) {
    let mut chains: Vec<ChainId> = Vec::new();
    for n in 0..4 {
        let parent = chains.last().copied();
        chains.push(bench.commit(parent.as_ref(), |files| {
            files.write("nearest", &n.to_string());
            files.write(&format!("f{n}"), "");
        }));
    }
    let (key, mount) = bench.mounted(chains.last());
    let files = Files::new(&mount);
    assert_eq!(files.read("nearest"), "3");
    close(mount);
    bench.store().deactivate(&key).unwrap();
    bench.reopen();
    let layers = bench.store().layers();
    let by_chain = |chain: &ChainId| layers.iter().find(|layer| layer.chain == *chain).unwrap();
    let mut up = bench.store().list()[0].parent;
    for chain in chains.iter().rev() {
        assert_eq!(up.as_ref(), Some(chain));
        let layer = by_chain(chain);
        assert_eq!(ChainId::on(layer.parent, layer.diff_id), *chain);
        up = layer.parent;
    }
    assert_eq!((up, layers.len()), (None, 4));
    for (n, chain) in chains.iter().enumerate() {
        assert_eq!(bench.view(chain).len(), n + 3, "of layer {n}");
    }
}

/// A snapshot is based on what is committed, never on another one that can still change; what fails leaves nothing.
fn prepare_view_failing(bench: &mut Bench) {
    let base = bench.commit(None, |files| files.write("foo", "1"));
    let (active, _mount) = bench.mounted(Some(&base));
    let not_yet = ChainId::on(Some(base), bench.diff_id());
    let key = bench.key();
    assert!(
        matches!(bench.store().prepare(&key, Some(&not_yet)), Err(PrepareError::NoParent(it)) if it == not_yet)
    );
    assert!(
        matches!(bench.store().view(&key, Some(&not_yet)), Err(PrepareError::NoParent(it)) if it == not_yet)
    );
    assert_eq!(bench.store().list().len(), 1);
    assert_eq!((bench.entries("staging"), bench.entries("snapshots")), (0, 1));
    // A key is of one kind.
    assert!(matches!(bench.store().view(&active, Some(&base)), Err(PrepareError::Conflict(_))));
    bench.store().view(&key, Some(&base)).unwrap();
    bench.store().view(&key, Some(&base)).unwrap();
    assert!(matches!(bench.store().prepare(&key, Some(&base)), Err(PrepareError::Conflict(_))));
    assert!(matches!(bench.store().view(&key, None), Err(PrepareError::Conflict(_))));
    assert_eq!(bench.store().list().len(), 2);
}

/// Two layers, and three snapshots on them.
fn some(bench: &mut Bench) -> (Vec<ChainId>, BTreeSet<SnapshotKey>) {
    let one = bench.commit(None, |files| files.write("foo", "1"));
    let two = bench.commit(Some(&one), |files| files.write("bar", "2"));
    let keys = [bench.key(), bench.key(), bench.key()];
    bench.store().prepare(&keys[0], Some(&two)).unwrap();
    bench.store().view(&keys[1], Some(&two)).unwrap();
    bench.store().prepare(&keys[2], Some(&one)).unwrap();
    (vec![one, two], BTreeSet::from(keys))
}

fn keys(store: &Snapshots) -> Vec<SnapshotKey> {
    store.list().into_iter().map(|snapshot| snapshot.key).collect()
}

/// All are told, each once, in an order that stays.
fn walk(bench: &mut Bench) {
    let (chains, expected) = some(bench);
    let expected: Vec<SnapshotKey> = expected.into_iter().collect();
    let layers: BTreeSet<ChainId> = chains.into_iter().collect();
    for _ in 0..2 {
        assert_eq!(keys(bench.store()), expected);
        let told: Vec<ChainId> = bench.store().layers().into_iter().map(|layer| layer.chain).collect();
        assert_eq!(told, layers.iter().copied().collect::<Vec<_>>());
        bench.reopen();
    }
    bench.store().remove(&expected[1]).unwrap();
    assert_eq!(keys(bench.store()), [expected[0].clone(), expected[2].clone()]);
}

/// Everything can be asked of what a walk comes to.
fn stat_in_walk(bench: &mut Bench) {
    let (_, _) = some(bench);
    for snapshot in bench.store().list() {
        bench.store().usage(&snapshot.key).unwrap();
        bench.store().activate(&snapshot.key).unwrap();
        assert_eq!(bench.store().changes(&snapshot.key, &[]).unwrap(), []);
        bench.store().deactivate(&snapshot.key).unwrap();
        assert!(bench.store().list().contains(&snapshot));
    }
    for layer in bench.store().layers() {
        assert!(bench.store().has(&layer.chain) && bench.store().layers().contains(&layer));
    }
}

/// What a walk comes to can be removed, also by several at once, and the walk ends.
fn remove_in_walk(bench: &mut Bench) {
    let (mut chains, _) = some(bench);
    let store = bench.store();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for snapshot in store.list() {
                    match store.remove(&snapshot.key) {
                        // Another walk is at it.
                        Ok(()) | Err(SnapshotError::Busy(_)) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
        }
    });
    assert_eq!(store.list(), []);
    while let Some(top) = chains.pop() {
        assert!(store.layers().iter().any(|layer| layer.chain == top));
        store.remove_layer(&top).unwrap();
    }
    bench.reopen();
    assert_eq!(records(bench.store()), (Vec::new(), Vec::new()));
}

/// A store that was closed and opened has nothing to put right, and the next time neither.
fn close_twice(bench: &mut Bench) {
    let (chains, _) = some(bench);
    let before = records(bench.store());
    for _ in 0..3 {
        bench.reopen();
        assert_eq!(records(bench.store()), before);
    }
    assert_eq!(bench.view(&chains[1]).len(), 3);
}

/// An image's mounts are the same whatever is made, removed and unpacked beside it, and after every restart.
fn same_mounts_for_ever(bench: &mut Bench) {
    let lower = vec![Item::dir("d"), Item::file("d/f", "1"), Item::symlink("l", "d")];
    let middle = vec![Item::file("l/g", "2"), Item::whiteout("d/f")];
    let top = vec![Item::opaque("e"), Item::file("e/h", "3")];
    let image = bench.unpack(&[lower.clone(), middle.clone(), top]);
    let key = bench.key();
    bench.store().view(&key, Some(&image)).unwrap();
    let seen = bench.view(&image);
    let mounts = bench.store().activate(&key).unwrap();
    let same = |bench: &mut Bench, when: &str| {
        let again = bench.store().activate(&key).unwrap();
        // A device may have another number, and then shows the same.
        let device = matches!(again[0], Mount::Block { .. });
        assert!(mounts == again || device, "{when}: {mounts:?}, then {again:?}");
        assert_eq!(seen, bench.view(&image), "{when}");
    };
    let other = bench.unpack(&[lower, middle, vec![Item::whiteout("e"), Item::file("d/x", "4")]]);
    same(bench, "after an image that shares layers");
    let above = bench.commit(Some(&image), |files| files.remove("d"));
    let (writer, mount) = bench.mounted(Some(&image));
    Files::new(&mount).write("e/h", "changed");
    close(mount);
    same(bench, "beside a writer");
    bench.store().remove(&writer).unwrap();
    bench.store().remove_layer(&above).unwrap();
    bench.store().remove_layer(&other).unwrap();
    same(bench, "after removals");
    for _ in 0..2 {
        bench.store().deactivate(&key).unwrap();
        bench.reopen();
        same(bench, "after a restart");
    }
}
