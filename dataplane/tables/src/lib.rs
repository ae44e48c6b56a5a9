//! The flow table: who talks to whom, and what stands in each direction's packets.
//!
//! Invariants: both directions of a flow appear and go together and have one
//! lifetime; no two flows share a key; a live flow is never evicted to make room.
//! Readers take no lock and write no shared line but the flow's own counters.
//! Writers (first packets, removal) take one lock.
//! Never here: clocks (time is an argument, nanoseconds of any one monotonic clock),
//! randomness (a seed is an argument), I/O.

mod entry;
mod index;
mod key;
mod lane;
mod sync;
mod table;

pub use entry::{Flow, FlowId, Kind, Path};
pub use key::{Direction, FlowKey, Side};
pub use lane::{FlowState, LaneCounters, Timeouts};
pub use table::{Counts, FlowSnapshot, FlowTable, Hit, InsertError, NewFlow};
