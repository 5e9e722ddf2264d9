//! seccomp filters: compiled once, kept by the digest of their bytes.
//!
//! The default filter is the usual one of Docker (`table.rs` has its data). It is compiled by a small generator of our
//! own (`bpf.rs`) and not by seccompiler, which cannot express it (one error number a filter, one architecture), and
//! whose chain of comparisons for the unconditional calls alone is 1530 instructions and takes 642 µs to load, against
//! 416 and 115 µs for the whole filter here.

mod bpf;
#[cfg(feature = "cli")]
mod numbers;
#[cfg(feature = "cli")]
pub(crate) mod spec;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::caps;

/// A compiled filter: classic BPF instructions in the machine's byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    digest: String,
    bytes: Arc<[u8]>,
}

impl Filter {
    /// The default filter for a container with these capabilities in its bounding set.
    #[must_use]
    pub fn default_for(bounding: u64) -> Self {
        let arch = bpf::Arch::native();
        Self::from_bytes(bpf::compile(arch, &|column| rules(column, bounding)))
    }

    /// A filter from its bytes, as they were written to a file named by [`Filter::digest`].
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let digest = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        Self { digest, bytes }
    }

    /// The SHA-256 of the bytes, in hex.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The instructions, eight bytes each.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The default filter as `linux.seccomp` of an OCI specification, for a runtime that compiles it itself.
pub(crate) fn profile(bounding: u64) -> serde_json::Value {
    use serde_json::json;
    const ALLOW: &str = "SCMP_ACT_ALLOW";
    let mut always = Vec::new();
    let mut rules = Vec::new();
    let arg = |index: u32, value: u32, two: u32, op: &str| json!({"index": index, "value": value, "valueTwo": two, "op": op});
    for (name, when, _) in table::ROWS {
        let verdict = match when {
            When::Always => Verdict::Allow,
            When::Cap(cap) if caps::has(bounding, cap) => Verdict::Allow,
            When::Cap(_) => Verdict::Errno(EPERM),
            When::Special => special(name, bounding),
        };
        let allow = |args: Vec<serde_json::Value>| json!({"names": [name], "action": ALLOW, "args": args});
        match verdict {
            Verdict::Allow => always.push(*name),
            // What is not named is refused so.
            Verdict::Errno(EPERM) => {}
            Verdict::Errno(errno) => {
                rules.push(json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno}));
            }
            Verdict::OneOf(index, values) => {
                rules.extend(values.iter().map(|value| allow(vec![arg(index, *value, 0, "SCMP_CMP_EQ")])));
            }
            Verdict::NoneOf(index, values) => {
                rules.push(allow(values.iter().map(|value| arg(index, *value, 0, "SCMP_CMP_NE")).collect()));
            }
            // `valueTwo` is what the masked argument has to be.
            Verdict::NoBits(index, bits) => {
                rules.push(allow(vec![arg(index, bits, 0, "SCMP_CMP_MASKED_EQ")]));
            }
        }
    }
    rules.insert(0, json!({"names": always, "action": ALLOW}));
    let architectures: &[&str] = match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "aarch64" => &["SCMP_ARCH_AARCH64"],
        _ => &[],
    };
    json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": EPERM, "architectures": architectures, "syscalls": rules,
    })
}

/// When a call is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Always.
    Always,
    /// With this capability in the bounding set.
    Cap(&'static str),
    /// By its arguments; see [`special`].
    Special,
}

/// What is done with a call. Arguments are compared by their low 32 bits, which is all that the kernel takes of them
/// in the calls concerned: a comparison of 64 bits would be evaded by setting a high one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allow,
    Errno(u16),
    /// Allowed when the argument is one of these, else `EPERM`.
    OneOf(u32, &'static [u32]),
    /// Allowed when the argument is none of these, else `EPERM`.
    NoneOf(u32, &'static [u32]),
    /// Allowed when the argument has none of these bits, else `EPERM`.
    NoBits(u32, u32),
}

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;
/// All `CLONE_NEW*` flags, that of time namespaces aside, which is a signal number to `clone`.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// `AF_ALG` opens the kernel's cryptography to everybody, `AF_VSOCK` the hypervisor.
const FAMILIES: &[u32] = &[38, 40];
/// `PER_LINUX`, `PER_LINUX32`, both with `UNAME26`, and the question.
const PERSONALITIES: &[u32] = &[0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The verdicts of one architecture, by rising number.
fn rules(column: usize, bounding: u64) -> Vec<(u32, Verdict)> {
    let mut rules: Vec<(u32, Verdict)> = table::ROWS
        .iter()
        .filter_map(|(name, when, numbers)| {
            let number = u32::try_from(*numbers.get(column)?).ok()?;
            let verdict = match when {
                When::Always => Verdict::Allow,
                When::Cap(cap) if caps::has(bounding, cap) => Verdict::Allow,
                When::Cap(_) => Verdict::Errno(EPERM),
                When::Special => special(name, bounding),
            };
            Some((number, verdict))
        })
        .collect();
    rules.sort_by_key(|(number, _)| *number);
    rules
}

/// Calls whose verdict is not a matter of one capability.
fn special(name: &str, bounding: u64) -> Verdict {
    let admin = caps::has(bounding, "CAP_SYS_ADMIN");
    match name {
        "clone" | "clone3" | "unshare" if admin => Verdict::Allow,
        // Its flags are behind a pointer; a program that is told so takes `clone`.
        "clone3" => Verdict::Errno(ENOSYS),
        "clone" => Verdict::NoBits(0, NEW_NAMESPACES),
        // The time namespace too: it is no signal number here.
        "unshare" => Verdict::NoBits(0, NEW_NAMESPACES | 0x80),
        "socket" => Verdict::NoneOf(0, FAMILIES),
        "personality" => Verdict::OneOf(0, PERSONALITIES),
        "syslog" if admin || caps::has(bounding, "CAP_SYSLOG") => Verdict::Allow,
        _ => Verdict::Errno(EPERM),
    }
}
