//! `linux.seccomp` of a specification as a filter.
//!
//! A call's rules with arguments are tried in their order, then one without, then the default action. Arguments are compared
//! in all their 64 bits, as the specification has it. x32 calls get `ENOSYS`, as on a kernel without them.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch as OciArch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator as Op,
};

use super::bpf::{self, ARGS, Arch, Insn, JEQ, JGE, LD_ABS, RET};
use super::numbers::{self, Named};
use super::{ENOSYS, Filter};
use crate::error::CompileError;

// linux/bpf_common.h
const JGT: u16 = 0x25;
const AND: u16 = 0x54;
// linux/seccomp.h
const KILL_PROCESS: u32 = 0x8000_0000;
const FLAG_LOG: u64 = 1 << 1;
const FLAG_SPEC_ALLOW: u64 = 1 << 2;
const FLAG_NEW_LISTENER: u64 = 1 << 3;
const FLAG_WAIT_KILLABLE: u64 = 1 << 5;
/// The kernel's `BPF_MAXINSNS`.
const MAX_LEN: usize = 4096;

/// A filter with how it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpecFilter {
    pub(crate) filter: Filter,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) flags: u64,
}

impl SpecFilter {
    /// Whether loading it gives a descriptor that somebody has to answer on.
    pub(crate) fn listens(&self) -> bool {
        self.flags & FLAG_NEW_LISTENER != 0
    }
}

/// One rule of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// All of them have to hold.
    args: Vec<LinuxSeccompArg>,
    ret: u32,
}

/// Compiles; a name that means nothing is refused where leaving it out would allow more.
pub(crate) fn compile(spec: &LinuxSeccomp) -> Result<SpecFilter, CompileError> {
    let default = value("defaultErrnoRet", spec.default_action(), spec.default_errno_ret())?;
    let mut notify = spec.default_action() == Action::ScmpActNotify;
    let mut calls: Vec<([i16; 3], Rule)> = Vec::new();
    for (i, call) in spec.syscalls().iter().flatten().enumerate() {
        let field = format!("syscalls[{i}]");
        let ret = value(&field, call.action(), call.errno_ret())?;
        notify |= call.action() == Action::ScmpActNotify;
        let args = call.args().clone().unwrap_or_default();
        if let Some(arg) = args.iter().find(|a| a.index() > 5) {
            return Err(invalid(&field, &format!("there is no argument {}; they are 0 to 5", arg.index())));
        }
        for name in call.names() {
            match numbers::find(name) {
                Named::Here(numbers) => {
                    calls.extend(alternatives(&args).into_iter().map(|args| (numbers, Rule { args, ret })));
                }
                Named::Elsewhere => {}
                Named::Unknown if strictness(ret) <= strictness(default) => {}
                Named::Unknown => {
                    return Err(invalid(
                        &field,
                        &format!("`{name}` is no call that is known here; leave it out"),
                    ));
                }
            }
        }
    }
    if notify && spec.listener_path().is_none() {
        return Err(invalid("listenerPath", "is missing, but an action is SCMP_ACT_NOTIFY"));
    }
    let arch = Arch::native();
    let asked = spec.architectures().as_deref().unwrap_or_default();
    let parts: Vec<(u32, usize)> = arch
        .parts()
        .iter()
        .copied()
        .filter(|(audit, column)| *column != 1 || asked.is_empty() || asked.contains(&secondary(*audit)))
        .collect();
    let other = bpf::insn(RET, KILL_PROCESS);
    let code = bpf::by_architecture(&parts, other, &|column| body(column, &calls, default));
    if code.len() > MAX_LEN {
        return Err(invalid("syscalls", &format!("make {} instructions, above {MAX_LEN}", code.len())));
    }
    let mut flags = if notify { FLAG_NEW_LISTENER } else { 0 };
    for flag in spec.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
            // For all threads; the process that loads it has one.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notify => FLAG_WAIT_KILLABLE,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(invalid(
                    "flags",
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs an SCMP_ACT_NOTIFY",
                ));
            }
        };
    }
    Ok(SpecFilter { filter: Filter::from_bytes(bpf::bytes(&code)), flags })
}

fn invalid(field: &str, problem: &str) -> CompileError {
    CompileError::invalid(format!("linux.seccomp.{field}"), problem)
}

/// i386, by its audit number.
fn secondary(audit: u32) -> OciArch {
    if audit == bpf::AUDIT_I386 { OciArch::ScmpArchX86 } else { OciArch::ScmpArchArm }
}

/// What the filter returns.
fn value(field: &str, action: Action, errno: Option<u32>) -> Result<u32, CompileError> {
    match errno {
        Some(_) if !matches!(action, Action::ScmpActErrno | Action::ScmpActTrace) => {
            Err(invalid(field, "an errnoRet goes with SCMP_ACT_ERRNO and SCMP_ACT_TRACE only"))
        }
        Some(errno) if errno > 0xffff => Err(invalid(field, &format!("errnoRet {errno} is above 65535"))),
        errno => Ok(action.as_u32(errno)),
    }
}

/// The kernel's own order of actions, the strictest highest.
fn strictness(ret: u32) -> u32 {
    match ret & 0xffff_0000 {
        0x8000_0000 => 7,
        0 => 6,
        0x0003_0000 => 5,
        0x0005_0000 => 4,
        0x7fc0_0000 => 3,
        0x7ff0_0000 => 2,
        0x7ffc_0000 => 1,
        _ => 0,
    }
}

/// As other runtimes take it: where one argument is named twice, each condition is a rule of its own.
fn alternatives(args: &[LinuxSeccompArg]) -> Vec<Vec<LinuxSeccompArg>> {
    let twice = args.iter().enumerate().any(|(i, a)| args[..i].iter().any(|b| b.index() == a.index()));
    if twice { args.iter().map(|a| vec![*a]).collect() } else { vec![args.to_vec()] }
}

/// The tree of one architecture.
fn body(column: usize, calls: &[([i16; 3], Rule)], default: u32) -> Vec<Insn> {
    let mut by_number: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
    for (numbers, rule) in calls {
        if let Some(number) = numbers.get(column).and_then(|n| u32::try_from(*n).ok()) {
            by_number.entry(number).or_default().push(rule);
        }
    }
    // Leaves by their code, so that neighbours of one kind become one range.
    let mut leaves: Vec<Vec<Insn>> = vec![vec![bpf::insn(RET, default)]];
    let mut ranges: Vec<(u32, usize)> = Vec::new();
    let mut push = |from: u32, leaf: usize| match ranges.last() {
        Some((_, last)) if *last == leaf => {}
        _ => ranges.push((from, leaf)),
    };
    let mut next = 0;
    for (number, rules) in by_number {
        if number > next {
            push(next, 0);
        }
        let code = leaf(&rules, default);
        let at = leaves.iter().position(|l| *l == code).unwrap_or_else(|| {
            leaves.push(code);
            leaves.len() - 1
        });
        push(number, at);
        next = number + 1;
    }
    push(next, 0);
    // A call newer than all that is known is answered as by an older kernel, where the profile refuses with an error.
    if default & 0xffff_0000 == bpf::RET_ERRNO {
        let code = vec![bpf::errno(ENOSYS)];
        leaves.push(code);
        push(numbers::LAST.max(next) + 1, leaves.len() - 1);
    }
    bpf::tree(&ranges, &|leaf: usize| leaves.get(leaf).cloned().unwrap_or_default())
}

/// Where a comparison goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// The next instruction.
    Next,
    /// The condition holds.
    Pass,
    /// It does not.
    Fail,
}

fn leaf(rules: &[&Rule], default: u32) -> Vec<Insn> {
    let mut out = Vec::new();
    for rule in rules.iter().filter(|r| !r.args.is_empty()) {
        let blocks: Vec<Vec<(u16, u32, To, To)>> = rule.args.iter().map(condition).collect();
        let total: usize = blocks.iter().map(Vec::len).sum();
        let mut at = 0;
        for block in blocks {
            let end = at + block.len();
            for (code, k, jt, jf) in block {
                at += 1;
                let over = |to: To| match to {
                    To::Next => 0,
                    To::Pass => end - at,
                    // Past the return that follows the last condition.
                    To::Fail => total - at + 1,
                };
                // Six conditions are at most 36 instructions.
                let byte = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
                out.push(Insn { code, k, jt: byte(over(jt)), jf: byte(over(jf)) });
            }
        }
        out.push(bpf::insn(RET, rule.ret));
    }
    let last = rules.iter().find(|r| r.args.is_empty()).map_or(default, |r| r.ret);
    out.push(bpf::insn(RET, last));
    out
}

fn condition(arg: &LinuxSeccompArg) -> Vec<(u16, u32, To, To)> {
    use To::{Fail, Next, Pass};
    let (low, high) = halves(arg.value());
    let offset = ARGS + 8 * u32::try_from(arg.index()).unwrap_or(0);
    // The low word comes first on the little-endian machines we know.
    let load_low = (LD_ABS, offset, Next, Next);
    let load_high = (LD_ABS, offset + 4, Next, Next);
    let order = |code: u16, pass: To, fail: To| {
        vec![load_high, (JGT, high, pass, Next), (JEQ, high, Next, fail), load_low, (code, low, pass, fail)]
    };
    match arg.op() {
        Op::ScmpCmpEq => vec![load_high, (JEQ, high, Next, Fail), load_low, (JEQ, low, Pass, Fail)],
        Op::ScmpCmpNe => vec![load_high, (JEQ, high, Next, Pass), load_low, (JEQ, low, Fail, Pass)],
        Op::ScmpCmpGt => order(JGT, Pass, Fail),
        Op::ScmpCmpGe => order(JGE, Pass, Fail),
        Op::ScmpCmpLt => order(JGE, Fail, Pass),
        Op::ScmpCmpLe => order(JGT, Fail, Pass),
        Op::ScmpCmpMaskedEq => {
            let (want_low, want_high) = halves(arg.value_two().unwrap_or(0));
            vec![
                load_high,
                (AND, high, Next, Next),
                (JEQ, want_high, Next, Fail),
                load_low,
                (AND, low, Next, Next),
                (JEQ, want_low, Pass, Fail),
            ]
        }
    }
}

fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}
