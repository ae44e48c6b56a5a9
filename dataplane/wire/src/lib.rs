//! Bytes to meaning and back: Ethernet, 802.1Q, IPv4, TCP, UDP, ICMP and their checksums.
//!
//! Invariant: every offset in a [`Headers`] lies inside the frame it was parsed
//! from, so the readers and writers behind it cannot fail on that frame.
//! Never here: allocation, I/O, clocks, unsafe code, other crates.
//!
//! Byte order: numbers in the types of this crate are in host order unless the
//! name ends in `_be`; the functions that touch frames convert.

#![no_std]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

pub mod checksum;
mod ethernet;
mod headers;
mod reply;
mod rewrite;
mod tuple;
mod unreachable;

pub use ethernet::{
    ETHERNET_BYTES, EtherType, MacAddr, VLAN_TAG_BYTES, set_destination, set_source,
};
pub use headers::{Fragment, Headers, IcmpHeader, ParseError, TcpFlags, TcpHeader, Transport};
pub use reply::{RESET_MAX_BYTES, reset_for};
pub use rewrite::{complete_partial_checksum, rewrite, rewrite_icmp_error};
pub use tuple::{Endpoint, Protocol, Tuple};
pub use unreachable::{UNREACHABLE_ADDS, unreachable_for};
