//! The BPF programs of a node, one object: maps are shared by construction and the agent loads once.
//!
//! Licence: dual MIT/GPL, as the kernel asks of programs that use GPL-only helpers.

#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    missing_docs,
    reason = "programs are called by the kernel: every entry and every map access is unsafe"
)]

mod choose;
mod count;
mod express;
mod flows;
mod forward;
mod frame;
mod icmp;
mod maps;
mod nat;
mod neighbours;
mod packet;
mod policy;
mod sock;
mod sweep;
mod watch;
mod way;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing can panic in a verified program; the linker only wants a symbol.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
