//! Snapshots and layers come and go.

use super::{Bench, Check, Item, blob, close};
use crate::driver::SnapshotKind;
use crate::layer::{Compression, UnpackLimits};
use crate::snapshots::{CommitError, PrepareError, RemoveLayerError, SnapshotError};

pub(super) const CHECKS: &[Check] = &[
    ("basic", basic),
    ("prepare_twice", prepare_twice),
    ("prepare_without_parent", prepare_without_parent),
    ("view_readonly", view_readonly),
    ("activate_twice", activate_twice),
    ("remove_twice", remove_twice),
    ("remove_active", remove_active),
    ("remove_intermediate", remove_intermediate),
    ("remove_after_commit", remove_after_commit),
    ("commit_refusals", commit_refusals),
    ("commit_same_mounts", commit_same_mounts),
    ("restart_finds_all", restart_finds_all),
    ("usage", usage),
    ("independent_writers", independent_writers),
    ("layers_unpack_once", layers_unpack_once),
    ("unpack_shared", unpack_shared),
    ("unpack_wrong_bytes", unpack_wrong_bytes),
    ("compressions", compressions),
    ("deep_stack", deep_stack),
];

fn basic(bench: &mut Bench) {
    let base = bench.commit(None, |files| {
        files.write("foo", "foo\n");
        files.mkdir("a/b/c");
    });
    let next = bench.commit(Some(&base), |files| {
        assert_eq!(files.read("foo"), "foo\n");
        files.write("bar", "bar\n");
        files.mkdir("a/b");
    });
    assert!(bench.store().has(&base) && bench.store().has(&next));
    let below = bench.view(&base);
    let above = bench.view(&next);
    assert!(below.contains_key("a/b/c") && !below.contains_key("bar"));
    assert!(above.contains_key("foo") && above.contains_key("bar"));
    let (key, _mount) = bench.mounted(Some(&next));
    let listed = bench.store().list();
    assert_eq!(listed.len(), 1, "committed snapshots are gone: {listed:?}");
    assert_eq!(
        (&listed[0].key, listed[0].kind, listed[0].parent),
        (&key, SnapshotKind::Writable, Some(next))
    );
    assert_eq!(bench.store().layers().len(), 2);
}

fn prepare_twice(bench: &mut Bench) {
    let base = bench.commit(None, |files| files.write("foo", "1"));
    let other = bench.commit(Some(&base), |files| files.write("foo", "2"));
    let (key, mount) = bench.mounted(Some(&base));
    super::Files::new(&mount).write("mine", "kept");
    bench.store().prepare(&key, Some(&base)).unwrap();
    assert_eq!(super::Files::new(&mount).read("mine"), "kept");
    assert!(matches!(bench.store().prepare(&key, Some(&other)), Err(PrepareError::Conflict(_))));
    assert!(matches!(bench.store().view(&key, Some(&base)), Err(PrepareError::Conflict(_))));
}

fn prepare_without_parent(bench: &mut Bench) {
    let key = bench.key();
    let nowhere = crate::digest::ChainId::base(bench.diff_id());
    assert!(matches!(bench.store().prepare(&key, Some(&nowhere)), Err(PrepareError::NoParent(_))));
    assert!(bench.store().list().is_empty());
    assert!(matches!(bench.store().activate(&key), Err(SnapshotError::NotFound(_))));
    bench.store().deactivate(&key).unwrap();
}

fn view_readonly(bench: &mut Bench) {
    let one = bench.commit(None, |files| files.write("foo", "1"));
    let two = bench.commit(Some(&one), |files| files.write("bar", "2"));
    for parent in [None, Some(one), Some(two)] {
        let key = bench.key();
        bench.store().view(&key, parent.as_ref()).unwrap();
        let mount = bench.mount(&key);
        let files = super::Files::new(&mount);
        let refused = std::fs::write(files.path("new"), "no").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{parent:?}");
        close(mount);
        bench.store().remove(&key).unwrap();
    }
}

fn activate_twice(bench: &mut Bench) {
    let base = bench.commit(None, |files| files.write("foo", "1"));
    let (key, mount) = bench.mounted(Some(&base));
    let first = bench.store().activate(&key).unwrap();
    assert_eq!(first, bench.store().activate(&key).unwrap());
    super::Files::new(&mount).write("kept", "yes");
    close(mount);
    bench.store().deactivate(&key).unwrap();
    bench.store().deactivate(&key).unwrap();
    let mount = bench.mount(&key);
    assert_eq!(super::Files::new(&mount).read("kept"), "yes");
}

fn remove_twice(bench: &mut Bench) {
    let (key, mount) = bench.mounted(None);
    close(mount);
    bench.store().remove(&key).unwrap();
    bench.store().remove(&key).unwrap();
    assert!(bench.store().list().is_empty());
    // The key is free again, and what is made then is new.
    bench.store().prepare(&key, None).unwrap();
    assert_eq!(super::tree(&bench.mount(&key)).len(), 1);
}

/// A mount that someone still has does not keep a snapshot from being removed.
fn remove_active(bench: &mut Bench) {
    let base = bench.commit(None, |files| files.write("foo", "1"));
    let (key, mount) = bench.mounted(Some(&base));
    bench.store().remove(&key).unwrap();
    assert!(bench.store().list().is_empty());
    close(mount);
    bench.store().prepare(&key, Some(&base)).unwrap();
    assert_eq!(super::Files::new(&bench.mount(&key)).read("foo"), "1");
}

fn remove_intermediate(bench: &mut Bench) {
    let one = bench.commit(None, |files| files.write("foo", "1"));
    let two = bench.commit(Some(&one), |files| files.write("bar", "2"));
    let (key, mount) = bench.mounted(Some(&two));
    for chain in [one, two] {
        assert!(matches!(bench.store().remove_layer(&chain), Err(RemoveLayerError::InUse { .. })));
    }
    assert_eq!(super::Files::new(&mount).read("foo"), "1");
    close(mount);
    bench.store().remove(&key).unwrap();
    assert!(matches!(bench.store().remove_layer(&one), Err(RemoveLayerError::InUse { .. })));
    bench.store().remove_layer(&two).unwrap();
    bench.store().remove_layer(&two).unwrap();
    bench.store().remove_layer(&one).unwrap();
    assert!(bench.store().layers().is_empty());
    bench.reopen();
    assert!(bench.store().layers().is_empty());
}

fn remove_after_commit(bench: &mut Bench) {
    let (key, mount) = bench.mounted(None);
    super::Files::new(&mount).write("foo", "1");
    close(mount);
    let diff_id = bench.diff_id();
    let chain = bench.store().commit(&key, &diff_id).unwrap();
    bench.store().remove(&key).unwrap();
    assert_eq!(bench.view(&chain).len(), 2);
    bench.store().remove_layer(&chain).unwrap();
    assert!(!bench.store().has(&chain));
}

fn commit_refusals(bench: &mut Bench) {
    let base = bench.commit(None, |files| files.write("foo", "1"));
    let view = bench.key();
    bench.store().view(&view, Some(&base)).unwrap();
    let diff_id = bench.diff_id();
    assert!(matches!(bench.store().commit(&view, &diff_id), Err(CommitError::View(_))));
    let nobody = bench.key();
    assert!(matches!(
        bench.store().commit(&nobody, &diff_id),
        Err(CommitError::Snapshot(SnapshotError::NotFound(_)))
    ));
    let (first, _) = bench.mounted(Some(&base));
    let (second, mount) = bench.mounted(Some(&base));
    super::Files::new(&mount).write("mine", "kept");
    close(mount);
    bench.store().commit(&first, &diff_id).unwrap();
    assert!(matches!(bench.store().commit(&second, &diff_id), Err(CommitError::Exists(_))));
    assert_eq!(super::Files::new(&bench.mount(&second)).read("mine"), "kept");
}

/// What is committed never changes, whatever happens above it or after a restart.
fn commit_same_mounts(bench: &mut Bench) {
    let one = bench.commit(None, |files| {
        files.mkdir("dir");
        files.write("dir/foo", "1");
    });
    let two = bench.commit(Some(&one), |files| files.write("dir/bar", "2"));
    let key = bench.key();
    bench.store().view(&key, Some(&two)).unwrap();
    let before = (bench.view(&one), bench.view(&two));
    let mounts = bench.store().activate(&key).unwrap();
    let three = bench.commit(Some(&two), |files| files.remove("dir"));
    let (_, mount) = bench.mounted(Some(&two));
    super::Files::new(&mount).write("dir/foo", "changed");
    close(mount);
    assert_eq!(mounts, bench.store().activate(&key).unwrap());
    bench.reopen();
    // A device has another number after a restart.
    let again = bench.store().activate(&key).unwrap();
    assert!(mounts == again || matches!(again[0], crate::mount::Mount::Block { .. }), "{mounts:?} {again:?}");
    assert_eq!(before, (bench.view(&one), bench.view(&two)));
    assert_eq!(bench.view(&three).len(), 1);
}

fn restart_finds_all(bench: &mut Bench) {
    let base = bench.unpack(&[vec![Item::file("foo", "1")], vec![Item::file("bar", "2")]]);
    let (key, mount) = bench.mounted(Some(&base));
    super::Files::new(&mount).write("mine", "kept");
    close(mount);
    bench.store().deactivate(&key).unwrap();
    let view = bench.key();
    bench.store().view(&view, Some(&base)).unwrap();
    let before = (bench.store().list(), bench.store().layers());
    bench.reopen();
    assert_eq!(before, (bench.store().list(), bench.store().layers()));
    assert!(bench.store().has(&base));
    assert_eq!(super::Files::new(&bench.mount(&key)).read("mine"), "kept");
    // Known already, so nothing is unpacked.
    bench.store().prepare(&key, Some(&base)).unwrap();
}

fn usage(bench: &mut Bench) {
    let base = bench.unpack(&[vec![Item::file("foo", vec![1; 1 << 20])]]);
    let (key, mount) = bench.mounted(Some(&base));
    let before = bench.store().usage(&key).unwrap();
    let files = super::Files::new(&mount);
    std::fs::write(files.path("more"), vec![7; 2 << 20]).unwrap();
    std::fs::hard_link(files.path("more"), files.path("again")).unwrap();
    rustix::fs::syncfs(crate::driver::overlay::reopen(&mount).unwrap()).unwrap();
    let after = bench.store().usage(&key).unwrap();
    let grown = after.bytes - before.bytes;
    assert!((2 << 20..3 << 20).contains(&grown), "{before:?} {after:?}");
    let nobody = bench.key();
    assert!(matches!(bench.store().usage(&nobody), Err(SnapshotError::NotFound(_))));
}

fn independent_writers(bench: &mut Bench) {
    let base = bench.commit(None, |files| files.write("foo", "base"));
    let (_one, first) = bench.mounted(Some(&base));
    let (_two, second) = bench.mounted(Some(&base));
    super::Files::new(&first).write("foo", "first");
    super::Files::new(&second).remove("foo");
    assert_eq!(super::Files::new(&first).read("foo"), "first");
    assert_eq!(super::tree(&second).len(), 1);
    assert_eq!(bench.view(&base).len(), 2);
}

/// A layer that is there is not opened again, also not by an image that goes on from it.
fn layers_unpack_once(bench: &mut Bench) {
    let one = vec![Item::file("foo", "1")];
    let two = vec![Item::file("bar", "2")];
    let base = bench.unpack(&[one.clone(), two.clone()]);
    let closed = |items: &[Item]| {
        let mut layer = blob(super::tar::archive(items), Compression::None);
        layer.open = Box::new(|| panic!("opened again"));
        layer
    };
    let limits = UnpackLimits::default();
    assert_eq!(bench.store().unpack_image(vec![closed(&one), closed(&two)], &limits).unwrap(), base);
    let more = blob(super::tar::archive(&[Item::file("more", "3")]), Compression::None);
    let top = bench.store().unpack_image(vec![closed(&one), closed(&two), more], &limits).unwrap();
    assert_eq!(bench.view(&top).len(), 4);
}

/// Several images at once with the same layers, of which one comes with a bad layer on top.
fn unpack_shared(bench: &mut Bench) {
    let layers: Vec<Vec<Item>> = (0..4)
        .map(|n| (0..20).map(|f| Item::file(format!("d{n}/f{f}"), format!("{n} {f}"))).collect())
        .collect();
    let bench = &*bench;
    let tops: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|n| {
                let mut mine = layers.clone();
                if n == 5 {
                    mine.push(vec![Item::hardlink("x", "nowhere")]);
                }
                scope.spawn(move || bench.try_unpack(&mine))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let good = tops[0].as_ref().unwrap();
    assert!(tops[..5].iter().all(|top| top.as_ref().is_ok_and(|top| top == good)));
    assert!(tops[5].is_err());
    assert_eq!(bench.store().layers().len(), 4);
    assert_eq!(bench.entries("staging"), 0, "a failure leaves nothing");
}

fn unpack_wrong_bytes(bench: &mut Bench) {
    let mut bad = blob(super::tar::archive(&[Item::file("foo", "1")]), Compression::None);
    bad.diff_id = bench.diff_id();
    let good = blob(super::tar::archive(&[Item::file("bar", "1")]), Compression::None);
    let base = crate::digest::ChainId::base(good.diff_id);
    let failed = bench.store().unpack_image(vec![good, bad], &UnpackLimits::default()).unwrap_err();
    let text = format!("{failed:?}");
    assert!(text.contains("DiffId"), "{text}");
    bench.reopen();
    assert!(bench.store().layers().iter().all(|layer| layer.chain == base));
}

fn compressions(bench: &mut Bench) {
    let layer = |n: u8, compression| {
        let items = [Item::file(format!("f{n}"), vec![n; 300_000]), Item::file(format!("g{n}"), [n])];
        blob(super::tar::archive(&items), compression)
    };
    let layers = vec![layer(0, Compression::None), layer(1, Compression::Gzip), layer(2, Compression::Zstd)];
    let top = bench.store().unpack_image(layers, &UnpackLimits::default()).unwrap();
    assert_eq!(bench.view(&top).len(), 7);
}

/// 128 layers, as deep as Docker allows, by both ways to mount an overlay.
fn deep_stack(bench: &mut Bench) {
    let layers: Vec<Vec<Item>> = (0..128)
        .map(|n| vec![Item::file("top", format!("{n}")), Item::file(format!("d/f{n}"), format!("{n}"))])
        .collect();
    let top = bench.unpack(&layers);
    let (key, mount) = bench.mounted(Some(&top));
    let files = super::Files::new(&mount);
    assert_eq!(files.read("top"), "127");
    assert_eq!(files.read("d/f0"), "0");
    files.write("d/f0", "changed");
    close(mount);
    let mounts = bench.store().activate(&key).unwrap();
    let paged =
        crate::mount::detached::open_overlay(&mounts[0], crate::mount::detached::OverlayWay::Page).unwrap();
    let files = super::Files::new(&paged);
    assert_eq!(files.read("top"), "127");
    assert_eq!(files.read("d/f0"), "changed");
    assert_eq!(files.read("d/f1"), "1");
}
