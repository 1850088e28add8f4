//! The shared truth of kernel and user space: map layouts, and the pure logic that programs use.
//!
//! no_std, tested on the host. Never here: aya-ebpf, allocation, anything that only works in the kernel.

#![cfg_attr(not(test), no_std)]
// Exchanges of words in programs (`table`).
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod affinity;
pub mod checksum;
pub mod count;
pub mod direct;
pub mod event;
pub mod flow;
pub mod flow6;
pub mod fragment;
pub mod layout;
pub mod maps;
pub mod opted_out;
pub mod policy;
pub mod reason;
pub mod select;
pub mod sweep;
pub mod table;

/// The version of everything in [`layout`] and [`maps`]; part of the path under which maps are pinned. Bumped on any change
/// of a byte, so that an agent never reads tables of another layout.
pub const LAYOUT_VERSION: u32 = 22;
