//! What should happen: controllers and the scheduler as pure functions from the world, a key and a time to changes.
//!
//! In: slim views of objects, kept up to date change by change. Out: [`Plan`]s. No I/O, no clock, no randomness: time and
//! seeds are arguments, so that a whole cluster can be simulated in one thread.

#![forbid(unsafe_code)]

pub mod aggregation;
mod change;
pub mod controllers;
mod schedule;
mod volumes;
mod world;

pub use change::{Change, EventAbout, Part, Plan};
pub use controllers::{CONTROLLERS, Controller, Settings, urgency};
pub use world::{
    Answer, Answers, ContainerUsage, Key, Memory, MetricsApi, NodeView, PodUsage, PodView, Query, Sample,
    Usage, World, is_fresh, samples,
};
