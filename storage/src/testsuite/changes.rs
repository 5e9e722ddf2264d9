//! What a container does to its tree, and what is then in the layer that it becomes.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};

use super::{Bench, Check, Files};

pub(super) const CHECKS: &[Check] = &[
    ("layer_file_update", layer_file_update),
    ("remove_directory_in_lower", remove_directory_in_lower),
    ("deleted_files_in_child", deleted_files_in_child),
    ("move_file_from_lower", move_file_from_lower),
    ("rename", rename),
    ("chown_lower", chown_lower),
    ("chmod_lower", chmod_lower),
    ("directory_permission_on_commit", directory_permission_on_commit),
    ("root_permission", root_permission),
    ("unix_socket", unix_socket),
    ("directory_inode_stability", directory_inode_stability),
    ("open_file_inode_stability", open_file_inode_stability),
    ("getcwd", getcwd),
    ("remove_directory_after_commit", remove_directory_after_commit),
    ("many_layers_of_changes", many_layers_of_changes),
];

fn layer_file_update(bench: &mut Bench) {
    let one = bench.commit(None, |files| {
        files.mkdir("etc");
        files.write("etc/hosts", "1");
        files.write("etc/profile", "p");
        symlink("hosts", files.path("etc/link")).unwrap();
    });
    let two = bench.commit(Some(&one), |files| {
        files.remove("etc/hosts");
        files.write("etc/hosts", "2");
        files.write("etc/profile", "pp");
        files.remove("etc/link");
        files.write("etc/link", "file");
    });
    let (_key, mount) = bench.mounted(Some(&two));
    let files = Files::new(&mount);
    assert_eq!((files.read("etc/hosts"), files.read("etc/profile")), ("2".into(), "pp".into()));
    assert_eq!(files.read("etc/link"), "file");
}

fn remove_directory_in_lower(bench: &mut Bench) {
    let one = bench.commit(None, |files| {
        files.mkdir("a/b");
        files.write("a/b/old", "1");
        files.write("a/file", "1");
    });
    let two = bench.commit(Some(&one), |files| files.remove("a"));
    let three = bench.commit(Some(&two), |files| {
        files.mkdir("a");
        files.write("a/new", "3");
    });
    let four = bench.commit(Some(&three), |files| files.mkdir("a/b"));
    assert_eq!(bench.view(&two).len(), 1);
    assert_eq!(bench.view(&three).keys().collect::<Vec<_>>(), ["", "a", "a/new"]);
    assert_eq!(bench.view(&four).keys().collect::<Vec<_>>(), ["", "a", "a/b", "a/new"]);
}

fn deleted_files_in_child(bench: &mut Bench) {
    let one = bench.commit(None, |files| {
        files.mkdir("foo");
        files.write("foo/a", "1");
        files.write("b", "1");
    });
    let two = bench.commit(Some(&one), |files| files.remove("foo/a"));
    let three = bench.commit(Some(&two), |files| files.write("c", "3"));
    assert_eq!(bench.view(&three).keys().collect::<Vec<_>>(), ["", "b", "c", "foo"]);
}

fn move_file_from_lower(bench: &mut Bench) {
    let one = bench.commit(None, |files| {
        files.mkdir("dir1");
        files.mkdir("dir2");
        files.write("dir1/f1", "1");
        files.write("dir2/f2", "2");
    });
    let two = bench.commit(Some(&one), |files| {
        std::fs::rename(files.path("dir1/f1"), files.path("dir2/f1")).unwrap();
    });
    let seen = bench.view(&two);
    assert!(!seen.contains_key("dir1/f1") && seen.contains_key("dir2/f1"));
}

fn rename(bench: &mut Bench) {
    let one = bench.commit(None, |files| {
        files.mkdir("dir1");
        files.mkdir("somefiles");
        files.write("somefiles/f1", "1");
    });
    let two = bench.commit(Some(&one), |files| {
        // overlayfs refuses to move a lower directory (EXDEV), and programs copy then; one of this layer moves.
        files.mkdir("dir1/one");
        files.write("dir1/one/f", "2");
        std::fs::rename(files.path("dir1/one"), files.path("dir1/two")).unwrap();
        std::fs::rename(files.path("somefiles/f1"), files.path("f1")).unwrap();
    });
    let expected = ["", "dir1", "dir1/two", "dir1/two/f", "f1", "somefiles"];
    assert_eq!(bench.view(&two).keys().collect::<Vec<_>>(), expected);
}

fn chown_lower(bench: &mut Bench) {
    let one = bench.commit(None, |files| {
        files.mkdir("opt/a/b");
        files.write("opt/a/b/file", "1");
        symlink("file", files.path("opt/a/b/link")).unwrap();
    });
    let two = bench.commit(Some(&one), |files| {
        chown(files.path("opt/a"), Some(1), Some(2)).unwrap();
        chown(files.path("opt/a/b/file"), Some(3), Some(4)).unwrap();
        lchown(files.path("opt/a/b/link"), Some(5), Some(6)).unwrap();
    });
    let seen = bench.view(&two);
    assert_eq!(seen["opt"].owner, (0, 0));
    assert_eq!(seen["opt/a"].owner, (1, 2));
    assert_eq!(seen["opt/a/b"].owner, (0, 0));
    assert_eq!(seen["opt/a/b/file"].owner, (3, 4));
    assert_eq!(seen["opt/a/b/link"].owner, (5, 6));
    assert_eq!(bench.view(&one)["opt/a"].owner, (0, 0));
}

fn chmod_lower(bench: &mut Bench) {
    let one = bench.commit(None, |files| {
        files.write("file", "1");
        files.mkdir("dir");
    });
    let two = bench.commit(Some(&one), |files| {
        files.chmod("file", 0o4711);
        files.chmod("dir", 0o1777);
    });
    let seen = bench.view(&two);
    assert_eq!((seen["file"].mode & 0o7777, seen["dir"].mode & 0o7777), (0o4711, 0o1777));
    assert_eq!(bench.view(&one)["file"].mode & 0o7000, 0);
}

fn directory_permission_on_commit(bench: &mut Bench) {
    let one = bench.commit(None, |files| {
        for (name, mode) in [("a", 0o700), ("b", 0o755), ("c", 0o1777), ("d", 0o2750)] {
            files.mkdir(name);
            files.chmod(name, mode);
            chown(files.path(name), Some(7), Some(8)).unwrap();
            files.chmod(name, mode);
        }
    });
    let two = bench.commit(Some(&one), |files| {
        for name in ["a", "b", "c", "d"] {
            files.write(&format!("{name}/new"), "2");
        }
    });
    let seen = bench.view(&two);
    for (name, mode) in [("a", 0o700), ("b", 0o755), ("c", 0o1777), ("d", 0o2750)] {
        assert_eq!((seen[name].mode & 0o7777, seen[name].owner), (mode, (7, 8)), "{name}");
    }
}

fn root_permission(bench: &mut Bench) {
    let (_key, mount) = bench.mounted(None);
    assert_eq!(super::tree(&mount)[""].mode & 0o7777, 0o755);
    super::close(mount);
    let one = bench.commit(None, |files| {
        files.chmod("", 0o711);
        chown(files.path(""), Some(9), Some(9)).unwrap();
    });
    let two = bench.commit(Some(&one), |files| files.write("foo", "1"));
    let (_key, mount) = bench.mounted(Some(&two));
    let root = &super::tree(&mount)[""];
    assert_eq!((root.mode & 0o7777, root.owner), (0o711, (9, 9)));
}

fn unix_socket(bench: &mut Bench) {
    let one = bench.commit(None, |files| {
        files.mkdir("run");
        drop(std::os::unix::net::UnixListener::bind(files.path("run/s")).unwrap());
    });
    let (_key, mount) = bench.mounted(Some(&one));
    let files = Files::new(&mount);
    assert_eq!(files.path("run/s").symlink_metadata().unwrap().mode() & 0o170_000, 0o140_000);
    files.remove("run/s");
    let listener = std::os::unix::net::UnixListener::bind(files.path("run/s")).unwrap();
    std::os::unix::net::UnixStream::connect(files.path("run/s")).unwrap();
    drop(listener);
}

fn directory_inode_stability(bench: &mut Bench) {
    let one = bench.commit(None, |files| {
        files.mkdir("dir");
        files.write("dir/a", "1");
    });
    let (_key, mount) = bench.mounted(Some(&one));
    let files = Files::new(&mount);
    let inode = || files.path("dir").metadata().unwrap().ino();
    let before = inode();
    files.write("dir/b", "2");
    files.remove("dir/a");
    files.chmod("dir", 0o700);
    assert_eq!(before, inode());
}

/// A descriptor that is open for writing and the name go on being the same file.
fn open_file_inode_stability(bench: &mut Bench) {
    let one = bench.commit(None, |files| files.write("file", "1"));
    let (_key, mount) = bench.mounted(Some(&one));
    let files = Files::new(&mount);
    let before = files.path("file").metadata().unwrap().ino();
    let mut open = std::fs::OpenOptions::new().append(true).open(files.path("file")).unwrap();
    std::io::Write::write_all(&mut open, b"2").unwrap();
    files.chmod("file", 0o600);
    assert_eq!(before, open.metadata().unwrap().ino());
    assert_eq!(before, files.path("file").metadata().unwrap().ino());
    assert_eq!(files.read("file"), "12");
}

/// A process whose working directory is a lower one stays in it, by its name, when it is changed.
fn getcwd(bench: &mut Bench) {
    use rustix::mount::{MountPropagationFlags, MoveMountFlags, mount_change, move_mount};
    let one = bench.commit(None, |files| files.mkdir("a/b"));
    let (_key, mount) = bench.mounted(Some(&one));
    let place = tempfile::tempdir().unwrap();
    let at = place.path();
    // In a mount namespace of its own, since a tree that is attached nowhere has no path.
    let process = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        move_mount(&mount, "", rustix::fs::CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
        std::env::set_current_dir(at.join("a/b")).unwrap();
        let here = || std::env::current_dir().unwrap();
        assert_eq!(here(), at.join("a/b"));
        std::fs::set_permissions(at.join("a/b"), PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::write("new", "1").unwrap();
        chown(at.join("a"), Some(1), Some(1)).unwrap();
        assert_eq!(here(), at.join("a/b"));
        assert_eq!(std::fs::read_to_string(at.join("a/b/new")).unwrap(), "1");
        // It is ours now, so it can be renamed and removed, and still is where we are.
        std::fs::create_dir("in").unwrap();
        std::env::set_current_dir("in").unwrap();
        std::fs::rename(at.join("a/b/in"), at.join("moved")).unwrap();
        assert_eq!(here(), at.join("moved"));
        std::fs::remove_dir(at.join("moved")).unwrap();
        assert_eq!(std::env::current_dir().unwrap_err().kind(), std::io::ErrorKind::NotFound);
    };
    std::thread::scope(|scope| scope.spawn(process).join().unwrap());
}

/// A directory of a committed layer can be removed, made anew, and removed again.
fn remove_directory_after_commit(bench: &mut Bench) {
    let one = bench.commit(None, |files| {
        files.mkdir("d/e/f");
        files.write("d/e/g", "1");
        files.write("d/h", "1");
    });
    let two = bench.commit(Some(&one), |files| {
        for _ in 0..3 {
            files.remove("d/e");
            assert!(!files.path("d/e").exists());
            files.mkdir("d/e/f");
            assert_eq!(std::fs::read_dir(files.path("d/e")).unwrap().count(), 1);
        }
        files.remove("d");
        files.mkdir("d");
        std::fs::remove_dir(files.path("d")).unwrap();
    });
    assert_eq!(bench.view(&two).len(), 1);
    assert_eq!(bench.view(&one).len(), 6);
}

fn many_layers_of_changes(bench: &mut Bench) {
    let mut parent = None;
    for n in 0..12 {
        parent = Some(bench.commit(parent.as_ref(), |files| {
            files.write("counter", &n.to_string());
            files.write(&format!("f{n}"), &n.to_string());
            if n >= 3 {
                files.remove(&format!("f{}", n - 3));
            }
        }));
    }
    let seen = bench.view(&parent.unwrap());
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["", "counter", "f10", "f11", "f9"]);
}
