//! Capability sets as bit masks (`capabilities(7)`).

use std::io;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use crate::error::{CompileError, Failure, FailureKind};

/// The five sets of a process, one bit a capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapSets {
    /// What may ever be gained.
    pub bounding: u64,
    /// What is checked.
    pub effective: u64,
    /// What may become effective.
    pub permitted: u64,
    /// What passes through an exec of a file that has it too.
    pub inheritable: u64,
    /// What passes through any exec.
    pub ambient: u64,
}

/// Names in the order of the kernel's numbers (`linux/capability.h`).
const NAMES: [(&str, Capability); 41] = [
    ("CAP_CHOWN", Capability::Chown),
    ("CAP_DAC_OVERRIDE", Capability::DacOverride),
    ("CAP_DAC_READ_SEARCH", Capability::DacReadSearch),
    ("CAP_FOWNER", Capability::Fowner),
    ("CAP_FSETID", Capability::Fsetid),
    ("CAP_KILL", Capability::Kill),
    ("CAP_SETGID", Capability::Setgid),
    ("CAP_SETUID", Capability::Setuid),
    ("CAP_SETPCAP", Capability::Setpcap),
    ("CAP_LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("CAP_NET_BIND_SERVICE", Capability::NetBindService),
    ("CAP_NET_BROADCAST", Capability::NetBroadcast),
    ("CAP_NET_ADMIN", Capability::NetAdmin),
    ("CAP_NET_RAW", Capability::NetRaw),
    ("CAP_IPC_LOCK", Capability::IpcLock),
    ("CAP_IPC_OWNER", Capability::IpcOwner),
    ("CAP_SYS_MODULE", Capability::SysModule),
    ("CAP_SYS_RAWIO", Capability::SysRawio),
    ("CAP_SYS_CHROOT", Capability::SysChroot),
    ("CAP_SYS_PTRACE", Capability::SysPtrace),
    ("CAP_SYS_PACCT", Capability::SysPacct),
    ("CAP_SYS_ADMIN", Capability::SysAdmin),
    ("CAP_SYS_BOOT", Capability::SysBoot),
    ("CAP_SYS_NICE", Capability::SysNice),
    ("CAP_SYS_RESOURCE", Capability::SysResource),
    ("CAP_SYS_TIME", Capability::SysTime),
    ("CAP_SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("CAP_MKNOD", Capability::Mknod),
    ("CAP_LEASE", Capability::Lease),
    ("CAP_AUDIT_WRITE", Capability::AuditWrite),
    ("CAP_AUDIT_CONTROL", Capability::AuditControl),
    ("CAP_SETFCAP", Capability::Setfcap),
    ("CAP_MAC_OVERRIDE", Capability::MacOverride),
    ("CAP_MAC_ADMIN", Capability::MacAdmin),
    ("CAP_SYSLOG", Capability::Syslog),
    ("CAP_WAKE_ALARM", Capability::WakeAlarm),
    ("CAP_BLOCK_SUSPEND", Capability::BlockSuspend),
    ("CAP_AUDIT_READ", Capability::AuditRead),
    ("CAP_PERFMON", Capability::Perfmon),
    ("CAP_BPF", Capability::Bpf),
    ("CAP_CHECKPOINT_RESTORE", Capability::CheckpointRestore),
];

/// What a container has unless it asks for more or less: the set that Docker and containerd give.
pub const DEFAULT: u64 = mask(&[0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31]);

const fn mask(bits: &[u32]) -> u64 {
    let (mut m, mut i) = (0, 0);
    while i < bits.len() {
        m |= 1 << bits[i];
        i += 1;
    }
    m
}

/// Whether a mask holds the capability of this name.
#[must_use]
pub fn has(mask: u64, name: &str) -> bool {
    NAMES.iter().position(|(n, _)| *n == name).is_some_and(|bit| mask >> bit & 1 == 1)
}

/// The mask of named capabilities (`CAP_` may be left out, `ALL` is every one); the first unknown name is the error.
///
/// # Errors
/// The name that is no capability.
pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<u64, String> {
    let mut mask = 0;
    for name in names {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" {
            return Ok((1 << NAMES.len()) - 1);
        }
        match NAMES.iter().position(|(n, _)| &n[4..] == bare) {
            Some(bit) => mask |= 1u64 << bit,
            None => return Err(name.to_owned()),
        }
    }
    Ok(mask)
}

/// The capabilities of a mask, for an OCI specification.
#[must_use]
pub fn to_oci(mask: u64) -> Capabilities {
    NAMES.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, (_, c))| *c).collect()
}

/// The names of a mask.
#[cfg(feature = "cli")]
pub(crate) fn names(mask: u64) -> Vec<&'static str> {
    NAMES.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, (name, _))| *name).collect()
}

fn from_oci(set: Option<&Capabilities>) -> u64 {
    let Some(set) = set else { return 0 };
    NAMES.iter().enumerate().filter(|(_, (_, c))| set.contains(c)).map(|(bit, _)| 1u64 << bit).sum()
}

/// Checks the sets of a specification against the rules of `capset(2)`.
pub(crate) fn compile(caps: Option<&LinuxCapabilities>) -> Result<CapSets, CompileError> {
    let Some(caps) = caps else { return Ok(CapSets::default()) };
    let sets = CapSets {
        bounding: from_oci(caps.bounding().as_ref()),
        effective: from_oci(caps.effective().as_ref()),
        permitted: from_oci(caps.permitted().as_ref()),
        inheritable: from_oci(caps.inheritable().as_ref()),
        ambient: from_oci(caps.ambient().as_ref()),
    };
    let within = |field: &str, inner: u64, outer: u64, of: &str| {
        let extra = inner & !outer;
        if extra == 0 {
            return Ok(());
        }
        Err(CompileError::invalid(
            format!("process.capabilities.{field}"),
            format!("{} is not in the {of} set", name(extra.trailing_zeros())),
        ))
    };
    within("effective", sets.effective, sets.permitted, "permitted")?;
    within("ambient", sets.ambient, sets.permitted & sets.inheritable, "permitted and the inheritable")?;
    within("permitted", sets.permitted, sets.bounding, "bounding")?;
    Ok(sets)
}

fn name(bit: u32) -> String {
    let bit = usize::try_from(bit).unwrap_or(usize::MAX);
    NAMES.get(bit).map_or_else(|| format!("capability {bit}"), |(n, _)| (*n).to_owned())
}

/// Drops what the bounding set lacks. Needs `CAP_SETPCAP`, so it comes before [`apply`].
pub(crate) fn drop_bounding(keep: u64) -> Result<(), Failure> {
    for bit in 0..64 {
        if keep >> bit & 1 == 1 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // The kernel has no more capabilities.
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(Failure::errno("capabilities", format_args!("dropping {}", name(bit)), e)),
        }
    }
    Ok(())
}

/// Sets permitted, effective, inheritable and ambient of this thread.
pub(crate) fn apply(sets: &CapSets) -> Result<(), Failure> {
    set(sets.permitted, sets.effective, sets.inheritable).map_err(|e| {
        let missing = sets.permitted & !own();
        if missing != 0 {
            return Failure::new(
                "capabilities",
                FailureKind::MissingCapability,
                format!(
                    "the agent itself has no {}; leave it out, or give it to the agent",
                    name(missing.trailing_zeros())
                ),
            );
        }
        Failure::errno("capabilities", "setting the capability sets", e)
    })?;
    // An exec of root without ambient bits needs no call; the set is empty from the start.
    for bit in (0..64).filter(|bit| sets.ambient >> bit & 1 == 1) {
        rustix::thread::configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << bit), true)
            .map_err(|e| Failure::errno("capabilities", format_args!("raising ambient {}", name(bit)), e))?;
    }
    Ok(())
}

/// All that is permitted becomes effective again, after a change of user that kept the capabilities.
pub(crate) fn raise_effective() -> io::Result<()> {
    let permitted = own();
    set(permitted, permitted, 0)
}

/// The mask of what this process may have; nothing that it starts can have more.
#[must_use]
pub fn own() -> u64 {
    rustix::thread::capabilities(None).map_or(0, |own| own.permitted.bits())
}

fn set(permitted: u64, effective: u64, inheritable: u64) -> io::Result<()> {
    let bits = CapabilitySet::from_bits_retain;
    let sets = CapabilitySets {
        effective: bits(effective),
        permitted: bits(permitted),
        inheritable: bits(inheritable),
    };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_is_the_usual_one() {
        assert_eq!(DEFAULT, 0xa804_25fb);
        assert!(has(DEFAULT, "CAP_NET_BIND_SERVICE") && !has(DEFAULT, "CAP_SYS_ADMIN"));
    }

    #[test]
    fn names_are_read_with_and_without_prefix_and_unknown_ones_refused() {
        assert_eq!(from_names(["net_admin", "CAP_CHOWN"]), Ok(1 << 12 | 1));
        assert_eq!(from_names(["ALL"]), Ok((1 << 41) - 1));
        assert_eq!(from_names(["CAP_NET_RAW", "CAP_FLY"]), Err("CAP_FLY".to_owned()));
    }

    #[test]
    fn sets_that_capset_would_refuse_are_refused_by_name() {
        let caps = LinuxCapabilities::default();
        assert!(compile(Some(&caps)).is_ok(), "the specification's own default is consistent");
        let mut caps = caps;
        caps.set_permitted(Some(to_oci(1)));
        caps.set_bounding(Some(to_oci(1)));
        caps.set_effective(Some(to_oci(0b10)));
        caps.set_ambient(None);
        let error = compile(Some(&caps)).unwrap_err().to_string();
        assert_eq!(error, "process.capabilities.effective: CAP_DAC_OVERRIDE is not in the permitted set");
    }

    #[test]
    fn masks_go_to_oci_and_back() {
        assert_eq!(from_oci(Some(&to_oci(DEFAULT))), DEFAULT);
    }
}
