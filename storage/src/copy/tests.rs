use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;
use crate::layer::write::Writer;

fn open(path: &Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}

fn own() -> UnpackOptions {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    UnpackOptions { name: Some(b"new".to_vec()), owner: Some((uid, gid)) }
}

#[test]
fn a_tree_is_copied_under_another_name() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tree = from.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/file"), "content").unwrap();
    fs::hard_link(tree.join("a/file"), tree.join("a/other")).unwrap();
    symlink("/etc/passwd", tree.join("a/link")).unwrap();
    fs::set_permissions(tree.join("a/file"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o500)).unwrap();
    let mut bytes = Vec::new();
    pack(&open(from.path()), b"tree", &mut bytes).unwrap();
    unpack(&open(to.path()), &bytes[..], &own()).unwrap();
    let new = to.path().join("new/a");
    assert_eq!(fs::read_to_string(new.join("file")).unwrap(), "content");
    assert_eq!(fs::metadata(new.join("file")).unwrap().mode() & 0o7777, 0o750, "set user id is not copied");
    assert_eq!(fs::metadata(new.join("other")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(new.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::metadata(new.join("b")).unwrap().mode() & 0o7777, 0o500);
    // Its content alone, into what is there already.
    let options = UnpackOptions { name: None, ..own() };
    unpack(&open(to.path()), &bytes[..], &options).unwrap();
    assert!(to.path().join("a/file").exists());
    // A single file, over one that is there.
    let mut bytes = Vec::new();
    pack(&open(&tree.join("a")), b"file", &mut bytes).unwrap();
    fs::write(to.path().join("new2"), "former").unwrap();
    fs::hard_link(to.path().join("new2"), to.path().join("kept")).unwrap();
    let options = UnpackOptions { name: Some(b"new2".to_vec()), ..own() };
    unpack(&open(to.path()), &bytes[..], &options).unwrap();
    assert_eq!(fs::read_to_string(to.path().join("new2")).unwrap(), "content");
    assert_eq!(fs::read_to_string(to.path().join("kept")).unwrap(), "former");
    let e = unpack(&open(to.path()), &bytes[..], &UnpackOptions { name: None, ..own() }).unwrap_err();
    assert!(e.to_string().contains("name the file itself"), "{e}");
}

fn stream(entries: &[(&str, Kind)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (path, kind) in entries {
        let entry = Entry {
            path: path.as_bytes().to_vec(),
            kind: kind.clone(),
            size: u64::from(*kind == Kind::Regular),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Default::default(),
            xattrs: Vec::new(),
            sparse: None,
        };
        writer.entry(&entry).unwrap();
        if *kind == Kind::Regular {
            writer.data(b"x").unwrap();
        }
    }
    writer.finish().unwrap()
}

#[test]
fn a_hostile_stream_writes_nothing_elsewhere() {
    let place = tempfile::tempdir().unwrap();
    let (to, outside) = (place.path().join("to"), place.path().join("outside"));
    fs::create_dir(&to).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "safe").unwrap();
    let link = |target: &str| Kind::Symlink(target.as_bytes().to_vec());
    let out = outside.to_str().unwrap();
    let cases: Vec<(&str, Vec<(&str, Kind)>)> = vec![
        ("up", vec![("copy/../../outside/victim", Kind::Regular)]),
        ("up at once", vec![("../outside/victim", Kind::Regular)]),
        ("absolute", vec![("/copy/victim", Kind::Regular)]),
        (
            "through a link",
            vec![("copy", Kind::Directory), ("copy/l", link(out)), ("copy/l/victim", Kind::Regular)],
        ),
        ("through a relative link", vec![("copy/l", link("../../outside")), ("copy/l/new", Kind::Regular)]),
        ("a directory over a link", vec![("copy/l", link(out)), ("copy/l", Kind::Directory)]),
        (
            "a hard link through a link",
            vec![("copy/l", link(out)), ("copy/h", Kind::Hardlink(b"copy/l/victim".to_vec()))],
        ),
        ("a hard link up", vec![("copy/h", Kind::Hardlink(b"copy/../../outside/victim".to_vec()))]),
        ("a device", vec![("copy/d", Kind::Char(1, 3))]),
        ("a disk", vec![("copy/d", Kind::Block(8, 0))]),
        ("over a directory", vec![("copy/d", Kind::Directory), ("copy/d", Kind::Regular)]),
    ];
    for (what, entries) in cases {
        let e = unpack(&open(&to), &stream(&entries)[..], &own());
        assert!(e.is_err(), "{what} is taken");
        assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "safe", "{what}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{what}");
        let _ = fs::remove_dir_all(to.join("new"));
    }
    // A file over a link takes the link's place.
    unpack(
        &open(&to),
        &stream(&[("copy/l", link(&format!("{out}/victim"))), ("copy/l", Kind::Regular)])[..],
        &own(),
    )
    .unwrap();
    assert_eq!(fs::read_to_string(to.join("new/l")).unwrap(), "x");
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "safe");
    // A hard link to a link is one to the link, and not to what that names.
    unpack(
        &open(&to),
        &stream(&[
            ("copy/s", link(&format!("{out}/victim"))),
            ("copy/h", Kind::Hardlink(b"copy/s".to_vec())),
            ("copy/h", Kind::Regular),
        ])[..],
        &own(),
    )
    .unwrap();
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "safe");
    assert!(unpack(&open(&to), &b"nonsense"[..], &own()).is_err());
}
