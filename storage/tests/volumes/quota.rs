//! Capacities that a quota of an XFS project keeps, on a real XFS in a mount namespace of the test's own.
//!
//! Most of these need a kernel that was built with `CONFIG_XFS_QUOTA`, and are ignored otherwise: see the README.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use rustix::mount::UnmountFlags;
use stower_storage::testsuite::Item;
use stower_storage::{CapacityKind, VolumeError, VolumeOptions};

use super::support::*;

/// Not smaller, or mkfs.xfs refuses.
const SIZE: u64 = 320 * MIB;
/// The first project number that volumes take.
const FIRST: u32 = 0x7374_0000;

pub(crate) fn quota(mebibytes: u64) -> VolumeOptions {
    VolumeOptions { quota: CapacityKind::ProjectQuota, ..sized(mebibytes) }
}

/// Runs `with` in a mount namespace that has an XFS with those mount options, and nothing of it stays.
pub(crate) fn in_xfs(options: &str, with: impl FnOnce(&Path) + Send) {
    let dir = tempfile::Builder::new().prefix("stower-xfs").tempdir().unwrap();
    let (image, at) = (dir.path().join("image"), dir.path().join("xfs"));
    std::fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
    std::fs::create_dir(&at).unwrap();
    let run = |command: &mut Command, what: &str| {
        let out = command.output().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(out.status.success(), "{what}: {}", String::from_utf8_lossy(&out.stderr));
    };
    run(Command::new("mkfs.xfs").arg("-q").arg(&image), "this test needs mkfs.xfs of the package xfsprogs");
    apart(|| {
        let options = ["loop", options].join(",");
        let what = "an XFS with these options needs a kernel with CONFIG_XFS_QUOTA";
        run(Command::new("mount").args(["-t", "xfs", "-o", &options]).arg(&image).arg(&at), what);
        with(&at);
        rustix::mount::unmount(&at, UnmountFlags::DETACH).unwrap();
    });
}

/// What `xfs_quota` says of a project: blocks of 1 KiB in use, and the hard limit. Of one with neither it may say nothing.
fn reported(at: &Path, project: u32) -> (u64, u64) {
    let command = format!("quota -p -b -N -v {project}");
    let out = Command::new("xfs_quota").args(["-x", "-c", &command]).arg(at).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let words: Vec<_> = text.split_whitespace().collect();
    if words.is_empty() && out.status.success() && out.stderr.is_empty() {
        return (0, 0);
    }
    assert!(words.len() >= 4, "{text:?} {}", String::from_utf8_lossy(&out.stderr));
    (words[1].parse().unwrap(), words[3].parse().unwrap())
}

fn io(at: &Path, command: &str) {
    let out = Command::new("xfs_io").args(["-r", "-c", command]).arg(at).output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// How many bytes could be written to a new file before there was no room.
fn write_until_full(path: &Path) -> u64 {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).unwrap();
    let mut written = 0;
    loop {
        match file.write(&[1; 1 << 16]) {
            Ok(some) => written += u64::try_from(some).unwrap(),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
                return written;
            }
        }
        assert!(written < SIZE, "nothing keeps it from growing");
    }
}

#[test]
fn root_without_the_quota_it_is_refused_by_name() {
    let refused = |at: &Path, reason: &str| {
        let store = open(at);
        let error = store.provision(&key("a"), &quota(16)).unwrap_err();
        assert!(matches!(error, VolumeError::NoQuota { .. }), "{error:?}");
        assert!(told(&error).contains(reason), "{}", told(&error));
        assert!(store.find(&key("a")).unwrap().is_none());
        assert_eq!(contents(at), Vec::<String>::new());
        // The other kinds are as ever.
        store.provision(&key("a"), &sized(16)).unwrap();
        let error = store.provision(&key("a"), &quota(16)).unwrap_err();
        assert!(matches!(error, VolumeError::WrongKind { .. }), "{error:?}");
        store.remove(&key("a")).unwrap();
    };
    in_small(32 * MIB, |at| refused(at, "is not on xfs; put the data root on one"));
    let built = Path::new("/proc/fs/xfs/xqmstat").exists();
    let reason = if built { "mount it with the option prjquota" } else { "CONFIG_XFS_QUOTA" };
    in_xfs("noquota", |at| refused(at, reason));
}

#[test]
#[ignore = "needs a kernel with CONFIG_XFS_QUOTA"]
fn root_accounting_without_enforcement_is_refused() {
    for options in ["pqnoenforce", "uquota"] {
        in_xfs(options, |at| {
            let error = open(at).provision(&key("a"), &quota(16)).unwrap_err();
            assert!(
                told(&error).contains("mount it with the option prjquota"),
                "{options}: {}",
                told(&error)
            );
        });
    }
}

#[test]
#[ignore = "needs a kernel with CONFIG_XFS_QUOTA"]
fn root_a_quota_holds_grows_and_ends() {
    let image = Image::new(&rich());
    in_xfs("prjquota", |at| {
        let store = open(at);
        let (a, b) = (key("v/ns/a"), key("v/ns/b"));
        let made = store.provision(&a, &quota(16)).unwrap();
        let project = made.project.unwrap();
        assert!(made.capacity_enforced && !made.has_data && project >= FIRST);
        let other = store.provision(&b, &quota(16)).unwrap();
        assert_ne!(other.project, Some(project));

        // What is copied counts, and keeps all that it has.
        store.fill(&a, &image.source("/var/data")).unwrap();
        assert_same(&image.seen("var/data"), &mounted(&store, &a).tree());
        let filled = store.usage(&a).unwrap();
        assert_eq!(filled.capacity, Some(16 * MIB));
        let entries = u64::try_from(mounted(&store, &a).tree().len()).unwrap();
        // A hard link is no inode of its own; the tree may or may not list its top.
        assert!(filled.inodes + 1 >= entries && filled.inodes <= entries, "{filled:?} {entries}");
        assert_eq!(reported(at, project).1, 16 * 1024);

        // The limit holds for the superuser, and the other volume does not feel it.
        let data = mounted(&store, &a);
        let room = rustix::fs::fstatvfs(data.fd()).unwrap();
        assert_eq!(room.f_blocks * room.f_frsize, 16 * MIB, "df shows the capacity");
        let written = write_until_full(&data.path("big"));
        assert!(written > 14 * MIB && written <= 16 * MIB, "{written}");
        let used = store.usage(&a).unwrap();
        assert!(used.bytes > 15 * MIB && used.bytes <= 16 * MIB, "{used:?}");
        assert!(used.available.unwrap() < MIB, "{used:?}");
        store.ensure_data(&b).unwrap();
        std::fs::write(mounted(&store, &b).path("f"), vec![2; 8 << 20]).unwrap();

        // A full one can still be written about, and grown in use; it never shrinks.
        let owned = VolumeOptions { uid: Some(9), ..quota(16) };
        store.provision(&a, &owned).unwrap();
        let error = store.provision(&a, &quota(15)).unwrap_err();
        assert!(matches!(error, VolumeError::Shrink { .. }), "{error:?}");
        let grown = store.provision(&a, &quota(24)).unwrap();
        assert_eq!((grown.capacity, grown.project), (Some(24 * MIB), Some(project)));
        let more = write_until_full(&data.path("more"));
        assert!(more > 6 * MIB && written + more <= 24 * MIB, "{more}");
        for (options, what) in [(sized(24), "image"), (local(), "without a capacity")] {
            let error = store.provision(&a, &options).unwrap_err();
            assert!(matches!(error, VolumeError::WrongKind { .. }) && told(&error).contains(what), "{error}");
        }
        let error = store.provision(&a, &quota(1 << 20)).unwrap_err();
        assert!(matches!(error, VolumeError::TooLarge { .. }), "{error:?}");

        // Nothing can be moved or linked into it past the quota by hand, and nothing else is in the project.
        drop(store);
        let store = open(at);
        assert_eq!(store.find(&a).unwrap().unwrap(), grown);
        drop(data);
        store.remove(&a).unwrap();
        assert!(!at.join("volumes/v/ns/a").exists());
        assert_eq!(reported(at, project).1, 0, "the limit ends with it");
        store.remove(&b).unwrap();
        assert_eq!(contents(at), Vec::<String>::new());
    });
}

#[test]
#[ignore = "needs a kernel with CONFIG_XFS_QUOTA"]
fn root_an_image_that_does_not_fit_leaves_nothing() {
    let image = Image::new(&[vec![Item::file("d/a", "small"), Item::file("d/big", vec![7; 24 << 20])]]);
    let little = Image::new(&[vec![Item::file("d/a", "small")]]);
    in_xfs("prjquota", |at| {
        let store = open(at);
        store.provision(&key("a"), &quota(16)).unwrap();
        let error = store.fill(&key("a"), &image.source("/d")).unwrap_err();
        let VolumeError::Full { needed, available, .. } = &error else { panic!("{error:?}") };
        assert!(*needed > 24 * MIB && *available <= 16 * MIB && *available > 8 * MIB, "{error}");
        assert_eq!(names(&at.join("volumes/a")), ["volume.json"]);
        store.fill(&key("a"), &little.source("/d")).unwrap();
        assert_eq!(std::fs::read_to_string(mounted(&store, &key("a")).path("a")).unwrap(), "small");
    });
}

#[test]
#[ignore = "needs a kernel with CONFIG_XFS_QUOTA"]
fn root_project_numbers_are_never_shared() {
    in_xfs("prjquota", |at| {
        // Somebody else's, and another store on the same filesystem.
        let foreign = at.join("foreign");
        std::fs::create_dir(&foreign).unwrap();
        io(&foreign, &format!("chproj {FIRST}"));
        let (one, two) = (open(&at.join("1")), open(&at.join("2")));
        let project =
            |store: &stower_storage::Volumes, name| store.provision(&key(name), &quota(16)).unwrap().project;
        let mut all = vec![project(&one, "a"), project(&two, "a"), project(&one, "b"), project(&two, "b")];
        // Many at once, too.
        std::thread::scope(|scope| {
            let project = &project;
            let (one, two) = (&one, &two);
            let threads: Vec<_> = (0..12)
                .map(|n| {
                    let store = if n % 2 == 0 { one } else { two };
                    let name: &str = ["c", "d", "e", "f", "g", "h"][n / 2];
                    scope.spawn(move || project(store, name))
                })
                .collect();
            all.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
        });
        let mut once: Vec<_> = all.iter().map(|project| project.unwrap()).collect();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), 16);
        assert!(!once.contains(&FIRST));
        // A limit that a crash left without anything below is set anew.
        let next = once[15] + 1;
        let left = format!("limit -p bhard=1m ihard=3 {next}");
        assert!(Command::new("xfs_quota").args(["-x", "-c", &left]).arg(at).status().unwrap().success());
        assert_eq!(project(&one, "z"), Some(next));
        assert_eq!(reported(at, next).1, 16 * 1024);
        one.ensure_data(&key("z")).unwrap();
        for n in 0..10 {
            std::fs::write(mounted(&one, &key("z")).path(&n.to_string()), "x").unwrap();
        }
    });
}

#[test]
#[ignore = "needs a kernel with CONFIG_XFS_QUOTA"]
fn root_data_outside_their_project_are_told() {
    in_xfs("prjquota", |at| {
        let store = open(at);
        let project = store.provision(&key("a"), &quota(16)).unwrap().project.unwrap();
        let data = store.ensure_data(&key("a")).unwrap().data;
        std::fs::write(data.join("f"), "x").unwrap();
        for path in [data.as_path(), data.parent().unwrap()] {
            io(path, "chproj 0");
            let error = store.provision(&key("a"), &quota(16)).unwrap_err();
            assert!(matches!(error, VolumeError::NotInProject { .. }), "{error:?}");
            assert!(told(&error).contains(&project.to_string()), "{}", told(&error));
        }
        // What the message says to do.
        let text = told(&store.provision(&key("a"), &quota(16)).unwrap_err());
        let command = text.split('\'').nth(1).unwrap();
        let out = Command::new("xfs_quota").args(["-x", "-c", command]).arg(at).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        store.provision(&key("a"), &quota(16)).unwrap();
        write_until_full(&data.join("big"));
        // A limit that was lost comes back.
        let lost = format!("limit -p bhard=0 {project}");
        assert!(Command::new("xfs_quota").args(["-x", "-c", &lost]).arg(at).status().unwrap().success());
        store.provision(&key("a"), &quota(16)).unwrap();
        assert_eq!(reported(at, project).1, 16 * 1024);
        // A data root within another project is refused: nothing could be moved about in it.
        let inner = at.join("inner");
        std::fs::create_dir(&inner).unwrap();
        io(&inner, "chproj 7");
        io(&inner, "chattr +P");
        let error = open(&inner).provision(&key("a"), &quota(16)).unwrap_err();
        assert!(matches!(error, VolumeError::NoQuota { .. }), "{error:?}");
        assert_eq!(contents(&inner), Vec::<String>::new());
    });
}
