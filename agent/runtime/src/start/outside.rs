//! The starter's way where another runtime makes the container: mounts, `create`, who it is, `start`.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};
use serde_json::json;

use super::starter::{Prepared, kill, rfc3339_now, write_record};
use crate::error::{Failure, FailureKind};
use crate::job::{Job, OutsideJob};
use crate::mounts;
use crate::outside::{self, Runtime};
use crate::record::ShimRecord;
use crate::user::{self, Identity};

/// No pid file is longer, in bytes.
const MAX_PID: u64 = 32;

/// Lets the runtime make the container and run its command. After a failure nothing is left of it but what
/// [`outside::clear`] has to say.
pub(super) fn launch(
    job: &Job,
    outside: &OutsideJob,
    prepared: &Prepared,
) -> Result<(ShimRecord, OwnedFd), Failure> {
    let launched = try_launch(job, outside, prepared);
    if launched.is_err() {
        // What this leaves is cleared again by whoever comes next; the failure itself is what matters now.
        let _ = outside::clear(&outside.dir, &job.uid);
    }
    launched
}

fn try_launch(
    job: &Job,
    outside: &OutsideJob,
    prepared: &Prepared,
) -> Result<(ShimRecord, OwnedFd), Failure> {
    let stage = format!("runtime {}", outside.name);
    let failed = |what: &str, error: io::Error| Failure::errno(&stage, what, error);
    let runtime = Runtime { name: outside.name.clone(), program: outside.program.clone() };
    let dir = &outside.dir;
    fs::create_dir(dir).and_then(|()| runtime.write(dir)).map_err(|e| failed("making its directory", e))?;
    let identity = mount(job, dir, &stage)?;
    let config = config(job, outside, &identity);
    let bytes = serde_json::to_vec(&config).map_err(|e| failed("config.json", e.into()))?;
    fs::write(dir.join("config.json"), bytes).map_err(|e| failed("config.json", e))?;

    let log = dir.join("log.json");
    let refused = |verb: &str, error: outside::RunError| {
        let message = match &error {
            outside::RunError::Spawn { source, .. } => format!("{verb}: {error}: {source}"),
            _ => format!("{verb}: {error}"),
        };
        Failure::new(&stage, FailureKind::Other, message)
    };
    let mut create = runtime.command(dir);
    create.arg("create").arg("--bundle").arg(dir).arg("--pid-file").arg(dir.join("pid"));
    create.args(&outside.create_args).arg(&job.uid).stdin(Stdio::null());
    let end = |fd: &OwnedFd| fd.try_clone().map(Stdio::from).map_err(|e| failed("the output", e));
    create.stdout(end(&prepared.stdout.1)?).stderr(end(&prepared.stderr.1)?);
    outside::run(create, Some(&log), outside.limit).map_err(|e| refused("create", e))?;

    let (pid, pidfd) = first_process(dir).map_err(|e| failed("the container's first process", e))?;
    let started = join_groups(job, pid)
        .and_then(|()| {
            let started_at = rfc3339_now();
            write_record(job, &[], pid, &started_at, &prepared.run_dir)
        })
        .and_then(|record| {
            let mut start: Command = runtime.command(dir);
            start.arg("start").arg(&job.uid);
            start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            outside::run(start, Some(&log), outside.limit).map_err(|e| refused("start", e))?;
            Ok(record)
        });
    match started {
        Ok(record) => Ok((record, pidfd)),
        Err(failure) => {
            kill(&pidfd);
            Err(failure)
        }
    }
}

/// Mounts the root filesystem and the volumes below the directory, and looks up who the process is.
fn mount(job: &Job, dir: &Path, stage: &str) -> Result<Identity, Failure> {
    let failed = |what: &Path, error: io::Error| Failure::errno(stage, what.display(), error);
    let base = outside::mounts(dir);
    let make = |path: &Path| fs::create_dir(path).map_err(|e| failed(path, e));
    make(&base)?;
    rustix::mount::mount_bind(&base, &base).map_err(|e| failed(&base, e.into()))?;
    // Nothing below it is heard of elsewhere, and all of it goes with it.
    rustix::mount::mount_change(&base, MountPropagationFlags::PRIVATE)
        .map_err(|e| failed(&base, e.into()))?;

    let mut blocks = mounts::Blocks::open(job)?;
    let root = outside::root(dir);
    make(&root)?;
    let at_root = Job { run_dir: root, ..job.clone() };
    let root = mounts::Root::attach(&at_root, &mut blocks)?;
    // A place for those that have to be attached for a moment.
    let scratch = base.join("scratch");
    make(&scratch)?;
    let at_scratch = Job { run_dir: scratch, ..job.clone() };
    let volumes = mounts::open_volumes(&at_scratch, &mut blocks)?;
    for (number, volume) in volumes.iter().enumerate() {
        let Some(volume) = volume else { continue };
        let path = outside::volume(dir, number);
        let is_dir = rustix::fs::fstat(volume)
            .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
        if is_dir {
            make(&path)?;
        } else {
            fs::write(&path, []).map_err(|e| failed(&path, e))?;
        }
        let place = rustix::fs::open(&path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| failed(&path, e.into()))?;
        mounts::move_to(volume, place.as_fd()).map_err(|e| failed(&path, e.into()))?;
    }
    let _ = rustix::mount::unmount(&at_scratch.run_dir, UnmountFlags::DETACH);
    user::resolve(root.fd(), &job.process.user)
}

/// The specification with the user by number, as the built-in runtime has it.
fn config(job: &Job, outside: &OutsideJob, identity: &Identity) -> serde_json::Value {
    let mut config = outside.config.clone();
    let process = &mut config["process"];
    process["user"] = json!({
        "uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups, "umask": job.process.umask,
    });
    if let Some(env) = process["env"].as_array_mut()
        && !job.process.env.iter().any(|variable| variable.starts_with("HOME="))
    {
        env.push(format!("HOME={}", identity.home.as_deref().unwrap_or("/")).into());
    }
    config
}

/// The process that the runtime names, which has to be this one's child by now.
fn first_process(dir: &Path) -> io::Result<(u32, OwnedFd)> {
    let mut text = String::new();
    fs::File::open(dir.join("pid"))?.take(MAX_PID).read_to_string(&mut text)?;
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let number: i32 = text.trim().parse().map_err(|_| invalid("its pid file has no number"))?;
    let pid = Pid::from_raw(number).ok_or_else(|| invalid("its pid file has no number"))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), look) {
        Ok(_) => Ok((number.unsigned_abs(), pidfd)),
        Err(_) => Err(invalid(
            "it is a child of another process; a runtime that keeps one of its own cannot be used",
        )),
    }
}

/// Into every group of the container, whatever the runtime has done about them: the groups are what ends it.
fn join_groups(job: &Job, pid: u32) -> Result<(), Failure> {
    let v1 = job.cgroup.v1.iter().map(|group| &group.dir);
    for group in v1.chain(&job.cgroup.v2) {
        super::init::write_existing(&group.join("cgroup.procs"), &pid.to_string())
            .map_err(|e| Failure::errno("cgroup", format_args!("joining {}", group.display()), e))?;
    }
    Ok(())
}
