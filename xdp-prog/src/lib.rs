//! The steering programs and their loader: which frame the kernel gets, which
//! one the worker's socket, and how the programs get onto an interface and off.
//!
//! And which of the proxies' sockets have been closed; what they send is theirs alone. And
//! where the box's own connections go ([`Capture`]).
//!
//! Invariant: attachments to interfaces are by netlink (XDP) and clsact (tc), never
//! by a link that a file descriptor holds, so that they stay when the daemon goes.
//! Never here: sockets, frames, rules, or the creation of links.
//!
//! All calls but those of [`SocketWatch`] act on the network namespace of the
//! calling thread; [`Capture`] stays with the one where it was attached.

mod attach;
mod capture;
mod counters;
mod endpoints;
mod error;
mod ffi;
mod host;
mod interface;
mod messages;
mod object;
mod port;
mod qdisc;
mod records;
mod senders;
mod sockets;
mod stale;
mod tc;
mod xdp;

pub use capture::{
    Capture, CaptureListener, CaptureNode, CaptureOtherwise, CaptureRefusal, CaptureStep,
    CaptureTest,
};
pub use endpoints::{EndpointMap, Endpoints};
pub use error::Error;
pub use host::{Delivery, HostConfig, HostHook, HostProgram};
pub use object::DryRun;
pub use port::{PortConfig, PortHook, PortProgram};
pub use records::{
    Direction, Guard, MAX_ADDRESSES, MAX_MANAGEMENT, MAX_OWNERS, MAX_TAKEN, Mac, Management, Taken,
};
pub use senders::SocketMaps;
pub use sockets::{News, SocketWatch};
pub use stale::{Stale, detach_stale, stale};
pub use xdp::{Mode, ProgramInfo};
