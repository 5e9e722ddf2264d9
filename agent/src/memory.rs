//! What the allocator keeps. The agent works in bursts and then sleeps, and the memory of a burst is the machine's again after it.

/// Lets the allocator have few arenas: the agent has many short-lived threads and little to allocate at once. With two,
/// the threads that work side by side at the start waited for each other's lock thousands of times.
pub(crate) fn configure() {
    // SAFETY: mallopt(3) only sets a number; it is called before other threads are started.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 4);
    }
}

/// Gives what is free back to the kernel.
pub(crate) fn trim() {
    // SAFETY: malloc_trim(3) touches no memory that is in use, and is safe with other threads.
    unsafe {
        libc::malloc_trim(0);
    }
}
