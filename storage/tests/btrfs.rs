//! What only btrfs has: subvolumes in subvolumes, layers that nobody can change, quotas. The program `btrfs` is used here alone, as
//! somebody in a container would.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use stower_storage::testsuite::{Bench, Files, Item, close};
use stower_storage::{
    ChainId, Chosen, DriverError, OpenError, PrepareError, SnapshotKey, Snapshots, testsuite::Subject,
};

fn btrfs(args: &[&str], path: &Path) -> String {
    let out = Command::new("btrfs").args(args).arg(path).output().unwrap();
    assert!(out.status.success(), "btrfs {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn read_only(at: &Path, value: &str) {
    let out = Command::new("btrfs").args(["property", "set", "-f"]).arg(at).args(["ro", value]).output();
    let out = out.unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn sync(bench: &Bench) {
    rustix::fs::syncfs(std::fs::File::open(bench.at()).unwrap()).unwrap();
}

/// The ids of all subvolumes.
fn subvolumes(bench: &Bench) -> Vec<String> {
    let listed = btrfs(&["subvolume", "list"], bench.at());
    listed.lines().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect()
}

/// The ids of the subvolumes that there are accounts of.
fn qgroups(bench: &Bench) -> Vec<String> {
    let shown = btrfs(&["qgroup", "show", "--raw"], bench.at());
    shown.lines().filter_map(|line| Some(line.strip_prefix("0/")?.split(' ').next()?.to_owned())).collect()
}

/// The kernel and our own thread remove what was removed at a time of their own.
fn until(bench: &Bench, what: &str, is: impl Fn(&Bench) -> bool) {
    let begun = std::time::Instant::now();
    while !is(bench) {
        assert!(begun.elapsed().as_secs() < 60, "{what} is not there after a minute");
        sync(bench);
    }
}

fn base(bench: &Bench) -> ChainId {
    bench.unpack(&[vec![Item::file("foo", vec![1; 4 << 20])], vec![Item::file("bar", "2")]])
}

fn layer(bench: &Bench, chain: &ChainId) -> PathBuf {
    bench.at().join("btrfs/layers").join(chain.0.hex()).join("fs")
}

fn own(bench: &Bench, key: &SnapshotKey) -> PathBuf {
    bench.at().join("btrfs/snapshots").join(key.as_str()).join("fs")
}

#[test]
fn root_nobody_can_change_a_layer() {
    let bench = &mut Bench::new("btrfs");
    let top = base(bench);
    let above = bench.commit(Some(&top), |files| files.write("baz", "3"));
    for chain in [top, above] {
        for change in ["foo", "new"] {
            let refused = std::fs::write(layer(bench, &chain).join(change), "no").unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{change}");
        }
    }
    // Also one whose property a crash, or somebody, took away; and a snapshot that got it is writable again.
    let (key, mount) = bench.mounted(Some(&above));
    close(mount);
    read_only(&layer(bench, &above), "false");
    read_only(&own(bench, &key), "true");
    bench.reopen();
    assert!(std::fs::write(layer(bench, &above).join("new"), "no").is_err());
    Files::new(&bench.mount(&key)).write("mine", "yes");
}

#[test]
fn root_subvolumes_in_a_snapshot_go_with_it() {
    for subject in ["btrfs", "btrfs_quota"] {
        let bench = &mut Bench::new(subject);
        let top = base(bench);
        let before = subvolumes(bench);
        let (key, mount) = bench.mounted(Some(&top));
        let files = Files::new(&mount);
        for name in ["one", "one/two", "one/two/three", "four"] {
            btrfs(&["subvolume", "create"], &files.path(name));
            files.write(&format!("{name}/file"), "there");
        }
        read_only(&own(bench, &key).join("four"), "true");
        assert_eq!(subvolumes(bench).len(), before.len() + 5);
        // Who has one of its files open is in the way of nothing.
        let open = std::fs::File::open(files.path("one/two/three/file")).unwrap();
        close(mount);
        bench.store().remove(&key).unwrap();
        until(bench, "an empty trash", |bench| bench.entries("trash") == 0);
        assert_eq!(subvolumes(bench), before);
        assert_eq!(std::io::read_to_string(open).unwrap(), "there");
        if subject == "btrfs_quota" {
            // What is left is of the filesystem's own root and of each of ours; a start removes what it finds.
            // Wakes whoever in the kernel frees it, and waits for it.
            btrfs(&["filesystem", "sync"], bench.at());
            btrfs(&["subvolume", "sync"], bench.at());
            let begun = std::time::Instant::now();
            while qgroups(bench).len() > before.len() + 1 {
                assert!(begun.elapsed().as_secs() < 60, "{:?} of {:?}", qgroups(bench), subvolumes(bench));
                sync(bench);
                bench.reopen();
            }
            bench.reopen();
            assert_eq!(bench.entries("accounts"), 0);
        }
    }
}

/// Left half removed, or half made, they are removed at start-up.
#[test]
fn root_subvolumes_in_the_trash_go_at_start() {
    let bench = &mut Bench::new("btrfs");
    let before = subvolumes(bench);
    for dir in ["trash/7", "staging/7", "layers/0000"] {
        let at = bench.at().join("btrfs").join(dir);
        std::fs::create_dir(&at).unwrap();
        for name in ["fs", "fs/inner", "fs/inner/inner"] {
            btrfs(&["subvolume", "create"], &at.join(name));
        }
    }
    assert_eq!(subvolumes(bench).len(), before.len() + 9);
    bench.reopen();
    assert_eq!((bench.entries("trash"), bench.entries("staging"), bench.entries("layers")), (0, 0, 0));
    assert_eq!(subvolumes(bench), before);
}

/// Each subvolume counts its inodes from the same number: a link in the one is no link of a file in the other.
#[test]
fn root_links_in_two_subvolumes_are_not_one_file() {
    let bench = &mut Bench::new("btrfs");
    let (key, mount) = bench.mounted(None);
    let files = Files::new(&mount);
    let mut numbers = Vec::new();
    for name in ["one", "two"] {
        btrfs(&["subvolume", "create"], &files.path(name));
        files.write(&format!("{name}/file"), name);
        std::fs::hard_link(files.path(&format!("{name}/file")), files.path(&format!("{name}/link"))).unwrap();
        numbers.push(std::fs::metadata(files.path(&format!("{name}/file"))).unwrap().ino());
    }
    assert_eq!(numbers[0], numbers[1]);
    let mut archive = Vec::new();
    bench.store().export(&key, &mut archive).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.tar"), archive).unwrap();
    let done =
        Command::new("tar").arg("-xf").arg(dir.path().join("a.tar")).arg("-C").arg(dir.path()).status();
    assert!(done.unwrap().success());
    for name in ["one", "two"] {
        for file in ["file", "link"] {
            assert_eq!(std::fs::read_to_string(dir.path().join(name).join(file)).unwrap(), name);
        }
    }
}

/// What a snapshot wrote counts, what it has from its parent does not; also where it is a file of the parent that it wrote to,
/// and where it made subvolumes.
#[test]
fn root_usage_is_its_own() {
    for subject in ["btrfs", "btrfs_quota"] {
        let bench = &mut Bench::new(subject);
        let top = base(bench);
        let (key, mount) = bench.mounted(Some(&top));
        let usage = |bench: &Bench| {
            sync(bench);
            bench.store().usage(&key).unwrap()
        };
        let before = usage(bench);
        assert!(before.bytes < 1 << 20 && before.inodes == 0, "{subject}: {before:?}");
        let files = Files::new(&mount);
        let mut foo = std::fs::File::options().write(true).open(files.path("foo")).unwrap();
        std::io::Write::write_all(&mut foo, &vec![2; 1 << 20]).unwrap();
        files.write("small", "in the tree itself");
        let after = usage(bench);
        let grown = after.bytes - before.bytes;
        assert!((1 << 20..(1 << 20) + (256 << 10)).contains(&grown), "{subject}: {after:?}");
        // The root, the file of the parent, the new one.
        assert_eq!(after.inodes, 3, "{subject}");
        btrfs(&["subvolume", "create"], &files.path("inner"));
        std::fs::write(files.path("inner/more"), vec![3; 1 << 20]).unwrap();
        let inner = usage(bench);
        assert!((1 << 20..2 << 20).contains(&(inner.bytes - after.bytes)), "{subject}: {inner:?}");
        assert_eq!(inner.inodes, 5, "{subject}");
        close(mount);
        bench.reopen();
        assert_eq!(usage(bench), inner, "{subject}");
    }
}

/// A layer that somebody took the content from costs that layer, not the others.
#[test]
fn root_damage_costs_what_is_damaged() {
    let bench = &mut Bench::new("btrfs");
    let (good, bad) = (base(bench), bench.unpack(&[vec![Item::file("bad", "1")]]));
    btrfs(&["subvolume", "delete"], &layer(bench, &bad));
    bench.reopen();
    assert_eq!(bench.view(&good).len(), 3);
    let key = bench.key();
    assert!(bench.store().prepare(&key, Some(&bad)).is_err());
    assert_eq!((bench.entries("staging"), bench.entries("snapshots")), (0, 0));
}

/// A limit is on what is written, so it holds for files of the image that are overwritten too.
#[test]
fn root_overwriting_the_image_counts() {
    let bench = &mut Bench::new("btrfs_quota");
    let top = bench.unpack(&[vec![Item::file("foo", vec![1; 64 << 20])]]);
    let key = bench.key();
    bench.store().prepare_limited(&key, Some(&top), 16 << 20).unwrap();
    let mount = bench.mount(&key);
    let mut foo = std::fs::File::options().write(true).open(Files::new(&mount).path("foo")).unwrap();
    let mut written = 0;
    let refused = loop {
        let piece = std::io::Write::write_all(&mut foo, &[2; 1 << 20]).and_then(|()| foo.sync_data());
        match piece {
            Ok(()) if written < 64 => written += 1,
            Ok(()) => panic!("{written} MiB were written within 16"),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), std::io::ErrorKind::QuotaExceeded, "after {written} MiB");
    assert!((8..=16).contains(&written), "{written} MiB");
    // Without a limit it goes on.
    bench.store().resize(&key, None).unwrap();
    std::io::Write::write_all(&mut foo, &[2; 1 << 20]).and_then(|()| foo.sync_data()).unwrap();
}

fn refused(store: &Snapshots, limit: u64) -> String {
    match store.prepare_limited(&SnapshotKey::new("limited").unwrap(), None, limit).unwrap_err() {
        PrepareError::Driver(_, why @ DriverError::NoLimit { .. }) => why.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn root_without_quotas_a_limit_is_refused_with_what_to_do() {
    let bench = &mut Bench::new("btrfs");
    let at = bench.at().join("btrfs");
    assert!(!bench.store().status().unwrap().limits);
    let text = refused(bench.store(), 1 << 30);
    assert!(text.ends_with(&format!("turn them on with `btrfs quota enable {}`", at.display())), "{text}");
    // As it says, also with what is there by then.
    let (key, _mount) = bench.mounted(None);
    btrfs(&["quota", "enable"], &at);
    assert!(bench.store().status().unwrap().limits);
    bench.store().resize(&key, Some(1 << 30)).unwrap();
    assert!(btrfs(&["qgroup", "show", "-e", "--raw"], &at).contains("1073741824"));
    // And off again: what was limited is said not to be any more.
    btrfs(&["quota", "disable"], &at);
    assert!(!bench.store().status().unwrap().limits);
    assert!(bench.store().resize(&key, Some(1 << 30)).is_err());
    bench.store().resize(&key, None).unwrap();
}

#[test]
fn root_options() {
    const OPTIONS: &[(&str, &str)] = &[("btrfs.min_space", "16M")];
    let bench = &mut Bench::on(Subject { options: OPTIONS, ..Subject::find("btrfs_quota") });
    let details = bench.store().status().unwrap().details;
    assert!(details.contains(&("btrfs.min_space".to_owned(), (16 << 20).to_string())), "{details:?}");
    assert!(refused(bench.store(), (16 << 20) - 1).contains("less than btrfs.min_space=16777216"));
    bench.store().prepare_limited(&SnapshotKey::new("limited").unwrap(), None, 16 << 20).unwrap();
    let wrong = |name: &str, value: &str| {
        let options = [(name.to_owned(), value.to_owned())];
        Snapshots::open(bench.at(), Some("btrfs"), &options).unwrap_err().to_string()
    };
    assert!(wrong("btrfs.min_space", "much").contains("expected a size"));
    assert!(wrong("btrfs.max_space", "1G").ends_with("which has these: btrfs.min_space"));
}

#[test]
fn root_only_on_btrfs() {
    let dir = tempfile::tempdir().unwrap();
    match Snapshots::open(dir.path(), Some("btrfs"), &[]) {
        Err(OpenError::Unusable { driver: "btrfs", source: DriverError::Filesystem { wanted, .. } }) => {
            assert_eq!(wanted, "btrfs");
        }
        other => panic!("{other:?}"),
    }
    assert!(!dir.path().join("btrfs").exists());
    // Where overlayfs works too, it comes first; what is in use stays in use.
    let bench = &mut Bench::new("btrfs");
    assert_eq!(Snapshots::open(bench.at(), None, &[]).unwrap().driver(), "overlay");
    base(bench);
    let again = Snapshots::open(bench.at(), None, &[]).unwrap();
    assert_eq!((again.driver(), again.selection().chosen), ("btrfs", Chosen::InUse));
}
