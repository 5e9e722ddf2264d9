//! What moby asks of its graph drivers.

use std::os::unix::fs::{MetadataExt, chown};

use super::images::stacks;
use super::{Bench, Check, Files, Item, blob, close};
use crate::diff::ChangeKind;
use crate::layer::{Compression, UnpackLimits};
use crate::mount::Mount;
use crate::mount::detached::{OverlayWay, open_overlay};

pub(super) const CHECKS: &[Check] = &[
    ("create_empty", create_empty),
    ("create_base", create_base),
    ("create_snap", create_snap),
    ("deep_layer_read", deep_layer_read),
    ("diff_apply", diff_apply),
    ("changes_exact", changes_exact),
    ("concurrent_snapshots", concurrent_snapshots),
    ("merged_trees_equal", merged_trees_equal),
];

fn create_empty(bench: &mut Bench) {
    let (key, mount) = bench.mounted(None);
    let root = Files::new(&mount).path("").metadata().unwrap();
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o755, 0, 0));
    assert_eq!(super::tree(&mount).len(), 1, "nothing is in it");
    close(mount);
    let diff_id = bench.diff_id();
    let chain = bench.store().commit(&key, &diff_id).unwrap();
    assert_eq!(bench.view(&chain).len(), 1);
}

/// A tree with the modes that are easily lost: a file that is set-user-id and not readable, a sticky directory, another
/// owner.
fn base(files: &Files) {
    files.write("a file", "content");
    chown(files.path("a file"), Some(1), Some(2)).unwrap();
    files.chmod("a file", 0o4222);
    files.mkdir("a subdir");
    chown(files.path("a subdir"), Some(3), Some(4)).unwrap();
    files.chmod("a subdir", 0o1705);
    files.mkdir("a subdir/deeper");
    files.write("a subdir/deeper/empty", "");
}

fn is_base(files: &Files) {
    let look = |name: &str| {
        let meta = files.path(name).symlink_metadata().unwrap();
        (meta.mode(), meta.uid(), meta.gid())
    };
    assert_eq!(look("a file"), (0o104_222, 1, 2));
    assert_eq!(look("a subdir"), (0o041_705, 3, 4));
    assert_eq!(look("a subdir/deeper").1, 0);
    assert_eq!(files.read("a file"), "content");
    assert_eq!(files.read("a subdir/deeper/empty"), "");
    assert_eq!(std::fs::read_dir(files.path("")).unwrap().count(), 2);
}

fn create_base(bench: &mut Bench) {
    let (key, mount) = bench.mounted(None);
    base(&Files::new(&mount));
    is_base(&Files::new(&mount));
    close(mount);
    bench.store().deactivate(&key).unwrap();
    let mount = bench.mount(&key);
    is_base(&Files::new(&mount));
}

fn create_snap(bench: &mut Bench) {
    let chain = bench.commit(None, base);
    let (_key, mount) = bench.mounted(Some(&chain));
    is_base(&Files::new(&mount));
    close(mount);
    let next = bench.commit(Some(&chain), is_base);
    let (_key, mount) = bench.mounted(Some(&next));
    is_base(&Files::new(&mount));
}

/// 128 committed layers, each with a file of its own and one that all have; read by both ways to mount an overlay, with
/// a writable layer and without.
fn deep_layer_read(bench: &mut Bench) {
    const DEPTH: usize = 128;
    let mut parent = None;
    for n in 0..DEPTH {
        parent = Some(bench.commit(parent.as_ref(), |files| {
            files.write("top", &n.to_string());
            files.write(&format!("f{n}"), &n.to_string());
        }));
    }
    let top = parent.unwrap();
    let (writable, view) = (bench.key(), bench.key());
    bench.store().prepare(&writable, Some(&top)).unwrap();
    bench.store().view(&view, Some(&top)).unwrap();
    for key in [writable, view] {
        let mounts = bench.store().activate(&key).unwrap();
        if let Mount::Overlay { lower, .. } = &mounts[0] {
            assert_eq!(lower.len(), DEPTH);
        }
        for way in [OverlayWay::Each, OverlayWay::Page] {
            let mount = open_overlay(&mounts[0], way).unwrap_or_else(|error| panic!("{way:?}: {error:?}"));
            let files = Files::new(&mount);
            assert_eq!(files.read("top"), (DEPTH - 1).to_string(), "{way:?}");
            for n in 0..DEPTH {
                assert_eq!(files.read(&format!("f{n}")), n.to_string(), "{way:?}");
            }
        }
    }
}

fn many() -> Vec<Item> {
    let files = (0..20).map(|n| Item::file(format!("file-{n:02}"), vec![n; 64 + usize::from(n)]));
    std::iter::once(Item::dir("dir").mode(0o711)).chain(files).collect()
}

/// The layer of a snapshot, on the same image again, gives the snapshot.
fn diff_apply(bench: &mut Bench) {
    let image = bench.unpack(&[many()]);
    let (key, mount) = bench.mounted(Some(&image));
    let files = Files::new(&mount);
    for n in 0..10 {
        files.remove(&format!("file-{n:02}"));
        files.write(&format!("new-{n}"), &n.to_string());
    }
    files.write("file-10", "another");
    files.chmod("file-11", 0o600);
    files.remove("dir");
    files.mkdir("dir/in");
    let expected = super::tree(&mount);
    let mut layer = Vec::new();
    assert!(bench.store().write_layer(&key, &[], &UnpackLimits::default(), &mut layer).unwrap());
    close(mount);
    let layers = vec![blob(super::tar::archive(&many()), Compression::None), blob(layer, Compression::Gzip)];
    let top = bench.store().unpack_image(layers, &UnpackLimits::default()).unwrap();
    let different = super::difference(&expected, &bench.view(&top));
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// What is told of changes is all of them, and nothing else.
fn changes_exact(bench: &mut Bench) {
    let image = bench.unpack(&[many()]);
    let (key, mount) = bench.mounted(Some(&image));
    let files = Files::new(&mount);
    assert_eq!(bench.store().changes(&key, &[]).unwrap(), []);
    let mut expected = vec![(ChangeKind::Modified, "/dir".to_owned())];
    for n in 0..20 {
        let name = format!("file-{n:02}");
        match n % 4 {
            0 => files.write(&name, "another"),
            1 => files.remove(&name),
            2 => files.chmod(&name, 0o600),
            // Read, and written to without a change of anything.
            _ => {
                std::fs::read(files.path(&name)).unwrap();
                drop(std::fs::OpenOptions::new().append(true).open(files.path(&name)).unwrap());
                continue;
            }
        }
        let kind = if n % 4 == 1 { ChangeKind::Deleted } else { ChangeKind::Modified };
        expected.push((kind, format!("/{name}")));
    }
    files.write("dir/new", "1");
    files.write("gone again", "1");
    files.remove("gone again");
    expected.push((ChangeKind::Added, "/dir/new".to_owned()));
    expected.sort_by(|left, right| left.1.cmp(&right.1));
    let told = |bench: &Bench| -> Vec<(ChangeKind, String)> {
        let changes = bench.store().changes(&key, &[]).unwrap();
        changes.into_iter().map(|change| (change.kind, change.path.display().to_string())).collect()
    };
    assert_eq!(told(bench), expected);
    close(mount);
    bench.store().deactivate(&key).unwrap();
    bench.reopen();
    assert_eq!(told(bench), expected, "after a restart");
}

/// Many at once, from the same layer, each with what its own writer wrote and nothing else.
fn concurrent_snapshots(bench: &mut Bench) {
    const THREADS: usize = 8;
    let base = bench.unpack(&[vec![Item::file("shared", "base")], vec![Item::dir("d")]]);
    let keys: Vec<_> = (0..THREADS).map(|_| bench.key()).collect();
    let shared: &Bench = bench;
    std::thread::scope(|scope| {
        for (n, key) in keys.iter().enumerate() {
            scope.spawn(move || {
                let store = shared.store();
                store.prepare(key, Some(&base)).unwrap();
                let mount = shared.mount(key);
                let files = Files::new(&mount);
                files.write("shared", &n.to_string());
                files.write(&format!("d/{n}"), "");
                assert_eq!(std::fs::read_dir(files.path("d")).unwrap().count(), 1);
                assert_eq!(files.read("shared"), n.to_string());
                close(mount);
                store.deactivate(key).unwrap();
                if n % 2 == 0 {
                    store.remove(key).unwrap();
                }
            });
        }
    });
    assert_eq!(bench.store().list().len(), THREADS / 2);
    assert_eq!(bench.view(&base)["shared"].content, bench.view(&base)["shared"].content);
    let mount = bench.mount(&keys[1]);
    assert_eq!(Files::new(&mount).read("shared"), "1");
}

/// What every driver makes of every hand-made stack is what unpacking one layer over the other makes of it.
fn merged_trees_equal(bench: &mut Bench) {
    let mut reference = Bench::new("native");
    for (name, stack) in stacks() {
        let (one, two) = (reference.unpack(&stack), bench.unpack(&stack));
        let different = super::difference(&reference.view(&one), &bench.view(&two));
        assert!(different.is_empty(), "{name}:\n{}", different.join("\n"));
    }
}
