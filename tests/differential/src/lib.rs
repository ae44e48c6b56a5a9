//! The same rules and the same packets for the kernel's iptables and for the pipeline: whatever
//! they say about a packet must agree, but for the differences that `tests/verdicts.rs` lists.
//!
//! ```text
//! rules ----> iptables-restore in a namespace      packets ----> its wires and raw sockets
//!       `---> rules -> policy -> pipeline                  `---> pipeline.process
//! ```
//!
//! Invariant: nothing but namespaces of its own is touched.

pub mod conntrack;
pub mod kernel;
pub mod made_up;
pub mod ours;
pub mod outcome;
pub mod packet;
pub mod quality;
pub mod tap;
pub mod traffic;
