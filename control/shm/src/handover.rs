//! Handing a channel over a Unix socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::error::MapError;
use crate::layout::{MAGIC, VERSION};

/// Length of the message: magic and version. The descriptors come beside it.
const GREETING_BYTES: usize = 12;

/// What a client needs of a channel. The descriptors are closed on exec.
#[derive(Debug)]
pub struct Handover {
    /// The file of the shared memory.
    pub memory: OwnedFd,
    /// The eventfd that wakes the server.
    pub doorbell: OwnedFd,
}

impl Handover {
    /// Sends it as one message. The server's own copies are closed when this is dropped.
    ///
    /// # Errors
    /// The system's answer.
    pub fn send(&self, socket: impl AsFd) -> io::Result<()> {
        let descriptors = [self.memory.as_fd(), self.doorbell.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let greeting = greeting();
        let data = [IoSlice::new(&greeting)];
        let sent = again(|| sendmsg(&socket, &data, &mut beside, SendFlags::NOSIGNAL))?;
        if sent != GREETING_BYTES {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }

    /// Receives it.
    ///
    /// # Errors
    /// The system's answer, or that the message is not one of [`Self::send`].
    pub fn receive(socket: impl AsFd) -> Result<Self, MapError> {
        let mut greeted = [0; GREETING_BYTES];
        let mut data = [IoSliceMut::new(&mut greeted)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let how = RecvFlags::CMSG_CLOEXEC;
        let received = again(|| recvmsg(&socket, &mut data, &mut beside, how))?;
        let mut descriptors = Vec::new();
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Err(MapError::HungUp);
        }
        if received.bytes != GREETING_BYTES || greeted[..8] != greeting()[..8] {
            return Err(MapError::Greeting);
        }
        let [.., a, b, c, d] = greeted;
        let found = u32::from_ne_bytes([a, b, c, d]);
        if found != VERSION {
            return Err(MapError::Version { found });
        }
        let pair: Result<[OwnedFd; 2], _> = descriptors.try_into();
        let [memory, doorbell] = pair.map_err(|_| MapError::Greeting)?;
        Ok(Self { memory, doorbell })
    }
}

fn greeting() -> [u8; GREETING_BYTES] {
    let mut greeting = [0; GREETING_BYTES];
    greeting[..8].copy_from_slice(&MAGIC.to_ne_bytes());
    greeting[8..].copy_from_slice(&VERSION.to_ne_bytes());
    greeting
}

/// Repeats what a signal interrupts.
fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
