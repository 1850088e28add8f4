//! What the agent asks of a sweep of the table of flows, and what it is told. Layouts.

use bytemuck::{Pod, Zeroable};

/// A part of the table. Written by the agent.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct Part {
    /// The number of its first bucket.
    pub first: u32,
    /// How many buckets; those beyond the table's end are left out.
    pub buckets: u32,
}

/// What was found there. Written by the program, in the place of the [`Part`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct Found {
    /// Lines of flows that go on.
    pub left: u32,
    /// Lines of flows that were over, which are free now.
    pub gone: u32,
}

const _: () = assert!(core::mem::size_of::<Part>() == core::mem::size_of::<Found>());
