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
//! The other two powers of a transparent proxy are to listen on an address that is not the
//! box's own and to connect from one:
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use std::time::Duration;
//! use xtproxy_client::{ForeignListener, Registrar, foreign_connect};
//!
//! let registrar = Registrar::connect()?;
//! // Whoever connects to the server's address reaches us, at our own address 10.0.0.1.
//! let server = "203.0.113.5:2121".parse()?;
//! let listener = ForeignListener::bind(&registrar, server, [10, 0, 0, 1].into())?;
//! let (inward, client) = listener.accept()?;
//! // The server sees the client's address.
//! let onward = foreign_connect(&registrar, client, server, None, Duration::from_secs(10))?;
//! # Ok(()) }
//! ```
//!
//! [`Registrar`] is the whole interface of TProxy 2.0, for sockets that you make yourself. What
//! is registered ends with its socket. Who may use which addresses says the daemon's
//! configuration; root may use all.
//!
//! With the feature `tokio`, the module `asynchronous` has the same for tokio's tasks.
//! [`Control`] speaks to the socket for root and is what `xtproxy` is made of.
//!
//! Never here: unsafe code, a runtime of its own, or threads, apart from one that fetches a
//! connection from the daemon's folder when the path to it is lost (`chroot`).

#[cfg(feature = "tokio")]
pub mod asynchronous;
mod blocking;
mod channel;
mod connector;
mod control;
mod descriptor;
mod error;
mod flags;
mod folder;
mod listener;
mod refusal;
mod registrar;

use std::net::SocketAddr;
use std::path::PathBuf;

use protocol::{DEFAULT_RUNTIME_DIR, RUNTIME_DIR_VARIABLE};

#[cfg(feature = "tokio")]
pub use asynchronous::AsyncClient;
pub use blocking::Client;
pub use connector::{foreign_connect, local_towards};
pub use control::Control;
pub use error::{Error, Result};
pub use flags::{Flags, UnknownFlag};
pub use listener::ForeignListener;
pub use registrar::{Original, Registrar};
/// The words of [`Registrar::call`].
pub use shm::{Access, Operation, Reply, Request};

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
