//! What a container has unless it says otherwise: the usual mounts, masked paths and capabilities.

use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxNamespace, LinuxNamespaceType, Mount, Process, Spec, User,
};

use crate::caps;

/// Hidden paths: they show or change the host.
pub const MASKED_PATHS: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// Paths that can be read only.
pub const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// `/dev/shm` of a Pod, in bytes.
pub const SHM_SIZE: u64 = 64 << 20;

/// One mount of a specification.
#[must_use]
pub fn mount(destination: &str, typ: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

/// The usual mounts; `/dev/shm` of `shm_size` bytes.
#[must_use]
pub fn mounts(shm_size: u64) -> Vec<Mount> {
    let size = format!("size={shm_size}");
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
}

/// All namespaces that are made by default.
pub const NAMESPACES: [LinuxNamespaceType; 6] = [
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Mount,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Uts,
    LinuxNamespaceType::Cgroup,
    LinuxNamespaceType::Network,
];

/// The sets of a process with these capabilities: none of them inheritable or ambient, as containers have it.
#[must_use]
pub fn capabilities(mask: u64) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(caps::to_oci(mask)))
        .set_effective(Some(caps::to_oci(mask)))
        .set_permitted(Some(caps::to_oci(mask)))
        .set_inheritable(None)
        .set_ambient(None);
    sets
}

/// A specification with all the defaults and no command.
#[must_use]
pub fn spec() -> Spec {
    let namespaces = NAMESPACES
        .iter()
        .map(|kind| {
            let mut ns = LinuxNamespace::default();
            ns.set_typ(*kind).set_path(None);
            ns
        })
        .collect();
    let owned = |list: &[&str]| Some(list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
    let mut linux = Linux::default();
    linux
        .set_uid_mappings(None)
        .set_gid_mappings(None)
        .set_sysctl(None)
        .set_resources(None)
        .set_cgroups_path(None)
        .set_devices(None)
        .set_seccomp(None)
        .set_rootfs_propagation(None)
        .set_mount_label(None)
        .set_intel_rdt(None)
        .set_personality(None)
        .set_namespaces(Some(namespaces))
        .set_masked_paths(owned(&MASKED_PATHS))
        .set_readonly_paths(owned(&READONLY_PATHS));
    let mut process = Process::default();
    process
        .set_terminal(None)
        .set_console_size(None)
        .set_user(User::default())
        .set_args(None)
        .set_env(Some(vec![format!("PATH={PATH}")]))
        .set_cwd("/".into())
        .set_capabilities(Some(capabilities(caps::DEFAULT)))
        .set_rlimits(None)
        .set_no_new_privileges(Some(false))
        .set_apparmor_profile(None)
        .set_oom_score_adj(None)
        .set_selinux_label(None);
    let mut spec = Spec::default();
    spec.set_root(None)
        .set_hostname(None)
        .set_mounts(Some(mounts(SHM_SIZE)))
        .set_process(Some(process))
        .set_linux(Some(linux));
    spec
}

/// `PATH` of an image that sets none.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
