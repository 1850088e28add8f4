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
mod direct;
mod express;
mod express6;
mod flows;
mod flows6;
mod forward;
mod forward6;
mod frame;
mod frame6;
mod icmp;
mod icmp6;
mod inside;
mod inside6;
mod maps;
mod maps6;
mod nat;
mod neighbours;
mod neighbours6;
mod packet;
mod packet6;
mod policy;
mod policy6;
mod sock;
mod sweep;
mod tunnel;
mod watch;
mod way;
mod way6;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing can panic in a verified program; the linker only wants a symbol.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
