//! Device nodes of `/dev`: the usual ones, those asked for, and the links beside them.

use std::os::fd::BorrowedFd;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::error::{CompileError, Failure, FailureKind};
use crate::job::DeviceNode;

/// `config-linux.md`, "Default Devices".
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// `config-linux.md`, "Default Devices" and "Dev symbolic links".
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// The default nodes and those of the specification, which win.
pub(crate) fn compile(asked: &[LinuxDevice]) -> Result<Vec<DeviceNode>, CompileError> {
    let mut nodes = Vec::with_capacity(DEFAULTS.len() + asked.len());
    for device in asked {
        nodes.push(one(device)?);
    }
    for (path, major, minor) in DEFAULTS {
        if !nodes.iter().any(|n: &DeviceNode| n.path == path) {
            let path = path.to_owned();
            nodes.push(DeviceNode { path, kind: libc::S_IFCHR, major, minor, mode: 0o666, uid: 0, gid: 0 });
        }
    }
    Ok(nodes)
}

fn one(device: &LinuxDevice) -> Result<DeviceNode, CompileError> {
    let invalid = |problem: String| CompileError::invalid("linux.devices", problem);
    let path = device.path().to_str().ok_or_else(|| invalid("a path is not UTF-8".to_owned()))?;
    let rest = path.strip_prefix("/dev/").unwrap_or("");
    if rest.is_empty() || rest.split('/').any(|c| matches!(c, "" | "." | "..")) {
        return Err(invalid(format!("{path} is not a plain path under /dev")));
    }
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => return Err(invalid(format!("{path}: type `a` names no device"))),
    };
    let number = |n: i64| u32::try_from(n).map_err(|_| invalid(format!("{path}: {n} is no device number")));
    Ok(DeviceNode {
        path: path.to_owned(),
        kind,
        major: number(device.major())?,
        minor: number(device.minor())?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// Makes the nodes and links in `dev`, the directory of a filesystem that nobody else has seen yet.
pub(crate) fn populate(dev: BorrowedFd<'_>, nodes: &[DeviceNode]) -> Result<(), Failure> {
    for node in nodes {
        make(dev, node).map_err(|e| {
            let failure = Failure::errno("device", &node.path, e);
            if e == Errno::PERM { failure.kind(FailureKind::MissingCapability) } else { failure }
        })?;
    }
    links(dev)
}

fn links(dev: BorrowedFd<'_>) -> Result<(), Failure> {
    for (name, target) in LINKS {
        match rustix::fs::symlinkat(target, dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(Failure::errno("device", format_args!("linking /dev/{name}"), e)),
        }
    }
    Ok(())
}

/// Nodes and links in the `/dev` of a finished root, which no link may lead to. With `bind` nobody may make nodes here, and
/// the host's own are mounted instead: what is at the same path there, if it is the same device.
#[cfg(feature = "cli")]
pub(crate) fn provide(root: BorrowedFd<'_>, nodes: &[DeviceNode], bind: bool) -> Result<(), Failure> {
    use crate::mounts::{Make, bind_fd, move_to, open_inside, open_making};
    use rustix::fs::ResolveFlags;
    const STAGE: &str = "device";
    let strict = ResolveFlags::NO_SYMLINKS;
    let fail = |what: &str, e: Errno| Failure::errno(STAGE, what, e);
    open_making(root, "/dev", Make::Dir, strict).map_err(|e| fail("/dev of the image", e))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let dev = open_inside(root, "/dev", flags, strict).map_err(|e| fail("/dev of the image", e))?;
    let dev = std::os::fd::AsFd::as_fd(&dev);
    if !bind {
        return populate(dev, nodes);
    }
    for node in nodes {
        let path = &node.path;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let own = rustix::fs::open(path.as_str(), flags, Mode::empty())
            .map_err(|e| fail(&format!("{path} of this machine"), e))?;
        let seen = rustix::fs::fstat(&own).map_err(|e| fail(path, e))?;
        let number = rustix::fs::makedev(node.major, node.minor);
        if seen.st_rdev != number || seen.st_mode & libc::S_IFMT != node.kind {
            let message = format!(
                "{path} of this machine is not device {}:{}, and no other can be made in a user namespace",
                node.major, node.minor
            );
            return Err(Failure::new(STAGE, FailureKind::MissingCapability, message));
        }
        let copy = bind_fd(std::os::fd::AsFd::as_fd(&own), false).map_err(|e| fail(path, e))?;
        let place = open_making(root, path, Make::File, strict).map_err(|e| fail(path, e))?;
        move_to(&copy, std::os::fd::AsFd::as_fd(&place)).map_err(|e| fail(path, e))?;
    }
    links(dev)
}

fn make(dev: BorrowedFd<'_>, node: &DeviceNode) -> rustix::io::Result<()> {
    let mut dir: Option<std::os::fd::OwnedFd> = None;
    let mut rest = node.path.strip_prefix("/dev/").unwrap_or(&node.path);
    while let Some((first, tail)) = rest.split_once('/') {
        let at = dir.as_ref().map_or(dev, std::os::fd::AsFd::as_fd);
        match rustix::fs::mkdirat(at, first, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        dir = Some(rustix::fs::openat(at, first, flags, Mode::empty())?);
        rest = tail;
    }
    let at = dir.as_ref().map_or(dev, std::os::fd::AsFd::as_fd);
    let number = rustix::fs::makedev(node.major, node.minor);
    let mode = Mode::from_raw_mode(node.mode);
    match rustix::fs::mknodat(at, rest, FileType::from_raw_mode(node.kind), mode, number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let seen = rustix::fs::statat(at, rest, AtFlags::SYMLINK_NOFOLLOW)?;
            if seen.st_rdev != number || seen.st_mode & libc::S_IFMT != node.kind {
                return Err(Errno::EXIST);
            }
        }
        Err(e) => return Err(e),
    }
    if (node.uid, node.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        rustix::fs::chownat(at, rest, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// A descriptor of the machine's null device, proven to be it by its number: an image's or a volume's `/dev/null`
/// may be anything.
pub(crate) fn open_null() -> Result<std::os::fd::OwnedFd, Failure> {
    let fail = |e| Failure::errno("device", "/dev/null of this machine", e);
    let fd = rustix::fs::openat(
        CWD,
        "/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )
    .map_err(fail)?;
    if !is_null(&fd) {
        return Err(Failure::new(
            "device",
            FailureKind::UnsafePath,
            "/dev/null of this machine is not device 1:3",
        ));
    }
    Ok(fd)
}

/// Whether a descriptor is of the null device, by its kind and number.
pub(crate) fn is_null(fd: &std::os::fd::OwnedFd) -> bool {
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::fstat(fd).is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFCHR && s.st_rdev == null)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str, major: i64) -> LinuxDevice {
        let mut d = LinuxDevice::default();
        d.set_path(path.into()).set_typ(LinuxDeviceType::C).set_major(major).set_minor(2);
        d
    }

    #[test]
    fn an_asked_device_replaces_the_default_of_its_path() {
        let nodes = compile(&[device("/dev/null", 9)]).unwrap();
        assert_eq!(nodes.iter().filter(|n| n.path == "/dev/null").map(|n| n.major).collect::<Vec<_>>(), [9]);
        assert_eq!(nodes.len(), 6);
    }

    #[test]
    fn a_device_outside_dev_or_with_a_bad_number_is_refused() {
        for path in ["/etc/x", "/dev/../etc/x", "/dev", "/dev/", "/dev/a//b"] {
            let e = compile(&[device(path, 1)]).unwrap_err().to_string();
            assert!(e.contains("is not a plain path under /dev"), "{path}: {e}");
        }
        assert!(compile(&[device("/dev/x", -1)]).unwrap_err().to_string().contains("-1 is no device number"));
    }
}
