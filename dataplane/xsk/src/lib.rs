//! Frames of one memory region and the AF_XDP sockets that move them, on `xsk-rs`.
//!
//! Invariants: a [`Frame`] is the only right to touch its chunk; every chunk of a region
//! is at any moment free, in one fill ring, in one transmit ring, or held as a `Frame`,
//! and the counts of [`Ledger`] say so.
//! Never here: packets' meaning, tables, logging.

mod error;
mod lane;
mod region;

pub use error::Error;
pub use lane::{BindMode, Lane, LaneConfig, RingCounts, kernel_has_af_xdp};
pub use region::{CHUNK_BYTES, Frame, Ledger, MAX_FRAME_BYTES, Region};
