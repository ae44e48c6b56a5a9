//! One core's loop: frames from the rings, through the pipeline, into the rings.
//!
//! Invariant: between two rounds every frame is free, in a fill ring or in a transmit
//! ring; none is held here.
//! Never here: packets' meaning, and a system call per packet.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod frames;
mod rounds;
mod stats;

pub use rounds::{LaneSpec, Worker, WorkerConfig, monotonic_ns};
pub use stats::{LaneReading, WorkerStats};
