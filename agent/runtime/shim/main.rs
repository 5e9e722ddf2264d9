//! stower-shim.
#![no_std]
#![no_main]
#![allow(missing_docs)]

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    loop {}
}
