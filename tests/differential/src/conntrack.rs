//! The kernel's table of connections, as far as to empty it.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// Speaks to the table of the namespace in which it was opened.
#[derive(Debug)]
pub struct Conntrack(OwnedFd);

impl Conntrack {
    /// Opens it.
    pub fn open() -> Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        Ok(Conntrack(socket))
    }

    /// Forgets every connection.
    pub fn flush(&self) -> Result<()> {
        /// Of the subsystem of connections, the message that deletes.
        const DELETE: u16 = 1 << 8 | 2;
        /// It is a request, and wants an answer.
        const FLAGS: u16 = 1 | 4;
        const INET: u8 = 2;
        let mut message = 20_u32.to_ne_bytes().to_vec();
        message.extend(DELETE.to_ne_bytes());
        message.extend(FLAGS.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([INET, 0, 0, 0]);
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answer = [0; 256];
        let len = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let error = answer[..len]
            .get(16..20)
            .and_then(|code| code.first_chunk());
        let error = i32::from_ne_bytes(*error.context("a short answer")?);
        ensure!(error == 0, "connections are not forgotten: error {error}");
        Ok(())
    }
}
