//! A batch of frames, the tables and the time in; a verdict for each frame out.
//!
//! Invariants: a packet of a translated flow never gets a verdict to leave before it is
//! rewritten; every frame gets exactly one verdict; every drop has a name and a counter.
//! Never here: I/O, locks of its own, clocks, allocation, panics, unsafe code.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod arriving;
mod asking;
mod batch;
mod counters;
mod drops;
mod first;
mod judging;
mod leaving;
mod logs;
mod mapping;
mod marks;
mod refusing;
mod registered;
mod standing;
mod view;

pub use batch::{BATCH, Frames, Ingress, Pipeline, Verdict};
pub use counters::{Counters, Event, RuleHits};
pub use drops::{DropExample, DropReason, EXAMPLE_BYTES, Examples};
pub use logs::{LogKind, LogRecord, Logs};
pub use marks::{Mark, Marks, Owners};
pub use policy::PortId;
pub use view::{PortView, SharedView, View};
