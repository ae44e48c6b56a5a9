//! The library for proxies: which address did the client of this accepted socket want?
//!
//! A transparent proxy gets connections that were meant for somebody else. xtproxy
//! rewrites their destination to the proxy's own address, and this library asks the
//! daemon what it was:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = std::net::TcpListener::bind("0.0.0.0:3128")?;
//! let client = xtproxy_client::Client::connect()?;
//! let (accepted, _) = listener.accept()?;
//! let original = client.original_destination(&accepted)?;
//! let onward = std::net::TcpStream::connect(original.destination)?;
//! # Ok(()) }
//! ```
//!
//! The daemon is asked over a Unix socket; the accepted socket itself travels with the
//! request, and holding it is the right to ask about it: no privilege is needed. Ask
//! before the connection is closed.
//!
//! With the feature `tokio`, `AsyncClient` is the same for tokio's tasks. [`Control`]
//! speaks to the socket for root and is what `xtproxy` is made of.
//!
//! Never here: unsafe code, threads, a runtime of its own.

#[cfg(feature = "tokio")]
mod asynchronous;
mod blocking;
mod control;
mod error;

use std::net::SocketAddr;
use std::path::PathBuf;

use protocol::{DEFAULT_RUNTIME_DIR, RUNTIME_DIR_VARIABLE};

#[cfg(feature = "tokio")]
pub use asynchronous::AsyncClient;
pub use blocking::Client;
pub use control::Control;
pub use error::{Error, Result};

/// Where a redirected connection comes from and where it was meant to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OriginalDestination {
    /// The client's true address and port. Its port can differ from what `getpeername`
    /// says: xtproxy changes the port that the proxy sees where two connections would clash.
    pub source: SocketAddr,
    /// The address and port that the client wanted to reach.
    pub destination: SocketAddr,
}

/// The runtime directory: what the environment says, or the default.
#[must_use]
pub fn runtime_dir() -> PathBuf {
    std::env::var_os(RUNTIME_DIR_VARIABLE)
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from(DEFAULT_RUNTIME_DIR), PathBuf::from)
}
