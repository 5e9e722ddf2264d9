//! From verdicts by number to classic BPF: a balanced tree over ranges of equal verdict.
//!
//! The kernel runs a new filter once for every call it knows, to remember those that are always allowed
//! (`seccomp_cache_prepare`), and then for every call that is not. A chain costs its length each time, the tree its
//! depth.

use super::table::LAST_KNOWN;
use super::{ENOSYS, EPERM, Verdict};

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Insn {
    pub(super) code: u16,
    pub(super) jt: u8,
    pub(super) jf: u8,
    pub(super) k: u32,
}

// linux/bpf_common.h
pub(super) const LD_ABS: u16 = 0x20;
pub(super) const JA: u16 = 0x05;
pub(super) const JEQ: u16 = 0x15;
pub(super) const JGE: u16 = 0x35;
pub(super) const JSET: u16 = 0x45;
pub(super) const RET: u16 = 0x06;

// linux/seccomp.h
pub(super) const RET_ALLOW: u32 = 0x7fff_0000;
pub(super) const RET_ERRNO: u32 = 0x0005_0000;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
pub(super) const ARGS: u32 = 16;

// linux/audit.h
const AUDIT_X86_64: u32 = 0xc000_003e;
pub(super) const AUDIT_I386: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;
/// Set in the number of every x32 call.
const X32_BIT: u32 = 0x4000_0000;

/// The architectures of one machine: `(audit number, column of the table)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arch {
    /// x86_64, with i386 programs; x32 programs get `ENOSYS`.
    X86_64,
    /// aarch64; 32-bit programs get `ENOSYS`.
    Aarch64,
}

impl Arch {
    /// That of this program.
    pub(super) fn native() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    pub(super) fn parts(self) -> &'static [(u32, usize)] {
        match self {
            Self::X86_64 => &[(AUDIT_X86_64, 0), (AUDIT_I386, 1)],
            Self::Aarch64 => &[(AUDIT_AARCH64, 2)],
        }
    }
}

/// The whole filter; `rules` gives the verdicts of a column of the table.
pub(super) fn compile(arch: Arch, rules: &dyn Fn(usize) -> Vec<(u32, Verdict)>) -> Vec<u8> {
    bytes(&instructions(arch, rules))
}

/// As the kernel takes them.
pub(super) fn bytes(instructions: &[Insn]) -> Vec<u8> {
    instructions
        .iter()
        .flat_map(|i| {
            let [c0, c1] = i.code.to_ne_bytes();
            let [k0, k1, k2, k3] = i.k.to_ne_bytes();
            [c0, c1, i.jt, i.jf, k0, k1, k2, k3]
        })
        .collect()
}

pub(super) fn instructions(arch: Arch, rules: &dyn Fn(usize) -> Vec<(u32, Verdict)>) -> Vec<Insn> {
    by_architecture(arch.parts(), errno(ENOSYS), &|column| tree(&ranges(&rules(column)), &leaf))
}

/// One body for each architecture, `(audit number, column)`; calls of all others get `other`.
pub(super) fn by_architecture(
    parts: &[(u32, usize)],
    other: Insn,
    body_of: &dyn Fn(usize) -> Vec<Insn>,
) -> Vec<Insn> {
    let mut out = vec![insn(LD_ABS, ARCH)];
    for (audit, column) in parts {
        let mut body = vec![insn(LD_ABS, NR)];
        if *audit == AUDIT_X86_64 {
            body.push(Insn { code: JGE, jt: 0, jf: 1, k: X32_BIT });
            body.push(errno(ENOSYS));
        }
        body.extend(body_of(*column));
        // A part ends in returns on every path, so what follows is for another architecture.
        out.push(Insn { code: JEQ, jt: 1, jf: 0, k: *audit });
        out.push(insn(JA, len(&body)));
        out.extend(body);
    }
    out.push(other);
    out
}

/// Every number from 0 on belongs to a range that begins at or below it.
fn ranges(rules: &[(u32, Verdict)]) -> Vec<(u32, Verdict)> {
    let mut all: Vec<(u32, Verdict)> = Vec::new();
    let mut push = |from: u32, verdict: Verdict| match all.last() {
        Some((_, last)) if *last == verdict => {}
        _ => all.push((from, verdict)),
    };
    let mut next = 0;
    for (number, verdict) in rules {
        if *number > next {
            push(next, Verdict::Errno(EPERM));
        }
        push(*number, *verdict);
        next = number + 1;
    }
    push(next, Verdict::Errno(EPERM));
    push(LAST_KNOWN + 1, Verdict::Errno(ENOSYS));
    all
}

pub(super) fn tree<V: Copy>(ranges: &[(u32, V)], leaf: &dyn Fn(V) -> Vec<Insn>) -> Vec<Insn> {
    if let [(_, verdict)] = ranges {
        return leaf(*verdict);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (left, right) = (tree(low, leaf), tree(high, leaf));
    let from = high.first().map_or(0, |(from, _)| *from);
    let mut out = Vec::with_capacity(left.len() + right.len() + 2);
    match u8::try_from(left.len()) {
        Ok(over) => out.push(Insn { code: JGE, jt: over, jf: 0, k: from }),
        // A conditional jump reaches 255 instructions.
        Err(_) => {
            out.push(Insn { code: JGE, jt: 0, jf: 1, k: from });
            out.push(insn(JA, len(&left)));
        }
    }
    out.extend(left);
    out.extend(right);
    out
}

fn leaf(verdict: Verdict) -> Vec<Insn> {
    // The low word of an argument comes first on the little-endian machines we know.
    let load = |arg: u32| insn(LD_ABS, ARGS + 8 * arg);
    let (arg, code, values, on_match, otherwise): (_, _, &[u32], _, _) = match &verdict {
        Verdict::Allow => return vec![insn(RET, RET_ALLOW)],
        Verdict::Errno(number) => return vec![errno(*number)],
        Verdict::OneOf(arg, values) => (*arg, JEQ, values, insn(RET, RET_ALLOW), errno(EPERM)),
        Verdict::NoneOf(arg, values) => (*arg, JEQ, values, errno(EPERM), insn(RET, RET_ALLOW)),
        Verdict::NoBits(arg, bits) => {
            (*arg, JSET, std::slice::from_ref(bits), errno(EPERM), insn(RET, RET_ALLOW))
        }
    };
    let mut out = vec![load(arg)];
    for (i, value) in values.iter().enumerate() {
        // To the return on a match, which follows the comparisons and the other return.
        let jt = u8::try_from(values.len() - i).unwrap_or(u8::MAX);
        out.push(Insn { code, jt, jf: 0, k: *value });
    }
    out.push(otherwise);
    out.push(on_match);
    out
}

pub(super) fn insn(code: u16, k: u32) -> Insn {
    Insn { code, jt: 0, jf: 0, k }
}

pub(super) fn errno(number: u16) -> Insn {
    insn(RET, RET_ERRNO | u32::from(number))
}

fn len(body: &[Insn]) -> u32 {
    u32::try_from(body.len()).unwrap_or(u32::MAX)
}
