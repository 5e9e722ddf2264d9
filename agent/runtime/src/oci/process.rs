//! Attributes of a process that the agent's containers do without: labels, scheduling, keys, time.

use std::os::fd::AsFd;

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler,
};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::{CompileError, Failure, FailureKind};
use crate::start::sys;

/// Checked before anything is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// `file below /proc/self/attr`, value.
    labels: Vec<(&'static str, String)>,
    scheduler: Option<sys::SchedAttr>,
    /// As `ioprio_set(2)` takes it.
    io_priority: Option<i32>,
}

impl Attributes {
    /// # Errors
    /// Values that cannot be, and labels that this kernel does not have.
    pub(super) fn of(process: &Process) -> Result<Self, CompileError> {
        let mut labels = Vec::new();
        if let Some(profile) = process.apparmor_profile().as_deref().filter(|p| !p.is_empty()) {
            if !has_module("apparmor") {
                return Err(CompileError::invalid(
                    "process.apparmorProfile",
                    format!("asks for `{profile}`, but this kernel runs without AppArmor; leave it out"),
                ));
            }
            labels.push(("apparmor/exec", format!("exec {profile}")));
        }
        if let Some(label) = process.selinux_label().as_deref().filter(|l| !l.is_empty()) {
            if !has_module("selinux") {
                return Err(CompileError::invalid(
                    "process.selinuxLabel",
                    format!("asks for `{label}`, but this kernel runs without SELinux; leave it out"),
                ));
            }
            labels.push(("exec", label.to_owned()));
        }
        if let Some((_, bad)) = labels.iter().find(|(_, v)| v.contains(['\n', '\0'])) {
            return Err(CompileError::invalid("process", format!("the label {bad:?} is none")));
        }
        let scheduler = process.scheduler().as_ref().map(scheduler).transpose()?;
        let io_priority = process.io_priority().as_ref().map(io_priority).transpose()?;
        Ok(Self { labels, scheduler, io_priority })
    }

    /// Sets those that need the runtime's capabilities.
    pub(super) fn set(&self) -> Result<(), Failure> {
        if let Some(attr) = &self.scheduler {
            sys::sched_setattr(attr).map_err(|e| needs("scheduler", "process.scheduler", e))?;
        }
        if let Some(value) = self.io_priority {
            sys::ioprio_set(value).map_err(|e| needs("I/O priority", "process.ioPriority", e))?;
        }
        if self.labels.is_empty() {
            return Ok(());
        }
        // Through a procfs of our own: what is mounted in the container could be anything (CVE-2019-16884,
        // CVE-2025-52881).
        let proc = crate::mounts::private_proc("label")?;
        for (file, value) in &self.labels {
            let fail = |e| Failure::errno("label", format_args!("setting {value}"), e);
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
            let path = format!("thread-self/attr/{file}");
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let fd = rustix::fs::openat2(proc.as_fd(), path, flags, Mode::empty(), resolve).map_err(fail)?;
            rustix::io::write(&fd, value.as_bytes()).map_err(fail)?;
        }
        Ok(())
    }
}

/// Whether the kernel runs with this security module.
pub(super) fn has_module(name: &str) -> bool {
    match name {
        "apparmor" => std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.trim_end() == "Y"),
        _ => std::path::Path::new("/sys/fs/selinux/enforce").exists(),
    }
}

fn needs(stage: &str, field: &str, e: std::io::Error) -> Failure {
    let failure = Failure::errno(stage, format_args!("{field}, which may need CAP_SYS_NICE"), e);
    if failure.errno == libc::EPERM { failure.kind(FailureKind::MissingCapability) } else { failure }
}

/// `sched_setattr(2)`.
fn scheduler(s: &Scheduler) -> Result<sys::SchedAttr, CompileError> {
    use LinuxSchedulerPolicy as P;
    let policy = match s.policy() {
        P::SchedOther => 0,
        P::SchedFifo => 1,
        P::SchedRr => 2,
        P::SchedBatch => 3,
        P::SchedIdle => 5,
        P::SchedDeadline => 6,
        P::SchedIso => {
            return Err(CompileError::unsupported("process.scheduler.policy", "Linux has no SCHED_ISO"));
        }
    };
    let mut flags = 0u64;
    for flag in s.flags().iter().flatten() {
        flags |= match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        };
    }
    let priority = u32::try_from(s.priority().unwrap_or(0))
        .map_err(|_| CompileError::invalid("process.scheduler.priority", "is negative"))?;
    Ok(sys::SchedAttr {
        policy,
        flags,
        nice: s.nice().unwrap_or(0),
        priority,
        runtime: s.runtime().unwrap_or(0),
        deadline: s.deadline().unwrap_or(0),
        period: s.period().unwrap_or(0),
    })
}

fn io_priority(p: &LinuxIOPriority) -> Result<i32, CompileError> {
    let class = match p.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = i32::try_from(p.priority()).ok().filter(|n| (0..=7).contains(n)).ok_or_else(|| {
        CompileError::invalid(
            "process.ioPriority.priority",
            format!("{} is not within 0 and 7", p.priority()),
        )
    })?;
    Ok(class << 13 | level)
}
