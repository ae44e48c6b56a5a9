//! A small internet in network namespaces, with the programs, captures and checks that the
//! end-to-end tests and the demo need.
//!
//! ```text
//! client 192.168.1.10 --- 192.168.1.1 eth1 | fw | eth2 198.51.100.1 --- 198.51.100.10, .11 server
//!                                          |    | eth3 10.0.0.1     --- 10.0.0.10 dmz (on demand)
//! ```
//!
//! Invariant: what a lab made is gone when its guard is dropped, on panic too.
//! Never here: a change to the root namespace, or a test that is skipped.

pub mod audit;
pub mod blaster;
pub mod box_state;
pub mod capture;
pub mod checksum;
pub mod command;
pub mod connection;
pub mod daemon;
pub mod datagrams;
pub mod files;
pub mod frames;
pub mod ftp;
pub mod namespace;
pub mod peer;
pub mod program;
pub mod relay;
pub mod seccomp;
pub mod slots;
pub mod source;
pub mod ssh;
pub mod topology;
pub mod web;

pub use audit::{Link, Report};
pub use box_state::BoxState;
pub use capture::Capture;
pub use daemon::{Config, Daemon, Mode};
pub use datagrams::DatagramEcho;
pub use ftp::FtpServer;
pub use namespace::Namespace;
pub use peer::{Behaviour, Peer};
pub use program::Program;
pub use relay::Relay;
pub use ssh::SshServer;
pub use topology::{Lab, Offloads, Plan};
pub use web::Web;
