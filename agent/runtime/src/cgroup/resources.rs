//! `linux.resources` beyond [`Limits`]' own fields, as files of each version (`config-linux.md`, "Control groups").

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::limits::Limits;
use super::{CgroupError, Cgroups, write};
use crate::error::CompileError;

/// A value that is written as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The field's path in `config.json`.
    pub field: String,
    /// On version 1; `None` where that has no such thing.
    pub v1: Option<File>,
    /// On version 2.
    pub v2: Option<File>,
}

/// A file of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The controller whose file it is; empty for those of every group.
    pub controller: String,
    /// Its names; the first that is there is written.
    pub names: Vec<String>,
    /// What is written.
    pub value: String,
    /// A kernel that has none of the names is all right.
    pub optional: bool,
}

fn file(controller: &str, name: &str, value: impl std::fmt::Display) -> Option<File> {
    Some(File {
        controller: controller.to_owned(),
        names: vec![name.to_owned()],
        value: value.to_string(),
        optional: false,
    })
}

/// "No limit" is -1 in the specification and on version 1, and `max` on version 2.
fn max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

struct List(Vec<Setting>);

impl List {
    fn add(&mut self, field: &str, v1: Option<File>, v2: Option<File>) {
        self.0.push(Setting { field: format!("linux.resources.{field}"), v1, v2 });
    }
}

impl Limits {
    /// The limits of a specification, whole.
    ///
    /// # Errors
    /// Values that cannot be.
    pub fn from_oci_whole(resources: &LinuxResources) -> Result<Self, CompileError> {
        let mut list = List(Vec::new());
        let mut rest = resources.clone();
        if let Some(m) = resources.memory() {
            rest.set_memory(Some(memory(m, &mut list)));
        }
        if let Some(c) = resources.cpu() {
            rest.set_cpu(Some(cpu(c, &mut list)));
        }
        if let Some(pids) = resources.pids()
            && pids.limit() <= 0
        {
            // 0 is what callers say who want none.
            list.add("pids.limit", file("pids", "pids.max", "max"), file("pids", "pids.max", "max"));
            rest.set_pids(None);
        }
        if let Some(io) = resources.block_io() {
            block_io(io, &mut list);
        }
        for limit in resources.hugepage_limits().iter().flatten() {
            let (size, value) = (limit.page_size(), limit.limit());
            plain("hugepageLimits.pageSize", size)?;
            let field = format!("hugepageLimits[{size}]");
            let names = |v1: bool, kind: &str| {
                let end = if v1 { "limit_in_bytes" } else { "max" };
                file("hugetlb", &format!("hugetlb.{size}{kind}.{end}"), value)
            };
            list.add(&field, names(true, ""), names(false, ""));
            let reserved = |v1| names(v1, ".rsvd").map(|f| File { optional: true, ..f });
            list.add(&field, reserved(true), reserved(false));
        }
        if let Some(network) = resources.network() {
            if let Some(id) = network.class_id() {
                list.add("network.classID", file("net_cls", "net_cls.classid", id), None);
            }
            for p in network.priorities().iter().flatten() {
                plain("network.priorities.name", p.name())?;
                let value = format!("{} {}", p.name(), p.priority());
                list.add("network.priorities", file("net_prio", "net_prio.ifpriomap", value), None);
            }
        }
        for (device, limit) in resources.rdma().iter().flatten() {
            plain("rdma", device)?;
            let number = |n: Option<u32>| n.map_or_else(|| "max".to_owned(), |n| n.to_string());
            let value = format!(
                "{device} hca_handle={} hca_object={}",
                number(limit.hca_handles()),
                number(limit.hca_objects())
            );
            list.add("rdma", file("rdma", "rdma.max", &value), file("rdma", "rdma.max", &value));
        }
        let unified: std::collections::BTreeMap<_, _> = resources.unified().iter().flatten().collect();
        for (key, value) in unified {
            plain("unified", key)?;
            let controller = match key.split_once('.') {
                Some(("cgroup", _)) => "",
                Some((controller, _)) => controller,
                None => {
                    return Err(CompileError::invalid(
                        format!("linux.resources.unified[{key}]"),
                        "is not of the form controller.file",
                    ));
                }
            };
            list.add(&format!("unified[{key}]"), None, file(controller, key, value));
        }
        rest.set_block_io(None).set_hugepage_limits(None).set_network(None).set_rdma(None).set_unified(None);
        let mut limits = Self::from_oci(&rest)?;
        limits.settings = list.0;
        Ok(limits)
    }
}

/// A part of a file's name or of a line.
fn plain(field: &str, text: &str) -> Result<(), CompileError> {
    let bad = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    if text.is_empty() || text.starts_with('.') || text.contains(bad) {
        let field = format!("linux.resources.{field}");
        return Err(CompileError::invalid(field, format!("`{text}` cannot be a name")));
    }
    Ok(())
}

/// Takes what [`Limits`] has no field for, and gives the rest.
fn memory(m: &LinuxMemory, list: &mut List) -> LinuxMemory {
    let mut rest = *m;
    const C: &str = "memory";
    if let Some(limit) = m.limit().filter(|l| *l < 0) {
        list.add("memory.limit", file(C, "memory.limit_in_bytes", -1), file(C, "memory.max", max(limit)));
        rest.set_limit(None);
    }
    if let Some(swap) = m.swap().filter(|s| *s < 0) {
        let optional = |f: Option<File>| f.map(|f| File { optional: true, ..f });
        let v1 = optional(file(C, "memory.memsw.limit_in_bytes", -1));
        list.add("memory.swap", v1, optional(file(C, "memory.swap.max", max(swap))));
        rest.set_swap(None);
    }
    if let Some(low) = m.reservation() {
        let v2 = file(C, "memory.low", max(low));
        list.add("memory.reservation", file(C, "memory.soft_limit_in_bytes", low), v2);
        rest.set_reservation(None);
    }
    #[allow(deprecated, reason = "a caller may still give it; version 1 may still have it")]
    if let Some(kernel) = m.kernel() {
        list.add("memory.kernel", file(C, "memory.kmem.limit_in_bytes", kernel), None);
        rest.set_kernel(None);
    }
    if let Some(tcp) = m.kernel_tcp() {
        list.add("memory.kernelTCP", file(C, "memory.kmem.tcp.limit_in_bytes", tcp), None);
        rest.set_kernel_tcp(None);
    }
    if let Some(swappiness) = m.swappiness() {
        list.add("memory.swappiness", file(C, "memory.swappiness", swappiness), None);
        rest.set_swappiness(None);
    }
    if m.disable_oom_killer() == Some(true) {
        list.add("memory.disableOOMKiller", file(C, "memory.oom_control", 1), None);
        rest.set_disable_oom_killer(None);
    }
    rest
}

fn cpu(c: &LinuxCpu, list: &mut List) -> LinuxCpu {
    let mut rest = c.clone();
    if let Some(period) = c.period().filter(|_| c.quota().is_none_or(|q| q <= 0)) {
        let v2 = file("cpu", "cpu.max", format!("max {period}"));
        list.add("cpu.period", file("cpu", "cpu.cfs_period_us", period), v2);
        rest.set_period(None);
    }
    if c.quota().is_some_and(|q| q <= 0) {
        list.add("cpu.quota", file("cpu", "cpu.cfs_quota_us", -1), file("cpu", "cpu.max", "max"));
        rest.set_quota(None);
    }
    if let Some(burst) = c.burst() {
        list.add("cpu.burst", file("cpu", "cpu.cfs_burst_us", burst), file("cpu", "cpu.max.burst", burst));
        rest.set_burst(None);
    }
    if let Some(idle) = c.idle() {
        list.add("cpu.idle", file("cpu", "cpu.idle", idle), file("cpu", "cpu.idle", idle));
        rest.set_idle(None);
    }
    if let Some(period) = c.realtime_period() {
        list.add("cpu.realtimePeriod", file("cpu", "cpu.rt_period_us", period), None);
        rest.set_realtime_period(None);
    }
    if let Some(runtime) = c.realtime_runtime() {
        list.add("cpu.realtimeRuntime", file("cpu", "cpu.rt_runtime_us", runtime), None);
        rest.set_realtime_runtime(None);
    }
    for (field, name, value) in [("cpu.cpus", "cpuset.cpus", c.cpus()), ("cpu.mems", "cpuset.mems", c.mems())]
    {
        if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
            list.add(field, file("cpuset", name, value), file("cpuset", name, value));
        }
    }
    rest.set_cpus(None).set_mems(None);
    rest
}

fn block_io(io: &LinuxBlockIo, list: &mut List) {
    let named = |names: &[&str], controller: &str, value: String| {
        Some(File {
            controller: controller.to_owned(),
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            value,
            optional: false,
        })
    };
    // The weight of version 1 is 10 to 1000, that of `io.weight` 1 to 10000.
    let wide = |w: u16| 1 + (u32::from(w.clamp(10, 1000)) - 10) * 9999 / 990;
    if let Some(weight) = io.weight() {
        list.add(
            "blockIO.weight",
            named(&["blkio.weight", "blkio.bfq.weight"], "blkio", weight.to_string()),
            named(&["io.weight"], "io", format!("default {}", wide(weight))),
        );
    }
    if let Some(weight) = io.leaf_weight() {
        list.add("blockIO.leafWeight", file("blkio", "blkio.leaf_weight", weight), None);
    }
    for d in io.weight_device().iter().flatten() {
        let device = format!("{}:{}", d.major(), d.minor());
        if let Some(weight) = d.weight() {
            list.add(
                "blockIO.weightDevice",
                named(
                    &["blkio.weight_device", "blkio.bfq.weight_device"],
                    "blkio",
                    format!("{device} {weight}"),
                ),
                named(&["io.weight"], "io", format!("{device} {}", wide(weight))),
            );
        }
        if let Some(weight) = d.leaf_weight() {
            let v1 = file("blkio", "blkio.leaf_weight_device", format!("{device} {weight}"));
            list.add("blockIO.weightDevice.leafWeight", v1, None);
        }
    }
    let throttles = [
        ("throttleReadBpsDevice", "read_bps", "rbps", io.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", "write_bps", "wbps", io.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", "read_iops", "riops", io.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", "write_iops", "wiops", io.throttle_write_iops_device()),
    ];
    for (field, v1, v2, devices) in throttles {
        for d in devices.iter().flatten() {
            let device = format!("{}:{}", d.major(), d.minor());
            // 0 takes a limit away.
            let rate = if d.rate() == 0 { "max".to_owned() } else { d.rate().to_string() };
            list.add(
                &format!("blockIO.{field}"),
                file("blkio", &format!("blkio.throttle.{v1}_device"), format!("{device} {}", d.rate())),
                file("io", "io.max", format!("{device} {v2}={rate}")),
            );
        }
    }
}

/// Writes the settings in their order.
pub(super) fn apply(groups: &Cgroups, uid: &str, settings: &[Setting]) -> Result<(), CgroupError> {
    for setting in settings {
        let place = |f: &File, v2: bool| {
            let has = |c: &String| *c == f.controller;
            groups
                .hierarchies
                .iter()
                .find(|h| h.v2 == v2 && (f.controller.is_empty() || h.controllers.iter().any(has)))
                .map(|h| groups.group(h, uid))
        };
        let found = [(&setting.v1, false), (&setting.v2, true)]
            .into_iter()
            .find_map(|(f, v2)| f.as_ref().and_then(|f| place(f, v2).map(|dir| (f, dir))));
        let Some((file, dir)) = found else {
            let optional = |f: &Option<File>| f.as_ref().is_none_or(|f| f.optional);
            if optional(&setting.v1) && optional(&setting.v2) && setting.v1.is_some() {
                continue;
            }
            let controller = setting.v1.as_ref().or(setting.v2.as_ref()).map(|f| f.controller.clone());
            return Err(CgroupError::NoSetting {
                field: setting.field.clone(),
                controller: controller.unwrap_or_default(),
            });
        };
        let name = file.names.iter().find(|n| dir.join(n).exists());
        if let Some(name) = name.or(file.names.first().filter(|_| !file.optional)) {
            let path = dir.join(name);
            write(&path, &file.value)?;
            if name == "memory.kmem.limit_in_bytes" && !took(&path, &file.value) {
                return Err(CgroupError::NoSetting {
                    field: setting.field.clone(),
                    controller: file.controller.clone(),
                });
            }
        }
    }
    Ok(())
}

/// Newer kernels take a limit of kernel memory and do nothing with it.
fn took(path: &std::path::Path, value: &str) -> bool {
    let Ok(asked) = value.parse::<u64>() else { return true };
    let now = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    // Whole pages are what it counts in.
    now.is_some_and(|now| now.abs_diff(asked) < 1 << 16)
}

/// The controllers of version 2 that settings need passed down.
pub(super) fn controllers(settings: &[Setting]) -> Vec<String> {
    let mut all: Vec<String> = settings
        .iter()
        .filter_map(|s| s.v2.as_ref())
        .map(|f| f.controller.clone())
        .filter(|c| !c.is_empty())
        .collect();
    all.sort();
    all.dedup();
    all
}
