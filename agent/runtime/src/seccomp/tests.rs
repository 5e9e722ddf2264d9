use super::bpf::{self, Arch, Insn};
use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ADMIN: u64 = caps::DEFAULT | 1 << 21;

/// What the kernel would do: the action and the instructions it took.
fn run(program: &[Insn], arch: u32, nr: u32, args: [u64; 6]) -> (u32, usize) {
    let mut data = Vec::new();
    data.extend(nr.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    args.iter().for_each(|a| data.extend(a.to_le_bytes()));
    let (mut at, mut a, mut steps) = (0usize, 0u32, 0);
    loop {
        let i = program[at];
        steps += 1;
        at += 1;
        let jump = |yes: bool| usize::from(if yes { i.jt } else { i.jf });
        match i.code {
            bpf::LD_ABS => {
                let k = i.k as usize;
                a = u32::from_le_bytes(data[k..k + 4].try_into().unwrap());
            }
            bpf::JA => at += i.k as usize,
            bpf::JEQ => at += jump(a == i.k),
            bpf::JGE => at += jump(a >= i.k),
            bpf::JSET => at += jump(a & i.k != 0),
            // What only filters of a specification have: greater than, and.
            0x25 => at += jump(a > i.k),
            0x54 => a &= i.k,
            bpf::RET => return (i.k, steps),
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn program(bounding: u64) -> Vec<Insn> {
    bpf::instructions(Arch::X86_64, &|column| rules(column, bounding))
}

fn number(name: &str, column: usize) -> u32 {
    let row = table::ROWS.iter().find(|(n, ..)| *n == name).unwrap();
    u32::try_from(row.2[column]).unwrap()
}

const ALLOW: u32 = bpf::RET_ALLOW;
const PERM: u32 = bpf::RET_ERRNO | 1;
const NOSYS: u32 = bpf::RET_ERRNO | 38;

fn verdict(bounding: u64, name: &str, arg: u64) -> u32 {
    run(&program(bounding), X86_64, number(name, 0), [arg, 0, 0, 0, 0, 0]).0
}

#[test]
fn the_table_is_sorted_and_gives_the_machines_own_numbers() {
    for (name, nr) in [("read", libc::SYS_read), ("openat2", libc::SYS_openat2), ("socket", libc::SYS_socket)]
    {
        #[cfg(target_arch = "x86_64")]
        assert_eq!(libc::c_long::from(number(name, 0)), nr, "{name}");
    }
    assert!(table::ROWS.is_sorted_by(|a, b| a.0 < b.0));
}

/// The tree says for every number what the plain list of rules says.
#[test]
fn the_tree_agrees_with_the_rules_for_every_number() {
    for bounding in [0, caps::DEFAULT, ADMIN, u64::MAX] {
        let program = program(bounding);
        for (arch, column) in [(X86_64, 0), (I386, 1)] {
            let rules = rules(column, bounding);
            for nr in (0..1200).chain([u32::MAX, 0x4000_0000, 0x4000_0027]) {
                let expected = match rules.iter().find(|(n, _)| *n == nr).map(|(_, v)| *v) {
                    _ if arch == X86_64 && nr >= 0x4000_0000 => NOSYS,
                    Some(Verdict::Errno(e)) => bpf::RET_ERRNO | u32::from(e),
                    // Argument 0 is 0 here: no flag, family 0, personality 0.
                    Some(_) => ALLOW,
                    None if nr > table::LAST_KNOWN => NOSYS,
                    None => PERM,
                };
                assert_eq!(run(&program, arch, nr, [0; 6]).0, expected, "{arch:#x} {nr} {bounding:#x}");
            }
        }
    }
}

#[test]
fn namespaces_families_and_personalities_are_told_by_their_arguments() {
    let d = caps::DEFAULT;
    assert_eq!(verdict(d, "clone", 0x0001_0011), ALLOW, "an ordinary fork");
    for flag in [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        assert_eq!(verdict(d, "clone", flag | 0x11), PERM, "{flag:#x}");
        assert_eq!(verdict(d, "unshare", flag), PERM, "{flag:#x}");
        assert_eq!(verdict(ADMIN, "clone", flag), ALLOW);
    }
    assert_eq!(verdict(d, "unshare", 0x400), ALLOW, "CLONE_FILES is no namespace");
    assert_eq!(verdict(d, "clone3", 0), NOSYS);
    assert_eq!(verdict(ADMIN, "clone3", 0), ALLOW);
    for (family, action) in [(1, ALLOW), (2, ALLOW), (16, ALLOW), (38, PERM), (40, PERM)] {
        assert_eq!(verdict(d, "socket", family), action, "{family}");
    }
    for (persona, action) in [(0, ALLOW), (8, ALLOW), (0xffff_ffff, ALLOW), (0x0040_0000, PERM), (1, PERM)] {
        assert_eq!(verdict(d, "personality", persona), action, "{persona:#x}");
    }
}

/// The kernel takes these arguments as 32 bits, so a high bit must not make another value of them.
#[test]
fn a_high_bit_of_an_argument_evades_nothing() {
    let d = caps::DEFAULT;
    assert_eq!(verdict(d, "socket", 1 << 32 | 38), PERM);
    assert_eq!(verdict(d, "clone", 1 << 40 | 0x1000_0000), PERM);
    assert_eq!(verdict(d, "personality", 1 << 32 | 0x0040_0000), PERM);
}

#[test]
fn calls_come_with_their_capability() {
    let bit = |name: &str| caps::from_names([name]).unwrap();
    for (call, cap) in [
        ("mount", "CAP_SYS_ADMIN"),
        ("bpf", "CAP_SYS_ADMIN"),
        ("reboot", "CAP_SYS_BOOT"),
        ("init_module", "CAP_SYS_MODULE"),
        ("settimeofday", "CAP_SYS_TIME"),
        ("open_by_handle_at", "CAP_DAC_READ_SEARCH"),
        ("syslog", "CAP_SYSLOG"),
        ("kcmp", "CAP_SYS_PTRACE"),
    ] {
        assert_eq!(verdict(0, call, 0), PERM, "{call}");
        assert_eq!(verdict(bit(cap), call, 0), ALLOW, "{call}");
    }
    assert_eq!(verdict(0, "chroot", 0), PERM);
    assert_eq!(verdict(caps::DEFAULT, "chroot", 0), ALLOW);
}

#[test]
fn an_unknown_architecture_is_answered_like_an_unknown_call() {
    assert_eq!(run(&program(u64::MAX), 0x1234, 0, [0; 6]).0, NOSYS);
}

/// The reason for the generator: few steps for any call, where a chain takes its whole length.
#[test]
fn the_filter_is_small_and_shallow() {
    let program = program(caps::DEFAULT);
    let steps: Vec<usize> = (0..470).map(|nr| run(&program, X86_64, nr, [0; 6]).1).collect();
    let sum: usize = steps.iter().sum();
    println!(
        "{} instructions, at most {} steps, {} for all calls",
        program.len(),
        steps.iter().max().unwrap(),
        sum
    );
    assert!(program.len() < 500, "{}", program.len());
    assert!(steps.iter().all(|s| *s < 20));
}

#[test]
fn filters_are_known_by_their_bytes() {
    let filter = Filter::default_for(caps::DEFAULT);
    assert_eq!(filter, Filter::from_bytes(filter.bytes().to_vec()));
    assert_ne!(filter.digest(), Filter::default_for(ADMIN).digest());
    assert_eq!(filter.bytes().len() % 8, 0);
}

#[cfg(feature = "cli")]
mod of_a_specification {
    use oci_spec::runtime::LinuxSeccomp;
    use serde_json::{Value, json};

    use super::*;

    fn compile(value: Value) -> Result<spec::SpecFilter, crate::error::CompileError> {
        spec::compile(&serde_json::from_value::<LinuxSeccomp>(value).unwrap())
    }

    fn code(filter: &spec::SpecFilter) -> Vec<Insn> {
        let one = |b: &[u8]| Insn {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        };
        filter.filter.bytes().chunks(8).map(one).collect()
    }

    /// What it does with `personality`, whose first argument is `arg`.
    fn with_argument(op: &str, value: u64, two: u64, arg: u64) -> bool {
        let filter = compile(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{ "names": ["personality"], "action": "SCMP_ACT_ALLOW",
                "args": [{ "index": 0, "value": value, "valueTwo": two, "op": op }] }],
        }))
        .unwrap();
        run(&code(&filter), X86_64, number("personality", 0), [arg, 0, 0, 0, 0, 0]).0 == ALLOW
    }

    /// Against Rust's own comparison, with what differs in the low half, the high half, both and neither.
    #[test]
    fn every_operator_compares_whole_arguments() {
        let numbers = [0, 1, 5, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0005, 0x5_0000_0001, u64::MAX];
        for value in numbers {
            for arg in numbers {
                for (op, expected) in [
                    ("SCMP_CMP_EQ", arg == value),
                    ("SCMP_CMP_NE", arg != value),
                    ("SCMP_CMP_LT", arg < value),
                    ("SCMP_CMP_LE", arg <= value),
                    ("SCMP_CMP_GE", arg >= value),
                    ("SCMP_CMP_GT", arg > value),
                    ("SCMP_CMP_MASKED_EQ", arg & value == 5),
                ] {
                    assert_eq!(with_argument(op, value, 5, arg), expected, "{arg:#x} {op} {value:#x}");
                }
            }
        }
    }

    #[test]
    fn rules_hold_for_their_calls_and_the_default_for_all_others() {
        let filter = compile(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 99,
            "syscalls": [
                { "names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW" },
                { "names": ["mkdir"], "action": "SCMP_ACT_KILL_PROCESS" },
                { "names": ["chroot"], "action": "SCMP_ACT_TRACE", "errnoRet": 7 },
                { "names": ["not_of_this_age"], "action": "SCMP_ACT_ALLOW" },
            ],
        }))
        .unwrap();
        let code = code(&filter);
        let of = |name: &str| run(&code, X86_64, number(name, 0), [0; 6]).0;
        assert_eq!((of("read"), of("openat2")), (ALLOW, ALLOW));
        assert_eq!((of("mkdir"), of("chroot")), (0x8000_0000, 0x7ff0_0007));
        assert_eq!(of("write"), bpf::RET_ERRNO | 99);
        assert_eq!(run(&code, X86_64, 5000, [0; 6]).0, NOSYS, "newer than all that is known");
        assert_eq!(run(&code, X86_64, 0x4000_0000, [0; 6]).0, NOSYS, "x32");
        assert_eq!(
            run(&code, I386, number("read", 1), [0; 6]).0,
            ALLOW,
            "no architecture named: all of the machine"
        );
        assert_eq!(run(&code, 0x1234, 0, [0; 6]).0, 0x8000_0000, "another machine's");
        assert_eq!((filter.flags, filter.listens()), (0, false));
    }

    #[test]
    fn an_architecture_that_is_not_named_is_killed() {
        let filter =
            compile(json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"] }))
                .unwrap();
        assert_eq!(run(&code(&filter), X86_64, 1, [0; 6]).0, ALLOW);
        assert_eq!(run(&code(&filter), I386, 1, [0; 6]).0, 0x8000_0000);
    }

    #[test]
    fn what_would_allow_more_than_asked_for_is_refused() {
        for (filter, problem) in [
            (
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                { "names": ["not_of_this_age"], "action": "SCMP_ACT_ERRNO" }] }),
                "`not_of_this_age` is no call",
            ),
            (json!({ "defaultAction": "SCMP_ACT_NOTIFY" }), "listenerPath: is missing"),
            (
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                { "names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" }] }] }),
                "no argument 6",
            ),
            (json!({ "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1 }), "an errnoRet goes with"),
        ] {
            let error = compile(filter).unwrap_err().to_string();
            assert!(error.starts_with("linux.seccomp.") && error.contains(problem), "{error}");
        }
    }
}
