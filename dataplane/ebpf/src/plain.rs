//! Programs that judge nothing, for the forwarding benchmark: what a hook costs by itself,
//! and what a packet has cost before it meets one.

#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the attribute of a program repeats it without its comment"
)]
#![expect(unreachable_pub, reason = "programs are found by their symbols")]

use aya_ebpf::{macros::classifier, programs::TcContext};

/// Ends the chain and lets the packet pass.
#[classifier]
pub fn empty(_: TcContext) -> i32 {
    0
}

/// Drops the packet.
#[classifier]
pub fn dropping(_: TcContext) -> i32 {
    2
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing above can panic.
    loop {}
}
