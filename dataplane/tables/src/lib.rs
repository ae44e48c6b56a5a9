//! The flow table: who talks to whom, and what stands in each direction's packets; and what
//! proxies have registered.
//!
//! Invariants: both directions of a flow appear and go together and have one
//! lifetime; no two flows share a key; a live flow is never evicted to make room.
//! Readers take no lock and write no shared line but the flow's own counters.
//! Writers (first packets, removal) take one lock.
//! Never here: clocks (time is an argument, nanoseconds of any one monotonic clock),
//! randomness (a seed is an argument), I/O.

mod answers;
mod entry;
mod flow;
mod index;
mod key;
mod lane;
mod owners;
mod registration;
mod registrations;
mod sync;
mod table;

pub use answers::{Counts, FlowSnapshot, Hit, InsertError, NewFlow};
pub use flow::{Flow, FlowId, Kind, Path};
pub use key::{Direction, FlowKey, Side};
pub use lane::{FlowState, LaneCounters, Timeouts};
pub use owners::OwnerId;
pub use registration::{Registration, Uses};
#[cfg(feature = "hold")]
pub use registrations::Hold;
pub use registrations::{Lookup, RegisterError, RegistrationId, Registrations};
pub use table::FlowTable;
