//! The doorbell for tokio's tasks.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Tells a task when a client has rung.
///
/// Wait for it only when [`ServerEnd::rest`](crate::ServerEnd::rest) has said yes, and serve a
/// round afterwards. It may tell so once too often, never once too seldom.
#[derive(Debug)]
pub struct Bell {
    fd: AsyncFd<OwnedFd>,
}

impl Bell {
    /// Registers a descriptor of its own, in the runtime that is running.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is owned by the result, which gives it to nobody: it stays open
        // and the same until both are dropped together.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { fd })
    }

    /// Waits until a client rings.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn rung(&self) -> io::Result<()> {
        // What rings after this is told again; what rang before is served by the next round.
        self.fd.readable().await?.clear_ready();
        Ok(())
    }
}
