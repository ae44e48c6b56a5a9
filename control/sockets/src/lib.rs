//! What the kernel says of a socket: another process's, fetched by pidfd, or all of a network
//! namespace's.
//!
//! Invariants: nothing that a client says of its socket is believed; a copy of a client's
//! descriptor belongs to the thread that asked for it, and nobody else waits for its closing; a
//! socket of another network namespace is refused, whatever addresses it has.
//! Never here: what may be done with a socket, caches, locks.
//!
//! Closing a copy can block (a lingering socket, a file of a FUSE file system). "Here" is the network namespace of the calling thread when it
//! asks for the first time.

mod diag;
mod facts;
mod holders;
mod listening;
mod peer;

pub use diag::{Alive, Connection, alive, connections, in_use, probe};
pub use facts::{Facts, FetchError, copy, facts};
pub use holders::holders;
pub use listening::{Listener, cookie_of, listening};
pub use peer::{peer_pidfd, pidfd_of};
