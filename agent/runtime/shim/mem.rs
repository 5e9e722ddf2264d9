//! What a C library would bring: the program's entry, and the memory routines that the compiler calls.

use core::arch::global_asm;

// The kernel enters with the argument vector on the stack and no return address.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym start,
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x0, sp",
    "bl {start}",
    "brk 1",
    start = sym start,
);

/// The arguments of the program.
#[derive(Clone, Copy)]
pub struct Argv {
    first: *const *const u8,
    count: usize,
}

impl Argv {
    /// The argument at `at`, without its zero byte.
    pub fn get(self, at: usize) -> Option<&'static [u8]> {
        if at >= self.count {
            return None;
        }
        // SAFETY: the kernel puts `count` pointers there, each to a string that ends with a zero byte and stays for
        // the life of the program.
        unsafe {
            let text = *self.first.add(at);
            let mut len = 0;
            // Volatile, or the loop would become a call of strlen.
            while text.add(len).read_volatile() != 0 {
                len += 1;
            }
            Some(core::slice::from_raw_parts(text, len))
        }
    }
}

extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: at entry the stack holds the number of arguments and then their pointers (System V ABI).
    let argv = unsafe { Argv { first: stack.add(1).cast(), count: *stack } };
    crate::run(argv)
}

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller vouches for both ranges; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") n => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    for i in 0..n {
        // SAFETY: within the ranges that the caller vouches for. Volatile, or the loop would become a memcpy.
        unsafe { to.add(i).write_volatile(from.add(i).read()) };
    }
    to
}

/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= n {
        // SAFETY: copying upwards does not overwrite what is still to be read.
        return unsafe { memcpy(to, from, n) };
    }
    let mut i = n;
    while i > 0 {
        i -= 1;
        // SAFETY: within the ranges that the caller vouches for, from the end, as `to` lies above `from`.
        unsafe { to.add(i).write_volatile(from.add(i).read()) };
    }
    to
}

/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, byte: i32, n: usize) -> *mut u8 {
    for i in 0..n {
        // SAFETY: within the range that the caller vouches for. Volatile, or the loop would become a memset.
        unsafe { to.add(i).write_volatile(byte as u8) };
    }
    to
}

/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    for i in 0..n {
        // SAFETY: within the ranges that the caller vouches for. Volatile, or the loop would become a memcmp.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// # Safety
/// As `bcmp`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, n: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, n) }
}
