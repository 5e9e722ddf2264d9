//! Why a program cannot pass, where that is not for the runtime to change.

use std::fs;
use std::path::Path;

use anyhow::Result;
use stower_e2e::Vm;

/// What of a machine the programs depend on.
#[derive(Debug, Default)]
pub(super) struct Machine {
    /// No group of version 1 can be had.
    version_2_alone: bool,
    all_capabilities: bool,
    /// Mount options of the groups of version 1, and the controllers of version 2.
    controllers: Vec<String>,
    apparmor: bool,
    selinux: bool,
    /// Whether the table of mounts is in the order of their making (before 6.8 it is in that of their places).
    by_making: bool,
}

impl Machine {
    /// This one.
    pub(super) fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let exists = |path: &str| Path::new(path).exists();
        Self::of(
            &read("/proc/sys/kernel/osrelease"),
            &read("/proc/self/mountinfo"),
            &read("/sys/fs/cgroup/cgroup.controllers"),
            &read("/proc/self/status"),
            exists("/sys/module/apparmor"),
            exists("/sys/fs/selinux/enforce"),
        )
    }

    /// That one.
    pub(super) fn guest(vm: &mut Vm) -> Result<Self> {
        let mut read = |path: &str| vm.ok(&format!("cat {path} 2>/dev/null || true"));
        let (release, mounts) = (read("/proc/sys/kernel/osrelease")?, read("/proc/self/mountinfo")?);
        let (groups, status) = (read("/sys/fs/cgroup/cgroup.controllers")?, read("/proc/self/status")?);
        let apparmor = !read("/sys/module/apparmor/parameters/enabled")?.is_empty();
        let selinux = !read("/sys/fs/selinux/enforce")?.is_empty();
        Ok(Self::of(&release, &mounts, &groups, &status, apparmor, selinux))
    }

    fn of(release: &str, mounts: &str, groups: &str, status: &str, apparmor: bool, selinux: bool) -> Self {
        let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let of_1 =
            mounts.lines().filter(|line| line.contains(" - cgroup ")).filter_map(|l| l.rsplit_once(' '));
        let of_1: Vec<&str> = of_1.flat_map(|(_, options)| options.split(',')).collect();
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap_or_default();
        Self {
            version_2_alone: of_1.is_empty(),
            all_capabilities: capabilities.ends_with("1ffffffffff"),
            controllers: of_1.into_iter().chain(groups.split_whitespace()).map(str::to_owned).collect(),
            apparmor,
            selinux,
            by_making: version >= (6, 8),
        }
    }

    fn controls(&self, name: &str) -> bool {
        self.controllers.iter().any(|known| known == name)
    }

    /// Why `program` does not pass on it.
    pub(super) fn reason(&self, program: &str) -> Option<&'static str> {
        match program.strip_prefix("linux_cgroups_").map(|p| p.strip_prefix("relative_").unwrap_or(p)) {
            Some(_) if self.version_2_alone => return Some("the program reads version 1 of cgroups only"),
            Some("blkio") => return Some("it asks for leafWeight, which kernels from 5.0 on do not have"),
            Some("memory") => {
                return Some("it asks for a limit of kernel memory, which kernels from 5.16 on do not have");
            }
            Some("network") if !self.controls("net_cls") => {
                return Some("this kernel has no controller net_cls");
            }
            Some("hugetlb") if !self.controls("hugetlb") => {
                return Some("this kernel has no controller hugetlb");
            }
            _ => {}
        }
        match program {
            "delete_only_create_resources" | "delete_resources" if self.version_2_alone => {
                Some("the program reads version 1 of cgroups only")
            }
            "linux_rootfs_propagation" | "process_capabilities" if !self.all_capabilities => {
                Some("it asks for all capabilities, and this machine has no CAP_SYS_RESOURCE to give")
            }
            "linux_process_apparmor_profile" if !self.apparmor => Some("this kernel has no AppArmor"),
            "linux_process_apparmor_profile" => Some("it asks for a profile that nobody has loaded"),
            "linux_mount_label" if !self.selinux => Some("this kernel has no SELinux"),
            "hooks_stdin" => Some("it asks for the pid of a container that may have ended"),
            "pidfile" => Some("it kills a container whose command, `true`, may have ended"),
            "mounts" if self.by_making => Some(
                "the table of newer kernels (6.8) is in the order in which copies are made, all before the first is attached",
            ),
            "misc_props" => Some("it starts a program that it has not put into its bundle"),
            "process_rlimits" => {
                Some("its own Go runtime raises the soft limit of open files that it then looks at")
            }
            "start" => {
                Some("its last check is the wrong way round: it wants a start without `process` to succeed")
            }
            _ => None,
        }
    }
}
