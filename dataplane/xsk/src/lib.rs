//! Frames of one memory region and the AF_XDP sockets that move them, on `xsk-rs`.
//!
//! Invariants: a [`Frame`] is the only right to touch its chunk; every chunk of a region
//! is at any moment free, in one fill ring, in one transmit ring, or held as a `Frame`,
//! and the counts of [`Ledger`] say so.
//! A region is registered with the kernel twice at most, over the same pages: once for lanes in
//! copy mode, by `xsk-rs`, and once for zero-copy lanes, with rings of our own. A registration
//! is zero-copy or copy as a whole, and the kernel does not care who owns a chunk: the ledger
//! does.
//! Never here: packets' meaning, tables, logging.

#![cfg_attr(loom, allow(dead_code, reason = "only the ring is modelled"))]

#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod first;
#[cfg(not(loom))]
mod lane;
#[cfg(not(loom))]
mod mapping;
#[cfg(not(loom))]
mod region;
mod ring;
#[cfg(not(loom))]
mod second;
#[cfg(not(loom))]
mod socket;
mod sync;

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(not(loom))]
pub use error::Error;
#[cfg(not(loom))]
pub use lane::{BindMode, Lane, LaneConfig, RingCounts, supports_zero_copy};
#[cfg(not(loom))]
pub use region::{CHUNK_BYTES, Frame, Ledger, MAX_FRAME_BYTES, Region};
#[cfg(not(loom))]
pub use socket::kernel_has_af_xdp;
