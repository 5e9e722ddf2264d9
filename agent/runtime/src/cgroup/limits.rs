//! Limits as data, and how each version of cgroups takes them.

use std::path::Path;

use oci_spec::runtime::{LinuxDeviceType, LinuxResources};
use rustix::io::Errno;

use super::{
    CgroupError, Cgroups, Hierarchy, device_program,
    quota::{NEW_PERIOD_US, Quota},
    write,
};
use crate::error::CompileError;

/// The share of a new group.
const DEFAULT_SHARES: u64 = 1024;

/// As a limit, what lifts one that is there.
pub const UNLIMITED: u64 = u64::MAX;

/// Limits of a container. `None` leaves a value as it is, which in a new group is "no limit"; [`UNLIMITED`] lifts it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory and swap together in bytes; never below `memory_bytes`. Equal means no swap.
    pub memory_swap_bytes: Option<u64>,
    /// Share of a busy processor, 2 to 262144; 1024 is one whole. (On version 2 this becomes a weight.)
    pub cpu_shares: Option<u64>,
    /// Processor time in microseconds that may be used in each period.
    pub cpu_quota_us: Option<u64>,
    /// The period in microseconds; 100000 when only a quota is given.
    pub cpu_period_us: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Further device access, beside the default; later rules win.
    pub devices: Vec<DeviceRule>,
    /// Whatever else a specification asks for, in order.
    pub settings: Vec<super::Setting>,
}

/// A line for `devices.allow` or `devices.deny`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRule {
    /// Allow, or deny.
    pub allow: bool,
    /// `c`, `b` or `a`, numbers or `*`, access: `c 1:3 rwm`.
    pub rule: String,
}

/// What every container may use: making nodes of any kind, the standard devices and terminals, as all runtimes have it.
const DEFAULT_DEVICES: [&str; 10] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

impl Limits {
    /// All of them: what is not limited is lifted, and shares are those of a new group. For a group that had others before.
    #[must_use]
    pub(super) fn whole(mut self) -> Self {
        for limit in
            [&mut self.memory_bytes, &mut self.memory_swap_bytes, &mut self.cpu_quota_us, &mut self.pids]
        {
            limit.get_or_insert(UNLIMITED);
        }
        self.cpu_shares.get_or_insert(DEFAULT_SHARES);
        self
    }

    /// The limits of a specification.
    ///
    /// # Errors
    /// A field that this version does not do is refused by its name.
    pub fn from_oci(resources: &LinuxResources) -> Result<Self, CompileError> {
        let refuse =
            |field: &str| CompileError::unsupported(format!("linux.resources.{field}"), "leave it out");
        let fields = [
            ("blockIO", resources.block_io().is_some()),
            ("hugepageLimits", resources.hugepage_limits().as_ref().is_some_and(|h| !h.is_empty())),
            ("network", resources.network().is_some()),
            ("rdma", resources.rdma().is_some()),
            ("unified", resources.unified().as_ref().is_some_and(|u| !u.is_empty())),
        ];
        if let Some((field, _)) = fields.iter().find(|(_, set)| *set) {
            return Err(refuse(field));
        }
        let mut limits = Self::default();
        // -1 is "no limit" in the specification.
        let limit = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
        if let Some(memory) = resources.memory() {
            let fields = [
                ("memory.reservation", memory.reservation().is_some()),
                ("memory.kernel", memory.kernel().is_some()),
                ("memory.kernelTCP", memory.kernel_tcp().is_some()),
                ("memory.swappiness", memory.swappiness().is_some()),
                ("memory.disableOOMKiller", memory.disable_oom_killer() == Some(true)),
            ];
            if let Some((field, _)) = fields.iter().find(|(_, set)| *set) {
                return Err(refuse(field));
            }
            limits.memory_bytes = limit(memory.limit());
            limits.memory_swap_bytes = limit(memory.swap());
        }
        if let Some(cpu) = resources.cpu() {
            let fields = [
                ("cpu.idle", cpu.idle().is_some()),
                ("cpu.burst", cpu.burst().is_some()),
                ("cpu.realtimeRuntime", cpu.realtime_runtime().is_some()),
                ("cpu.realtimePeriod", cpu.realtime_period().is_some()),
                ("cpu.cpus", cpu.cpus().is_some()),
                ("cpu.mems", cpu.mems().is_some()),
            ];
            if let Some((field, _)) = fields.iter().find(|(_, set)| *set) {
                return Err(refuse(field));
            }
            limits.cpu_shares = cpu.shares();
            limits.cpu_quota_us = limit(cpu.quota());
            limits.cpu_period_us = cpu.period();
        }
        limits.pids =
            limit(resources.pids().as_ref().map(oci_spec::runtime::LinuxPids::limit)).filter(|n| *n > 0);
        for rule in resources.devices().iter().flatten() {
            let number =
                |n: Option<i64>| n.filter(|n| *n >= 0).map_or_else(|| "*".to_owned(), |n| n.to_string());
            let typ = match rule.typ() {
                Some(LinuxDeviceType::B) => "b",
                Some(LinuxDeviceType::C | LinuxDeviceType::U) => "c",
                Some(LinuxDeviceType::P) => {
                    return Err(CompileError::invalid(
                        "linux.resources.devices",
                        "type `p` has no device number",
                    ));
                }
                Some(LinuxDeviceType::A) | None => "a",
            };
            let access = rule.access().clone().unwrap_or_else(|| "rwm".to_owned());
            if access.is_empty() || !access.bytes().all(|b| matches!(b, b'r' | b'w' | b'm')) {
                let problem = format!("`{access}` is not made of r, w and m");
                return Err(CompileError::invalid("linux.resources.devices", problem));
            }
            let all = typ == "a" && rule.major().is_none() && rule.minor().is_none();
            if all && !rule.allow() {
                // The usual first rule; it is where we begin.
                limits.devices.clear();
                continue;
            }
            let rule = DeviceRule {
                allow: rule.allow(),
                rule: if all {
                    "a".to_owned()
                } else {
                    format!("{typ} {}:{} {access}", number(rule.major()), number(rule.minor()))
                },
            };
            limits.devices.push(rule);
        }
        Ok(limits)
    }

    /// Memory limits in an order that never has the one above the other, whatever they were: `(file, value)`.
    fn memory_v1(&self) -> Vec<(&'static str, u64)> {
        let both = self.memory_swap_bytes.map(|s| s.max(self.memory_bytes.unwrap_or(0)));
        let mut writes = Vec::new();
        writes.extend(self.memory_bytes.map(|m| ("memory.limit_in_bytes", m)));
        writes.extend(both.map(|s| ("memory.memsw.limit_in_bytes", s)));
        writes
    }
}

/// A limit as the kernel takes it.
fn shown(limit: u64, unlimited: &str) -> String {
    if limit == UNLIMITED { unlimited.to_owned() } else { limit.to_string() }
}

/// A weight from shares, by the formula all runtimes use: 2…262144 becomes 1…10000.
pub(super) fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Whether each limit has its controller.
pub(super) fn check(groups: &Cgroups, limits: &Limits) -> Result<(), CgroupError> {
    let needs = [
        ("memory", "memory", limits.memory_bytes.is_some() || limits.memory_swap_bytes.is_some()),
        ("cpu", "cpu", limits.cpu_shares.is_some() || limits.cpu_quota_us.is_some()),
        ("pids", "pids", limits.pids.is_some()),
    ];
    for (what, controller, needed) in needs {
        if needed && groups.with(controller).is_none() {
            return Err(CgroupError::NoController { what, controller });
        }
    }
    Ok(())
}

/// Writes the limits; `new` also sets what every new group gets.
pub(super) fn apply(groups: &Cgroups, uid: &str, limits: &Limits, new: bool) -> Result<(), CgroupError> {
    if let Some(h) = groups.with("memory") {
        let dir = groups.group(h, uid);
        if h.v2 { memory_v2(&dir, limits) } else { memory_v1(&dir, limits) }?;
    }
    if let Some(h) = groups.with("cpu") {
        let dir = groups.group(h, uid);
        if h.v2 { cpu_v2(&dir, limits) } else { cpu_v1(&dir, limits, groups.exact) }?;
    }
    if let (Some(h), Some(pids)) = (groups.with("pids"), limits.pids) {
        write(&groups.group(h, uid).join("pids.max"), &shown(pids, "max"))?;
    }
    super::resources::apply(groups, uid, &limits.settings)?;
    if new {
        match (groups.with("devices"), groups.v2()) {
            (Some(h), _) if !h.v2 => devices_v1(&groups.group(h, uid), &limits.devices)?,
            (_, Some(h)) => {
                let rules: Vec<DeviceRule> = DEFAULT_DEVICES
                    .iter()
                    .map(|rule| DeviceRule { allow: true, rule: (*rule).to_owned() })
                    .chain(limits.devices.iter().cloned())
                    .collect();
                device_program::attach(&groups.group(h, uid), &rules)?;
            }
            // A kernel without either cannot limit devices at all.
            (_, None) => {}
        }
    }
    Ok(())
}

fn memory_v1(dir: &Path, limits: &Limits) -> Result<(), CgroupError> {
    let mut writes = limits.memory_v1();
    let mut last = None;
    // The kernel wants memory ≤ memory and swap at every moment: where one order fails, the other does not.
    for _ in 0..2 {
        last = None;
        for (file, value) in &writes {
            match write(&dir.join(file), &shown(*value, "-1")) {
                // A kernel that does not account swap has no such file, and no swap to limit.
                Err(CgroupError::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound && file.contains("memsw") => {}
                Err(e) => {
                    last = Some(e);
                    break;
                }
                Ok(()) => {}
            }
        }
        if last.is_none() {
            break;
        }
        writes.reverse();
    }
    last.map_or(Ok(()), Err)
}

fn memory_v2(dir: &Path, limits: &Limits) -> Result<(), CgroupError> {
    if let Some(memory) = limits.memory_bytes {
        write(&dir.join("memory.max"), &shown(memory, "max"))?;
    }
    if let Some(both) = limits.memory_swap_bytes {
        let swap = match both {
            UNLIMITED => UNLIMITED,
            both => both.saturating_sub(limits.memory_bytes.unwrap_or(0)),
        };
        match write(&dir.join("memory.swap.max"), &shown(swap, "max")) {
            Err(CgroupError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// What a specification says of a group is set or refused; within the agent's own groups the least counts.
fn cpu_v1(dir: &Path, limits: &Limits, exact: bool) -> Result<(), CgroupError> {
    if let Some(shares) = limits.cpu_shares {
        write(&dir.join("cpu.shares"), &shares.clamp(2, 262_144).to_string())?;
    }
    if let Some(quota) = limits.cpu_quota_us {
        let period = limits.cpu_period_us.unwrap_or(NEW_PERIOD_US);
        let quota = Quota { quota: Some(quota).filter(|quota| *quota != UNLIMITED), period };
        let period_too = period != NEW_PERIOD_US;
        if exact { quota.write(dir, period_too) } else { quota.set(dir, period_too) }?;
    }
    Ok(())
}

fn cpu_v2(dir: &Path, limits: &Limits) -> Result<(), CgroupError> {
    if let Some(shares) = limits.cpu_shares {
        write(&dir.join("cpu.weight"), &weight(shares).to_string())?;
    }
    if let Some(quota) = limits.cpu_quota_us {
        let period = limits.cpu_period_us.unwrap_or(NEW_PERIOD_US);
        write(&dir.join("cpu.max"), &format!("{} {period}", shown(quota, "max")))?;
    }
    Ok(())
}

fn devices_v1(dir: &Path, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    write(&dir.join("devices.deny"), "a")?;
    let usual = || DEFAULT_DEVICES.iter().try_for_each(|rule| write(&dir.join("devices.allow"), rule));
    // Where nothing is denied the order changes nothing but the list that the kernel shows: it begins with what was asked for.
    let denies = rules.iter().any(|r| !r.allow);
    if denies {
        usual()?;
    }
    for rule in rules {
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        write(&dir.join(file), &rule.rule)?;
    }
    if denies { Ok(()) } else { usual() }
}

/// Passes the controllers that limits need down to the groups below `dir`.
pub(super) fn enable_controllers(dir: &Path, h: &Hierarchy, more: &[String]) -> Result<(), CgroupError> {
    let usual = ["cpu", "memory", "pids"];
    let more = more.iter().map(String::as_str).filter(|c| !usual.contains(c));
    let wanted: Vec<String> = usual
        .into_iter()
        .chain(more)
        .filter(|c| h.controllers.iter().any(|have| have == c))
        .map(|c| format!("+{c}"))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let file = dir.join("cgroup.subtree_control");
    let have = std::fs::read_to_string(&file).map_err(|e| CgroupError::io(&file, e))?;
    let missing: Vec<&str> = wanted
        .iter()
        .map(String::as_str)
        .filter(|w| !have.split_whitespace().any(|h| Some(h) == w.strip_prefix('+')))
        .collect();
    if missing.is_empty() { Ok(()) } else { write(&file, &missing.join(" ")) }
}

/// A version 1 cpuset group is unusable until it has processors and memory nodes.
pub(super) fn inherit_cpuset(dir: &Path) -> Result<(), CgroupError> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let read = |dir: &Path| {
            let path = dir.join(file);
            std::fs::read_to_string(&path).map_err(|e| CgroupError::io(&path, e))
        };
        if read(dir)?.trim().is_empty() {
            write(&dir.join(file), read(parent)?.trim())?;
        }
    }
    match write(&dir.join("cgroup.clone_children"), "1") {
        Err(CgroupError::Io { source, .. }) if source.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
            Ok(())
        }
        other => other,
    }
}
