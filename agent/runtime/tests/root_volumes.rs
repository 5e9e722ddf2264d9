//! Volumes of real containers: parts of them, how they hear of mounts, and who tries to lead them elsewhere.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Case, chain};
use rustix::fs::{CWD, RenameFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use stower_runtime::error::{FailureKind, StartError};
use stower_runtime::job::{RootFs, SubPath, VolumeMount};

fn volume(destination: &str, tree: RootFs, options: &[&str]) -> VolumeMount {
    VolumeMount {
        destination: destination.to_owned(),
        tree,
        inside: None,
        sub_path: None,
        options: options.iter().map(|o| (*o).to_owned()).collect(),
    }
}

fn bind(path: PathBuf) -> RootFs {
    RootFs::Bind { path, readonly: false }
}

fn sub(path: &str, create: bool) -> Option<SubPath> {
    Some(SubPath { path: path.to_owned(), create })
}

fn failure(case: &mut Case) -> (FailureKind, String) {
    match case.try_start() {
        Ok(()) => panic!("it started"),
        Err(StartError::Failed(f)) => (f.kind, f.to_string()),
        Err(e) => panic!("another error: {}", chain(&e)),
    }
}

fn refusal(case: &mut Case) -> String {
    match case.try_start() {
        Err(StartError::Refused(e)) => e.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

fn command(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// An ext4 on a loop device, filled from a directory.
struct Disk(String);

impl Disk {
    fn new(image: &Path, content: &Path) -> Self {
        fs::File::create(image).unwrap().set_len(16 << 20).unwrap();
        let image = image.to_str().unwrap();
        command("mkfs.ext4", &["-q", "-d", content.to_str().unwrap(), image]);
        Self(command("losetup", &["--find", "--show", image]))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// The last line of a container's table of mounts for a place: its options and how it takes part in propagation.
fn mounted(case: &Case, place: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", case.init_pid())).unwrap();
    let line = text.lines().rfind(|l| l.split(' ').nth(4) == Some(place))?;
    let fields: Vec<&str> = line.split(' ').collect();
    let dash = fields.iter().position(|f| *f == "-").unwrap();
    Some(fields[5..dash].join(" "))
}

/// A path in a container as the host can read it.
fn inside(case: &Case, path: &str) -> PathBuf {
    format!("/proc/{}/root{path}", case.init_pid()).into()
}

/// Runs a test in a mount namespace of its own, cut off from the machine's.
fn own_mounts(test: impl FnOnce() + Send + 'static) {
    common::require_root();
    let thread = std::thread::spawn(|| {
        // SAFETY: this thread alone changes its namespace and its working directory; descriptors stay shared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A new tmpfs with one file in it.
fn mount_tmpfs(at: &Path, file: &str) {
    fs::create_dir_all(at).unwrap();
    rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(at.join(file), file).unwrap();
}

/// A tmpfs of the test's "host", off again at the end, so that the directory can be removed.
struct Host(PathBuf);

impl Host {
    /// In a peer group, with a directory `src` and a mount `src/first` below it.
    fn shared(case: &Case) -> Self {
        let host = Self::private(case);
        rustix::mount::mount_change(&host.0, MountPropagationFlags::SHARED).unwrap();
        mount_tmpfs(&host.src().join("first"), "first");
        host
    }

    /// In none.
    fn private(case: &Case) -> Self {
        let host = case.path("host");
        mount_tmpfs(&host, "top");
        Self(host)
    }

    fn src(&self) -> PathBuf {
        self.0.join("src")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Does something in the container's mount namespace.
fn in_container(case: &Case, act: impl FnOnce() + Send) {
    let namespace = fs::File::open(format!("/proc/{}/ns/mnt", case.init_pid())).unwrap();
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: this thread alone has its own root and working directory from here on.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.unwrap();
                rustix::thread::move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&namespace),
                    Some(LinkNameSpaceType::Mount),
                )
                .unwrap();
                act();
            })
            .join()
            .unwrap();
    });
}

#[test]
fn root_parts_of_volumes_of_every_kind_are_mounted() {
    let table = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    for kind in ["bind", "block", "overlay", "legacy overlay"] {
        let mut case =
            Case::new(&["ls:/whole", "ls:/part", "cat:/file", "write:/made/x", "write:/ro/x", "ls:/ro"]);
        case.request.legacy_overlay = kind == "legacy overlay";
        for dir in ["tree/data/sub/deep", "tree/other", "up", "wk"] {
            fs::create_dir_all(case.path(dir)).unwrap();
        }
        fs::write(case.path("tree/data/sub/deep/file"), "content").unwrap();
        symlink("sub/deep", case.path("tree/data/link")).unwrap();
        let tree = case.path("tree");
        let _disk;
        let tree = match kind {
            "bind" => bind(tree),
            "block" => {
                let disk = Disk::new(&case.path("image"), &tree);
                let device = PathBuf::from(&disk.0);
                _disk = disk;
                RootFs::Block { device, fstype: "ext4".to_owned(), options: Vec::new() }
            }
            _ => RootFs::Overlay {
                lower: vec![tree],
                upper: Some(case.path("up")),
                work: Some(case.path("wk")),
                options: Vec::new(),
            },
        };
        // One filesystem of layers has one mount: its work directory is its own.
        let mut mounts = vec![
            ("/whole", None, "rw"),
            ("/part", sub("sub/deep", false), "rw"),
            ("/file", sub("link/file", false), "rw"),
            ("/made", sub("new/one", true), "rw"),
            ("/ro", sub("link", true), "ro"),
        ];
        if kind.ends_with("overlay") {
            mounts.retain(|m| m.0 == "/made");
        }
        for (destination, sub_path, option) in mounts {
            let mut mount = volume(destination, tree.clone(), &[option, "nodev"]);
            mount.inside = Some("data".to_owned());
            mount.sub_path = sub_path;
            case.request.volumes.push(mount);
        }
        let a = case.run();
        assert!(!table().contains(case.dir.path().to_str().unwrap()), "{kind}");
        assert_eq!(a.one("write:/made/x"), "ok", "{kind}");
        if kind.ends_with("overlay") {
            assert!(case.path("up/data/new/one/x").exists(), "{kind}");
            continue;
        }
        assert_eq!(a.one("ls:/whole"), "link new sub", "{kind}");
        assert_eq!(a.one("ls:/part"), "file");
        assert_eq!(a.one("cat:/file"), "content");
        assert_eq!(a.one("write:/ro/x"), "30");
        assert_eq!(a.one("ls:/ro"), "file");
    }
}

#[test]
fn root_a_file_of_the_host_is_a_volume() {
    let mut case = Case::new(&[
        "cat:/etc/made/here/key",
        "write:/etc/made/here/key",
        "cat:/tmp/there",
        "write:/tmp/there",
    ]);
    fs::create_dir(case.path("map")).unwrap();
    fs::write(case.path("map/key"), "value").unwrap();
    fs::write(case.path("lower/tmp/there"), "image").unwrap();
    case.request.volumes = vec![
        volume("/etc/made/here/key", bind(case.path("map/key")), &["ro"]),
        volume("/tmp/there", RootFs::Bind { path: case.path("map"), readonly: true }, &["rw"]),
    ];
    case.request.volumes[1].sub_path = sub("key", false);
    let a = case.run();
    assert_eq!(a.one("cat:/etc/made/here/key"), "value");
    assert_eq!(a.one("write:/etc/made/here/key"), "30");
    assert_eq!(a.one("cat:/tmp/there"), "value");
    assert_eq!(a.one("write:/tmp/there"), "30", "a mount's option does not widen what the tree allows");
}

#[test]
fn root_a_sub_path_that_leads_out_is_refused_and_leaves_nothing() {
    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(outside.path().join("secret"), "").unwrap();
    for (link, path, create) in [
        (outside.path().to_str().unwrap(), "link", false),
        (outside.path().to_str().unwrap(), "link/new", true),
        ("../../..", "link/etc", false),
        ("/", "link/etc/passwd", false),
        ("/proc/self/root", "link", false),
    ] {
        let mut case = Case::new(&["pid"]);
        fs::create_dir(case.path("vol")).unwrap();
        symlink(link, case.path("vol/link")).unwrap();
        let mut mount = volume("/data", bind(case.path("vol")), &[]);
        mount.sub_path = sub(path, create);
        case.request.volumes = vec![mount];
        let (kind, message) = failure(&mut case);
        assert_eq!(kind, FailureKind::UnsafePath, "{message}");
        assert!(
            message.starts_with("mount /data: ") && message.contains(&format!("sub path `{path}`")),
            "{message}"
        );
        assert!(!outside.path().join("new").exists());
        assert_eq!(fs::read_dir(case.path("run")).unwrap().count(), 0);
        assert!(!case.path("upper/data").exists(), "no target is made before all volumes are there");
    }
    let mut case = Case::new(&["pid"]);
    fs::create_dir(case.path("vol")).unwrap();
    let mut mount = volume("/data", bind(case.path("vol")), &[]);
    mount.sub_path = sub("none", false);
    case.request.volumes = vec![mount];
    let (_, message) = failure(&mut case);
    assert!(message.contains("mount /data: sub path `none` is not in the volume"), "{message}");
}

#[test]
fn root_a_link_of_the_image_leads_no_volume_into_the_runtimes_places() {
    for (link, text) in [
        ("/dev", "leads to /dev,"),
        ("/dev/shm", "leads to /dev/shm,"),
        ("../../dev/pts", "leads to /dev/pts,"),
        ("/sys/fs", "leads to /sys/fs,"),
        ("/sys/fs/cgroup", "leads to /sys/fs/cgroup,"),
        ("/proc/sys", "/proc"),
        ("/", "the root itself"),
    ] {
        let mut case = Case::new(&["pid"]);
        fs::create_dir(case.path("vol")).unwrap();
        symlink(link, case.path("lower/data")).unwrap();
        case.request.volumes = vec![volume("/data", bind(case.path("vol")), &[])];
        let (kind, message) = failure(&mut case);
        assert_eq!(kind, FailureKind::UnsafePath, "{link}: {message}");
        assert!(message.contains(text), "{link}: {message}");
    }
    // By its own name it is the user's choice; and links elsewhere inside are the image's.
    let mut case = Case::new(&["write:/dev/shm/x", "write:/run/inner/y"]);
    for dir in ["shm", "run-data", "lower/var"] {
        fs::create_dir(case.path(dir)).unwrap();
    }
    symlink("/run", case.path("lower/var/run")).unwrap();
    case.request.volumes = vec![
        volume("/dev/shm", bind(case.path("shm")), &[]),
        volume("/var/run/inner", bind(case.path("run-data")), &[]),
    ];
    let a = case.run();
    assert_eq!((a.one("write:/dev/shm/x"), a.one("write:/run/inner/y")), ("ok", "ok"));
    assert!(case.path("shm/x").exists() && case.path("run-data/y").exists());
}

#[test]
fn root_later_mounts_of_the_host_are_seen_as_asked_for() {
    own_mounts(|| {
        let mut case = Case::new(&["wait"]);
        let host = Host::shared(&case);
        let src = host.src();
        case.request.volumes = vec![
            volume("/slave", bind(src.clone()), &["rslave"]),
            volume("/private", bind(src.clone()), &["rprivate"]),
            volume("/default", bind(src.clone()), &[]),
            volume("/part", bind(src.parent().unwrap().to_owned()), &["rslave", "ro"]),
        ];
        case.request.volumes[3].sub_path = sub("src", false);
        case.add_mount("/oci", "bind", &src, &["rbind", "rslave"]);
        case.add_mount("/oci-default", "bind", &src, &["rbind"]);
        case.start();
        mount_tmpfs(&src.join("later"), "new");
        for (place, sees) in [
            ("/slave", true),
            ("/part", true),
            ("/oci", true),
            ("/private", false),
            ("/default", false),
            ("/oci-default", false),
        ] {
            assert!(inside(&case, &format!("{place}/first/first")).exists(), "{place}");
            assert_eq!(inside(&case, &format!("{place}/later/new")).exists(), sees, "{place}");
            let line = mounted(&case, place).unwrap();
            assert_eq!(line.contains("master:"), sees, "{place}: {line}");
            assert!(!line.contains("shared:"), "{place}: {line}");
        }
        assert!(mounted(&case, "/part").unwrap().starts_with("ro"));
        // And none of the container's reach the host.
        in_container(&case, || mount_tmpfs(Path::new("/slave/inner"), "inner"));
        assert!(inside(&case, "/slave/inner/inner").exists());
        assert!(!src.join("inner/inner").exists());
        rustix::mount::unmount(src.join("later"), rustix::mount::UnmountFlags::empty()).unwrap();
        assert!(!inside(&case, "/slave/later/new").exists(), "an unmount is heard of too");
    });
}

#[test]
fn root_mounts_go_both_ways_only_where_asked_for() {
    own_mounts(|| {
        let mut case = Case::new(&["wait"]);
        let host = Host::shared(&case);
        let src = host.src();
        case.request.volumes = vec![
            volume("/both", bind(src.clone()), &["rshared"]),
            volume("/slave", bind(src.clone()), &["rslave"]),
        ];
        case.add_mount("/oci", "bind", &src, &["rbind", "rshared"]);
        case.start();
        for place in ["/both", "/oci"] {
            assert!(mounted(&case, place).unwrap().contains("shared:"), "{place}");
        }
        mount_tmpfs(&src.join("later"), "new");
        assert!(inside(&case, "/both/later/new").exists());
        in_container(&case, || mount_tmpfs(Path::new("/both/inner"), "inner"));
        assert!(src.join("inner/inner").exists());
        assert!(inside(&case, "/slave/inner/inner").exists(), "by way of the host");
        // Only what was asked for is shared.
        let text = fs::read_to_string(format!("/proc/{}/mountinfo", case.init_pid())).unwrap();
        for line in text.lines().filter(|l| l.contains(" shared:")) {
            let place = line.split(' ').nth(4).unwrap();
            assert!(["/both", "/oci", "/slave"].iter().any(|p| place.starts_with(p)), "{line}");
        }
        // The end of the container unmounts nothing of the host's.
        case.cgroups.kill(&case.uid).unwrap();
        case.finish();
        assert!(src.join("first/first").exists() && src.join("inner/inner").exists());
    });
}

#[test]
fn root_propagation_that_cannot_be_is_refused() {
    own_mounts(|| {
        for (option, text) in
            [("rshared", "is not on a shared mount"), ("rslave", "not on a shared or slave mount")]
        {
            let mut case = Case::new(&["pid"]);
            let host = Host::private(&case);
            let private = host.0.clone();
            case.request.volumes = vec![volume("/data", bind(private.clone()), &[option])];
            let (_, message) = failure(&mut case);
            let place = private.display();
            assert!(
                message.contains(&format!("mount /data: {place} {text}"))
                    || message.contains(&format!("mount /data: {place} is {text}")),
                "{message}"
            );
            assert!(message.contains(&format!("run mount --make-rshared {place} on the host")), "{message}");
        }
        // Below a shared volume, another mount would be the host's too.
        let mut case = Case::new(&["pid"]);
        let host = Host::shared(&case);
        let src = host.src();
        fs::create_dir(case.path("vol")).unwrap();
        case.request.volumes = vec![
            volume("/both", bind(src.clone()), &["rshared"]),
            volume("/both/nested", bind(case.path("vol")), &[]),
        ];
        let (kind, message) = failure(&mut case);
        assert_eq!(kind, FailureKind::UnsafePath);
        assert!(
            message.contains("mount /both/nested") && message.contains("shared with the host"),
            "{message}"
        );
        // A masked path as well.
        case.request.volumes.pop();
        case.linux().masked_paths_mut().as_mut().unwrap().push("/both/first".to_owned());
        let (_, message) = failure(&mut case);
        assert!(message.contains("masked path /both/first"), "{message}");
        assert!(src.join("first/first").exists());
    });
    let mut case = Case::new(&["pid"]);
    let lower = vec![case.path("lower")];
    let tree = RootFs::Overlay { lower, upper: None, work: None, options: Vec::new() };
    case.request.volumes = vec![volume("/data", tree, &["rshared"])];
    let text = refusal(&mut case);
    assert!(
        text.starts_with("volumes[0].options: rshared and rslave need a directory of the host"),
        "{text}"
    );
    let mut case = Case::new(&["pid"]);
    case.add_mount("/data", "tmpfs", Path::new("tmpfs"), &["rshared"]);
    assert!(refusal(&mut case).contains("a mount of type tmpfs"));
}

#[test]
fn root_read_only_reaches_the_mounts_below_when_asked_for() {
    own_mounts(|| {
        let mut case = Case::new(&["write:/ro/x", "write:/ro/first/x", "write:/rro/first/x", "write:/rw/x"]);
        let host = Host::shared(&case);
        let src = host.src();
        case.request.volumes = vec![
            volume("/ro", bind(src.clone()), &["ro"]),
            volume("/rro", bind(src.clone()), &["rro", "nosuid", "noexec"]),
            volume("/rw", bind(src), &["rw"]),
        ];
        let a = case.run();
        assert_eq!(a.one("write:/ro/x"), "30");
        assert_eq!(a.one("write:/ro/first/x"), "ok");
        assert_eq!(a.one("write:/rro/first/x"), "30");
        assert_eq!(a.one("write:/rw/x"), "ok");
    });
}

/// Exchanges `path` with `others` in turn while `act` runs.
fn swapping(path: &Path, others: &[PathBuf], act: impl FnOnce()) {
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for other in others {
                    for _ in 0..2 {
                        rustix::fs::renameat_with(CWD, path, CWD, other, RenameFlags::EXCHANGE).unwrap();
                    }
                }
            }
        });
        let _end = End(&done);
        act();
    });
}

/// Whole starts beside the races of the functions themselves, which the library's own tests run 100,000 times.
#[test]
fn root_starts_stay_inside_while_volumes_and_images_are_swapped() {
    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(outside.path().join("marker"), "outside").unwrap();
    let (mut started, mut refused) = (0, 0);
    for turn in 0..300 {
        let mut case = Case::new(&["cat:/data/marker", "cat:/made/marker"]);
        for dir in ["vol/a/b", "image/a/b", "image/bin", "image/etc"] {
            fs::create_dir_all(case.path(dir)).unwrap();
        }
        fs::write(case.path("vol/a/b/marker"), "inside").unwrap();
        fs::copy(case.path("lower/bin/probe"), case.path("image/bin/probe")).unwrap();
        // Both from where they are swapped in, one by name and one by the way up: `…/case/vol/a` is five deep.
        let up = format!("../../../../../..{}", outside.path().display());
        for tree in ["vol", "image"] {
            symlink(outside.path(), case.path(tree).join("absolute")).unwrap();
            symlink(&up, case.path(tree).join("up")).unwrap();
        }
        case.request.root = bind(case.path("image"));
        let mut data = volume("/data", bind(case.path("vol")), &["ro"]);
        data.sub_path = sub("a/b", false);
        // Where it goes is swapped as well.
        let target = volume(&format!("/a/b/new{turn}"), bind(case.path("vol")), &[]);
        let mut made = volume("/made", bind(case.path("vol")), &[]);
        made.sub_path = sub(&format!("a/b/made{turn}"), true);
        case.request.volumes = vec![data, target, made];
        let others = |tree: &str| vec![case.path(tree).join("absolute"), case.path(tree).join("up")];
        let (vol, image) = (others("vol"), others("image"));
        let (in_vol, in_image) = (case.path("vol/a/b"), case.path("image/a/b"));
        let mut result = Ok(());
        swapping(&in_vol, &vol, || swapping(&in_image, &image, || result = case.try_start()));
        match result {
            Ok(()) => {
                let (code, log) = case.finish();
                assert_eq!(code, 0, "{log}");
                assert!(log.contains("inside") && !log.contains("outside"), "{log}");
                started += 1;
            }
            Err(StartError::Failed(f)) => {
                assert!(f.stage.starts_with("mount "), "{f}");
                refused += 1;
            }
            Err(e) => panic!("{}", chain(&e)),
        }
        let left: Vec<_> = fs::read_dir(outside.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["marker"], "made outside");
        if turn >= 30 && started >= 5 && refused >= 5 {
            break;
        }
    }
    assert!(started >= 5 && refused >= 5, "no race: {started} started, {refused} refused");
}
