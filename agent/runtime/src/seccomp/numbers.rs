//! Calls that the default profile does not speak of: with `table.rs`, every name and number of the three architectures.

use super::table::ROWS;

/// Name, numbers on x86_64, i386, aarch64.
type Row = (&'static str, [i16; 3]);

/// The highest number of this table and the other.
pub(super) const LAST: u32 = 469;

#[rustfmt::skip]
const MORE: &[Row] = &[
    ("_sysctl", [156, 149, -1]), ("add_key", [248, 286, 217]), ("afs_syscall", [183, 137, -1]),
    ("bdflush", [-1, 134, -1]), ("break", [-1, 17, -1]), ("create_module", [174, 127, -1]),
    ("file_getattr", [468, 468, 468]), ("file_setattr", [469, 469, 469]), ("ftime", [-1, 35, -1]),
    ("get_kernel_syms", [177, 130, -1]), ("getpmsg", [181, 188, -1]), ("gtty", [-1, 32, -1]), ("idle", [-1, 112, -1]),
    ("io_uring_enter", [426, 426, 426]), ("io_uring_register", [427, 427, 427]), ("io_uring_setup", [425, 425, 425]),
    ("kexec_file_load", [320, -1, 294]), ("kexec_load", [246, 283, 104]), ("keyctl", [250, 288, 219]),
    ("migrate_pages", [256, 294, 238]), ("move_pages", [279, 317, 239]), ("mpx", [-1, 56, -1]),
    ("nfsservctl", [180, 169, 42]), ("nice", [-1, 34, -1]), ("oldfstat", [-1, 28, -1]), ("oldlstat", [-1, 84, -1]),
    ("oldolduname", [-1, 59, -1]), ("oldstat", [-1, 18, -1]), ("olduname", [-1, 109, -1]),
    ("open_tree_attr", [467, 467, 467]), ("pivot_root", [155, 217, 41]), ("prof", [-1, 44, -1]),
    ("profil", [-1, 98, -1]), ("putpmsg", [182, 189, -1]), ("query_module", [178, 167, -1]),
    ("readdir", [-1, 89, -1]), ("request_key", [249, 287, 218]), ("security", [185, -1, -1]),
    ("sgetmask", [-1, 68, -1]), ("sigaction", [-1, 67, -1]), ("signal", [-1, 48, -1]), ("sigpending", [-1, 73, -1]),
    ("sigsuspend", [-1, 72, -1]), ("socketcall", [-1, 102, -1]), ("ssetmask", [-1, 69, -1]), ("stty", [-1, 31, -1]),
    ("swapoff", [168, 115, 225]), ("swapon", [167, 87, 224]), ("sync_file_range2", [-1, -1, 84]),
    ("sysfs", [139, 135, -1]), ("tuxcall", [184, -1, -1]), ("ulimit", [-1, 58, -1]), ("uselib", [134, 86, -1]),
    ("userfaultfd", [323, 374, 282]), ("ustat", [136, 62, -1]), ("vm86", [-1, 166, -1]), ("vm86old", [-1, 113, -1]),
    ("vserver", [236, 273, -1]),
];

/// Calls of other architectures only: profiles name them, and here there is nothing to do about them.
#[rustfmt::skip]
const ELSEWHERE: &[&str] = &[
    "arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "get_tls", "multiplexer", "pciconfig_iobase",
    "pciconfig_read", "pciconfig_write", "riscv_flush_icache", "riscv_hwprobe", "rtas", "s390_guarded_storage",
    "s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr", "s390_sthyi", "set_tls", "spu_create", "spu_run",
    "subpage_prot", "swapcontext", "switch_endian", "sync_file_range2", "sys_debug_setcontext", "sysmips", "timerfd",
    "usr26", "usr32",
];

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// Its numbers; -1 where an architecture has no such call.
    Here([i16; 3]),
    /// A call of other architectures.
    Elsewhere,
    /// Nothing that was known when this was written.
    Unknown,
}

/// Looks a name up.
pub(super) fn find(name: &str) -> Named {
    let numbers = ROWS
        .iter()
        .find(|(n, ..)| *n == name)
        .map(|(.., numbers)| *numbers)
        .or_else(|| MORE.iter().find(|(n, _)| *n == name).map(|(_, numbers)| *numbers));
    match numbers {
        Some(numbers) => Named::Here(numbers),
        None if ELSEWHERE.contains(&name) => Named::Elsewhere,
        None => Named::Unknown,
    }
}
