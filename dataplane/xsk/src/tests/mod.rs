//! Lanes on real sockets. veth has no zero-copy, so the second registration is opened in copy
//! mode here; its rings and its memory are the same.

mod chunks;
mod crossing;
mod holding;
mod opening;
mod trouble;
mod veth;
