//! Paths raced by somebody who swaps directories and links, and paths in volumes.
//!
//! Each race was seen to fail without its defence: `volume_paths_…` with `ResolveFlags::BENEATH` taken out of `UNTRUSTED`
//! in `below.rs`, `targets_…` with `ResolveFlags::IN_ROOT` taken out of `open_inside`, and with `OFlags::NOFOLLOW` taken
//! out of the second `openat` of `walk_making`, in `path.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, ResolveFlags};

use super::path::{Make, open_making};
use super::{below, source};
use crate::error::{Failure, FailureKind};
use crate::job::SubPath;

/// How often a race swaps at least.
const SWAPS: u64 = 100_000;

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn id(fd: &OwnedFd) -> (u64, u64) {
    let stat = rustix::fs::fstat(fd).unwrap();
    (stat.st_dev, stat.st_ino)
}

fn name(path: &Path) -> (u64, u64) {
    let stat = fs::symlink_metadata(path).unwrap();
    (stat.dev(), stat.ino())
}

fn resolve(volume: &Path, path: &str, create: bool) -> Result<OwnedFd, Failure> {
    below::sub_path("mount /data", open(volume).as_fd(), &SubPath { path: path.to_owned(), create })
}

/// Swaps `path` with each of `others` in turn, by a rename that exchanges both, until it has done so often enough and
/// `enough` says that the other side has seen enough.
fn swap(path: &Path, others: &[&Path], count: &AtomicU64, enough: &AtomicBool) {
    let exchange = |other: &Path| {
        rustix::fs::renameat_with(CWD, path, CWD, other, RenameFlags::EXCHANGE).unwrap();
        rustix::fs::renameat_with(CWD, path, CWD, other, RenameFlags::EXCHANGE).unwrap();
    };
    while count.load(Ordering::Relaxed) < SWAPS || !enough.load(Ordering::Relaxed) {
        for other in others {
            exchange(other);
        }
        count.fetch_add(2 * u64::try_from(others.len()).unwrap(), Ordering::Relaxed);
    }
}

/// Races `act`, which says whether it got something, until both sides have done enough: `act` has got something a thousand
/// times, and was refused at least `refusals` times.
fn race(path: &Path, others: &[&Path], refusals: u32, mut act: impl FnMut() -> bool) {
    let (count, enough) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Ends the other side however this one ends.
        struct End<'a>(&'a AtomicU64, &'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.1.store(true, Ordering::Relaxed);
                self.0.fetch_add(SWAPS, Ordering::Relaxed);
            }
        }
        scope.spawn(|| swap(path, others, &count, &enough));
        let end = End(&count, &enough);
        let (mut got, mut refused) = (0, 0);
        while count.load(Ordering::Relaxed) < SWAPS || got < 1000 || refused < refusals {
            if act() {
                got += 1;
            } else {
                refused += 1;
            }
            assert!(got + refused < 10_000_000, "no race: {got} times got, {refused} times refused");
        }
        drop(end);
    });
}

#[test]
fn volume_paths_never_lead_out_while_they_are_swapped() {
    let dir = tempfile::tempdir().unwrap();
    let (volume, outside) = (dir.path().join("w/v"), dir.path().join("d"));
    fs::create_dir_all(volume.join("a/b/d")).unwrap();
    // What the links would reach: both `w/v/a/../../../d` and the absolute one are `d`.
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("secret"), "").unwrap();
    let (up, absolute) = (volume.join("up"), volume.join("absolute"));
    symlink("../../..", &up).unwrap();
    symlink(dir.path(), &absolute).unwrap();
    symlink("/", volume.join("top")).unwrap();
    let allowed: BTreeSet<_> = [name(&volume.join("a/b/d"))].into();
    let top = open(&volume);
    let sub = SubPath { path: "a/b/d".to_owned(), create: false };
    race(&volume.join("a/b"), &[&up, &absolute, &volume.join("top")], 1000, || {
        match below::sub_path("mount /data", top.as_fd(), &sub) {
            Ok(fd) => assert!(allowed.contains(&id(&fd)), "{:?}", fs::read_link(super::fd_path(&fd))),
            Err(e) => {
                assert!(matches!(e.kind, FailureKind::UnsafePath | FailureKind::Other), "{e}");
                return false;
            }
        }
        true
    });
}

#[test]
fn volume_paths_are_never_made_outside_while_they_are_swapped() {
    let dir = tempfile::tempdir().unwrap();
    let (volume, outside) = (dir.path().join("w/v"), dir.path().join("o"));
    fs::create_dir_all(volume.join("a/b")).unwrap();
    fs::create_dir(&outside).unwrap();
    let (up, absolute) = (volume.join("up"), volume.join("absolute"));
    symlink("../../../o", &up).unwrap();
    symlink(&outside, &absolute).unwrap();
    let top = open(&volume);
    let sub = SubPath { path: "a/b/new/er".to_owned(), create: true };
    let made = volume.join("a/b/new");
    let others = [volume.join("up"), volume.join("absolute")];
    race(&volume.join("a/b"), &[&up, &absolute], 1000, || {
        let made_it = below::sub_path("mount /data", top.as_fd(), &sub).is_ok();
        // Removed again, so that there is something to make.
        for place in [&made, &others[0].join("new"), &others[1].join("new")] {
            let _ = fs::remove_dir(place.join("er"));
            let _ = fs::remove_dir(place);
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "made outside");
        made_it
    });
}

#[test]
fn targets_never_lead_out_of_the_root_while_they_are_swapped() {
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("w/r"), dir.path().join("o"));
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::create_dir(&outside).unwrap();
    let (up, absolute) = (root.join("up"), root.join("absolute"));
    symlink("../../../o", &up).unwrap();
    symlink(&outside, &absolute).unwrap();
    let top = open(&root);
    let inside = format!("{}/", root.display());
    let mut turn = 0u32;
    race(&root.join("a/b"), &[&up, &absolute], 0, || {
        turn += 1;
        // Half of the time nothing is there yet. Relative, or it would be another defence that holds.
        let path = if turn.is_multiple_of(2) { "a/b" } else { "a/b/new" };
        let got = open_making(top.as_fd(), path, Make::Dir, ResolveFlags::empty());
        match &got {
            Ok(fd) => {
                let at = fs::read_link(super::fd_path(fd)).unwrap().display().to_string();
                assert!(at.starts_with(&inside), "{at}");
            }
            Err(e) => assert_eq!(*e, rustix::io::Errno::NOENT),
        }
        for base in ["a/b", "up", "absolute", "o", outside.strip_prefix("/").unwrap().to_str().unwrap()] {
            let _ = fs::remove_dir(root.join(base).join("new"));
        }
        assert!(!outside.join("new").exists(), "made outside");
        got.is_ok()
    });
}

#[test]
fn links_within_a_volume_are_followed_and_others_refused() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("v");
    fs::create_dir_all(volume.join("a/b")).unwrap();
    fs::write(volume.join("a/file"), "").unwrap();
    fs::write(dir.path().join("secret"), "").unwrap();
    for (link, to) in [
        ("within", "a/b"),
        ("a/back", "../a/file"),
        ("around", "../v/a"),
        ("out", "../secret"),
        ("absolute", "/etc"),
        ("self", volume.to_str().unwrap()),
        ("loop", "loop"),
        ("magic", "/proc/self/cwd"),
        ("nothing", "nowhere"),
    ] {
        symlink(to, volume.join(link)).unwrap();
    }
    for (path, target) in [
        ("within", "a/b"),
        ("a/back", "a/file"),
        ("within/../file", "a/file"),
        ("a", "a"),
        ("a/file", "a/file"),
    ] {
        for create in [false, true] {
            let fd = resolve(&volume, path, create).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!(id(&fd), name(&volume.join(target)), "{path}");
        }
    }
    for (path, kind, text) in [
        ("around", FailureKind::UnsafePath, "sub path `around` leads out of the volume"),
        ("out", FailureKind::UnsafePath, "leads out of the volume"),
        ("absolute/x", FailureKind::UnsafePath, "sub path `absolute/x` leads out of the volume"),
        ("self", FailureKind::UnsafePath, "leads out of the volume"),
        ("magic", FailureKind::UnsafePath, "leads out of the volume"),
        ("loop", FailureKind::UnsafePath, "loop of links"),
        ("a/file/x", FailureKind::UnsafePath, "is no directory"),
        ("../secret", FailureKind::UnsafePath, "leads out of the volume"),
    ] {
        for create in [false, true] {
            let e = resolve(&volume, path, create).expect_err(path);
            assert_eq!(e.kind, kind, "{path}: {e}");
            assert!(e.message.contains(text) && e.stage == "mount /data", "{path}: {e}");
        }
    }
    let e = resolve(&volume, "missing/x", false).unwrap_err();
    assert!(e.message.contains("`missing/x` is not in the volume"), "{e}");
    for path in ["nothing", "nothing/x"] {
        let e = resolve(&volume, path, true).unwrap_err();
        assert!(e.message.contains("a link to nothing"), "{e}");
        assert!(!volume.join("nowhere").exists());
    }
}

#[test]
fn root_what_is_made_in_a_volume_belongs_to_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("v");
    fs::create_dir_all(volume.join("there")).unwrap();
    std::os::unix::fs::chown(&volume, Some(1234), Some(5678)).unwrap();
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o1750)).unwrap();
    let former = rustix::process::umask(Mode::empty());
    resolve(&volume, "there/a/b", true).unwrap();
    rustix::process::umask(former);
    for (path, owner, mode) in
        [("there", 0, None), ("there/a", 1234, Some(0o1750)), ("there/a/b", 1234, Some(0o1750))]
    {
        let stat = fs::metadata(volume.join(path)).unwrap();
        assert_eq!(stat.uid(), owner, "{path}");
        if let Some(mode) = mode {
            assert_eq!((stat.gid(), stat.mode() & 0o7777), (5678, mode), "{path}");
        }
    }
    // This thread is who it was.
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(file.as_file().metadata().unwrap().uid(), 0);
}

#[test]
fn the_volumes_own_directory_is_reached_through_no_link() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("real/deep")).unwrap();
    symlink("real", dir.path().join("data")).unwrap();
    let top = open(dir.path());
    assert_eq!(
        id(&below::volume("s", top.as_fd(), "real/deep").unwrap()),
        name(&dir.path().join("real/deep"))
    );
    let e = below::volume("s", top.as_fd(), "data").unwrap_err();
    assert_eq!(e.kind, FailureKind::UnsafePath);
    assert!(below::volume("s", top.as_fd(), "none").unwrap_err().message.contains("`none`"));
}

#[test]
fn peers_are_read_from_the_table_of_mounts() {
    let text = "\
27 1 254:0 / / rw - ext4 /dev/vda rw
28 27 0:5 / /a rw,relatime shared:3 - tmpfs none rw
29 27 0:5 / /b rw shared:4 master:3 propagate_from:2 - tmpfs none rw
30 27 0:5 / /c rw master:3 - tmpfs shared:1 rw
";
    let of = |id| source::peers(text, id).map(|p| (p.place, p.shared, p.slave));
    assert_eq!(of(27), Some(("/".to_owned(), false, false)));
    assert_eq!(of(28), Some(("/a".to_owned(), true, false)));
    assert_eq!(of(29), Some(("/b".to_owned(), true, true)));
    assert_eq!(of(30), Some(("/c".to_owned(), false, true)));
    assert_eq!(of(2), None);
}

/// A place to mount on is no content: the directory that gets it keeps its time.
#[test]
fn root_places_leave_the_time_of_their_directory() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir(root.join("etc")).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 7);
    for path in ["etc", "."] {
        fs::File::open(root.join(path)).unwrap().set_modified(time).unwrap();
    }
    let top = open(root);
    for (path, make) in [("etc/hosts", Make::File), ("srv/data", Make::Dir)] {
        open_making(top.as_fd(), path, make, ResolveFlags::empty()).unwrap();
        assert!(root.join(path).exists());
    }
    for path in ["etc", "."] {
        assert_eq!(fs::metadata(root.join(path)).unwrap().modified().unwrap(), time, "{path}");
    }
}

/// What a container could get hold of by `/proc/PID/exe`, and keep until the program may be written again (CVE-2019-5736).
#[test]
fn root_a_sealed_program_cannot_be_written_through_its_process() {
    use std::os::unix::fs::OpenOptionsExt;
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let program = dir.path().join("program");
    fs::copy("/bin/sleep", &program).unwrap();
    let held = |path: &Path| {
        let mut child = std::process::Command::new(path).arg("600").spawn().unwrap();
        let exe = format!("/proc/{}/exe", child.id());
        // The parent goes on a moment before the child has become the program.
        while fs::metadata(&exe).map(|stat| (stat.dev(), stat.ino())).unwrap() != name(&program) {
            assert!(child.try_wait().unwrap().is_none(), "it has ended");
            std::thread::yield_now();
        }
        let held = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(exe).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let opened = fs::OpenOptions::new().write(true).open(super::fd_path(&held));
        opened.map(drop).map_err(|e| e.raw_os_error())
    };
    assert_eq!(held(&program), Ok(()), "without the seal it can");
    let sealed = super::sealed_program(&program).unwrap();
    assert_eq!(held(super::fd_path(&sealed).as_ref()), Err(Some(libc::EROFS)));
}
