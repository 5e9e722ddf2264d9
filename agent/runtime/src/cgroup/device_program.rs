//! Device access on version 2: a small program of the kernel's BPF that is attached to the group
//! (`BPF_PROG_TYPE_CGROUP_DEVICE`). Version 1 has the `devices` controller for the same rules.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::CgroupError;
use super::limits::DeviceRule;

/// One rule, taken apart. `None` is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    allow: bool,
    /// `BPF_DEVCG_DEV_*`.
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    /// Bits of `BPF_DEVCG_ACC_*`.
    access: i32,
}

/// Kinds and kinds of access (`linux/bpf.h`).
const BLOCK: i32 = 1;
const CHAR: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MKNOD | READ | WRITE;

impl Rule {
    /// A line as `devices.allow` takes it: `c 1:3 rwm`, or `a` for everything.
    pub(super) fn parse(rule: &DeviceRule) -> Option<Self> {
        let mut fields = rule.rule.split(' ');
        let kind = match fields.next()? {
            "a" => None,
            "b" => Some(BLOCK),
            "c" => Some(CHAR),
            _ => return None,
        };
        let Some(numbers) = fields.next() else {
            let (major, minor, access) = (None, None, ALL);
            return kind.is_none().then_some(Self { allow: rule.allow, kind, major, minor, access });
        };
        let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
        let (major, minor) = numbers.split_once(':')?;
        let mut access = 0;
        for letter in fields.next()?.bytes() {
            access |= match letter {
                b'm' => MKNOD,
                b'r' => READ,
                b'w' => WRITE,
                _ => return None,
            };
        }
        Some(Self { allow: rule.allow, kind, major: number(major)?, minor: number(minor)?, access })
    }
}

/// `struct bpf_insn` as a number: code, registers, offset, immediate.
fn insn(code: u8, dst: u8, src: u8, offset: i16, imm: i32) -> u64 {
    let [o0, o1] = offset.to_ne_bytes();
    let [i0, i1, i2, i3] = imm.to_ne_bytes();
    u64::from_ne_bytes([code, src << 4 | dst, o0, o1, i0, i1, i2, i3])
}

/// The program: the last rule that fits decides, none denies.
///
/// At the start r1 points to `{access << 16 | kind, major, minor}`; then r2 is the kind, r3 the access, r4 and r5 the
/// numbers.
pub(super) fn program(rules: &[Rule]) -> Vec<u64> {
    const LOAD: u8 = 0x61;
    const MOV: u8 = 0xbc;
    const AND: u8 = 0x54;
    const SHIFT_RIGHT: u8 = 0x74;
    const UNLESS: u8 = 0x56;
    const UNLESS_REGISTER: u8 = 0x5e;
    const SET: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    let mut out = vec![
        insn(LOAD, 2, 1, 0, 0),
        insn(MOV, 3, 2, 0, 0),
        insn(AND, 2, 0, 0, 0xffff),
        insn(SHIFT_RIGHT, 3, 0, 0, 16),
        insn(LOAD, 4, 1, 4, 0),
        insn(LOAD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        // Each test goes to the next rule unless it holds; how far is known once the tests are counted.
        let mut tests: Vec<(u8, u8, u8, i32)> = Vec::new();
        tests.extend(rule.kind.map(|k| (UNLESS, 2, 0, k)));
        tests.extend(rule.major.map(|n| (UNLESS, 4, 0, n)));
        tests.extend(rule.minor.map(|n| (UNLESS, 5, 0, n)));
        let mut body = Vec::new();
        if rule.access != ALL {
            body.push(insn(MOV, 1, 3, 0, 0));
            body.push(insn(AND, 1, 0, 0, rule.access));
            // An allowing rule must hold all that is asked for, a denying one any of it.
            if rule.allow { tests.push((UNLESS_REGISTER, 1, 3, 0)) } else { tests.push((0x16, 1, 0, 0)) }
        }
        let count = tests.len();
        for (i, (code, dst, src, imm)) in tests.into_iter().enumerate() {
            // Past the other tests, and past what sets the result and ends.
            let over = i16::try_from(count - i - 1 + 2).unwrap_or(i16::MAX);
            body.push(insn(code, dst, src, over, imm));
        }
        body.push(insn(SET, 0, 0, 0, i32::from(rule.allow)));
        body.push(insn(EXIT, 0, 0, 0, 0));
        out.extend(body);
    }
    out.push(insn(SET, 0, 0, 0, 0));
    out.push(insn(EXIT, 0, 0, 0, 0));
    out
}

/// Loads the rules as a program and attaches it to a group. It goes with the group.
pub(super) fn attach(dir: &Path, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    let invalid =
        || CgroupError::io(dir, std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a device rule"));
    let rules = rules.iter().map(|r| Rule::parse(r).ok_or_else(invalid)).collect::<Result<Vec<_>, _>>()?;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let group: OwnedFd =
        rustix::fs::open(dir, flags, rustix::fs::Mode::empty()).map_err(|e| CgroupError::io(dir, e))?;
    crate::start::sys::attach_device_program(group.as_fd(), &program(&rules))
        .map_err(|source| CgroupError::DeviceProgram { path: dir.to_owned(), source })
}
