//! Layers that try to get out: contained or refused, and nothing outside of the store changes. The names are those of
//! containerd's `TestBreakouts`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use stower_storage::Digest;
use stower_storage::testsuite::{Bench, Item, ItemKind, Tree, tree};

const SECRET: &str = "of the host";

/// A directory that every case tries to reach, by absolute path and by going up.
struct Outside(tempfile::TempDir);

impl Outside {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("stower-outside").tempdir().unwrap();
        std::fs::write(dir.path().join("file"), SECRET).unwrap();
        std::fs::set_permissions(dir.path().join("file"), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        Self(dir)
    }

    fn seen(&self) -> Tree {
        tree(&std::fs::File::open(self.0.path()).unwrap().into())
    }
}

fn cases(outside: &Path) -> Vec<(&'static str, Vec<Item>)> {
    let out = outside.display().to_string();
    let up = format!("{}{}", "../".repeat(30), out.trim_start_matches('/'));
    let file = |path: &str| Item::file(path, "evil").mode(0o777);
    let link = |path: &str, target: &str| Item::symlink(path, target);
    let hard = |path: &str, target: &str| Item::hardlink(path, target);
    vec![
        ("SymlinkAbsolute", vec![link("l", &out), file("l/file")]),
        ("SymlinkUpAndOut", vec![link("l", &up), file("l/file")]),
        ("SymlinkMultipleAbsolute", vec![link("a", &out), link("b", "/a"), file("b/file")]),
        ("SymlinkMultipleRelative", vec![link("a", &up), link("x/b", "../a"), file("x/b/file")]),
        ("SymlinkEmptyFile", vec![link("l", &format!("{out}/new")), Item::file("l", "")]),
        ("SymlinkParentDirectory", vec![link("d/l", &format!("../../../..{out}")), file("d/l/file")]),
        ("SymlinkSlashEnded", vec![link("l/", &format!("{out}/")), file("l/file")]),
        ("SymlinkOverrideDirectory", vec![Item::dir("d"), link("d", &out), file("d/file")]),
        ("SymlinkOverrideDirectoryRelative", vec![Item::dir("d"), link("d", &up), file("d/dir/../file")]),
        ("DirectoryOverrideSymlink", vec![link("d", &out), Item::dir("d"), file("d/file")]),
        (
            "SymlinkOverridePath",
            vec![file("d/e/f"), link("d", &out), Item::dir("d/dir").mode(0o777), file("d/file")],
        ),
        ("SymlinkDirectoryTimes", vec![Item::dir("d/dir").mode(0o777), link("d", &out)]),
        ("SymlinkDirectoryTimesDeep", vec![Item::dir("x/dir").owner(1, 1), link("x", &up)]),
        ("HardlinkAbsolute", vec![hard("h", &format!("{out}/file")), file("h")]),
        ("HardlinkRelative", vec![hard("h", &up), file("h")]),
        ("HardlinkRelativeUpAndOut", vec![hard("d/h", &format!("{up}/file"))]),
        ("HardlinkDownAndOut", vec![Item::dir("d"), hard("h", &format!("d/../../{up}/file"))]),
        ("HardlinkSymlinkAbsolute", vec![link("l", &format!("{out}/file")), hard("h", "l"), file("h")]),
        ("HardlinkSymlinkRelative", vec![link("l", &format!("{up}/file")), hard("h", "l"), file("h")]),
        (
            "HardlinkSymlinkChmod",
            vec![link("l", &format!("{out}/file")), hard("h", "l").mode(0o777).owner(1, 1)],
        ),
        ("HardlinkSymlinkBeforeCreateTarget", vec![link("l", &out), hard("h", "l/file"), file("h")]),
        ("HardlinkThroughSymlink", vec![link("l", &out), hard("h", "l/file")]),
        ("HardlinkDirectory", vec![Item::dir("d"), hard("h", "d")]),
        ("WhiteoutRoot", vec![file("f"), Item::file(".wh.", "")]),
        ("WhiteoutParent", vec![file("f"), Item::file("d/.wh...", "")]),
        ("WhiteoutCurrentDirectory", vec![file("f"), Item::file("d/.wh..", "")]),
        ("WhiteoutSymlink", vec![link("l", &out), Item::file("l/.wh.file", "")]),
        (
            "WhiteoutSymlinkPath",
            vec![link("l", &up), Item::file("l/dir/.wh.x", ""), Item::file("l/.wh.dir", "")],
        ),
        ("WhiteoutDeadSymlinkParent", vec![link("l", "nowhere"), Item::file("l/.wh.file", "")]),
        ("WhiteoutRelativePath", vec![Item::file(format!("{up}/.wh.file"), "")]),
        ("WhiteoutOpaqueOutside", vec![link("l", &out), Item::file("l/.wh..wh..opq", "")]),
        ("UpAndOut", vec![file(&format!("{up}/file"))]),
        ("UpInTheMiddle", vec![file(&format!("a/../../{up}/file"))]),
        ("Absolute", vec![file(&format!("{out}/file"))]),
        ("XattrThroughSymlink", vec![link("l", &format!("{out}/file")).xattr("trusted.evil", "1")]),
        ("DeviceOverSymlink", vec![link("l", &format!("{out}/file")), Item::special("l", ItemKind::Fifo)]),
        ("SymlinkLoop", vec![link("a", "b"), link("b", "a"), file("a/f")]),
        (
            "ManyHardlinks",
            std::iter::once(file("0")).chain((1..2000).map(|n| hard(&n.to_string(), "0"))).collect(),
        ),
    ]
}

fn run(driver: &str) {
    let outside = Outside::new();
    let before = outside.seen();
    // Each case on nothing, on a parent, and in two layers so that the way out is in the lower one.
    for (name, items) in cases(outside.0.path()) {
        for form in 0..3 {
            let mut bench = Bench::new(driver);
            let stack = match form {
                0 => vec![items.clone()],
                1 => vec![vec![Item::dir("d"), Item::file("x/y", "1")], items.clone()],
                _ => items.iter().map(|item| vec![item.clone()]).collect::<Vec<_>>(),
            };
            if form == 2 && stack.len() > 8 {
                continue;
            }
            if let Ok(top) = bench.try_unpack(&stack) {
                // Nothing of outside is in the tree either.
                let secret = Digest::of(SECRET.as_bytes()).to_string();
                for (path, node) in bench.view(&top) {
                    assert!(!node.content.contains(&secret), "{driver}, {name}: {path}");
                }
                bench.store().remove_layer(&top).unwrap();
            }
            assert_eq!(before, outside.seen(), "{driver}, {name} in form {form} got out");
        }
    }
}

#[test]
fn root_overlay_contains_breakouts() {
    run("overlay");
}

#[test]
fn root_btrfs_contains_breakouts() {
    run("btrfs");
}

#[test]
fn root_native_contains_breakouts() {
    run("native");
}

/// What engines in the field accept has to work here too.
#[test]
fn root_absolute_links_of_real_images_work() {
    for driver in ["overlay", "btrfs", "native"] {
        let mut bench = Bench::new(driver);
        let top = bench.unpack(&[
            vec![Item::dir("run"), Item::symlink("var/run", "/run"), Item::symlink("var/lock", "/run/lock")],
            vec![
                Item::file("var/run/a.pid", "1"),
                Item::file("var/lock/b", "2"),
                Item::hardlink("c", "/var/run/a.pid"),
            ],
        ]);
        let seen = bench.view(&top);
        for path in ["run/a.pid", "run/lock/b", "c"] {
            assert!(seen.contains_key(path), "{driver}: {path}");
        }
    }
}

/// The host's mount table is as before, whatever was mounted meanwhile.
#[test]
fn root_nothing_is_attached() {
    let mounts =
        || std::fs::read_to_string("/proc/self/mountinfo").unwrap().matches("stower-storage").count();
    let mut bench = Bench::new("overlay");
    let top =
        bench.unpack(&[vec![Item::symlink("l", "d"), Item::file("f", "1")], vec![Item::file("l/g", "2")]]);
    let (_key, mount) = bench.mounted(Some(&top));
    assert_eq!(mounts(), 0);
    drop(mount);
}
