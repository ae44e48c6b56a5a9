//! The shared memory between a client process and the control thread: its layout, its records,
//! and the two ends of it.
//!
//! Invariants: what the other process wrote is copied out once, word by word, and then checked;
//! the server's end keeps nothing that it relies on in the shared memory; a call is answered on
//! the slot that it was posted on, and only its own thread is woken; nobody sleeps while
//! something waits for it.
//! Never here: what an operation does, who may do it, logging.
//!
//! `docs/shm-protocol.md` describes the same for other languages, byte by byte.

#![cfg_attr(
    loom,
    allow(dead_code, reason = "only the words' protocol is modelled")
)]

#[cfg(all(feature = "tokio", not(loom)))]
mod bell;
#[cfg(not(loom))]
mod client;
#[cfg(not(loom))]
mod doorbell;
#[cfg(not(loom))]
mod endpoint;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod handover;
#[cfg(not(loom))]
mod home;
mod layout;
mod mailbox;
#[cfg(not(loom))]
mod memory;
#[cfg(not(loom))]
mod reply;
#[cfg(not(loom))]
mod request;
#[cfg(not(loom))]
mod server;
mod slots;
#[cfg(not(loom))]
mod spin;
mod sync;

#[cfg(test)]
mod tests;

#[cfg(all(feature = "tokio", not(loom)))]
pub use bell::Bell;
#[cfg(not(loom))]
pub use client::{ClientEnd, PATIENCE};
#[cfg(not(loom))]
pub use error::{CallError, MapError, Violation};
#[cfg(not(loom))]
pub use handover::Handover;
pub use layout::{MAGIC, SLOTS, TOTAL_BYTES, VERSION};
#[cfg(not(loom))]
pub use reply::Reply;
#[cfg(not(loom))]
pub use request::{Access, Malformed, Operation, Request};
#[cfg(not(loom))]
pub use server::{Call, ServerEnd, Ticket};
