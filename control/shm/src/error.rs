//! What can go wrong with a channel.

use std::io;

use rustix::io::Errno;

/// Why a client cannot use a memory that it was handed.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The memory could shrink under the reader.
    #[error("the shared memory is not sealed: it does not come from xtproxyd")]
    Unsealed,
    /// Its size is not this version's.
    #[error("the shared memory has {found} bytes, not {TOTAL}: install one version of xtproxyd and its libraries", TOTAL = crate::TOTAL_BYTES)]
    Length {
        /// The size that it has.
        found: u64,
    },
    /// It does not begin as it must.
    #[error("the shared memory does not begin with the magic: it does not come from xtproxyd")]
    Magic,
    /// It is of another version.
    #[error("the shared memory has version {found}, not {own}: install one version of xtproxyd and its libraries", own = crate::VERSION)]
    Version {
        /// Its version.
        found: u32,
    },
    /// Its parts are not where this version has them.
    #[error(
        "the shared memory is laid out in another way: install one version of xtproxyd and its libraries"
    )]
    Sizes,
    /// A message did not carry what hands a channel over.
    #[error("the message hands no shared memory over: it does not come from xtproxyd")]
    Greeting,
    /// The peer left before it handed anything over.
    #[error("xtproxyd closed the socket without handing shared memory over")]
    HungUp,
    /// The system's answer.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl From<Errno> for MapError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

impl From<MapError> for io::Error {
    fn from(error: MapError) -> Self {
        match error {
            MapError::System(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// Why a call got no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The channel was opened by the process that forked this one.
    #[error("the channel belongs to the process that opened it: open one after fork")]
    Forked,
    /// The server is gone, or has cut this client off.
    #[error("xtproxyd has closed the channel")]
    Closed,
    /// No reply in time. Whether the operation is done is unknown.
    #[error("xtproxyd does not answer")]
    TimedOut,
    /// The shared memory or the reply holds what no server writes.
    #[error("the shared memory was overwritten by something else than xtproxyd")]
    Garbled,
    /// The system's answer.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl From<Errno> for CallError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

impl From<CallError> for io::Error {
    fn from(error: CallError) -> Self {
        let kind = match error {
            CallError::System(error) => return error,
            CallError::Forked => io::ErrorKind::Unsupported,
            CallError::Closed => io::ErrorKind::BrokenPipe,
            CallError::TimedOut => io::ErrorKind::TimedOut,
            CallError::Garbled => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// What a client did that no client does. It is to be cut off: drop its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// Bits set that stand for nothing.
    #[error("the client posted slots that do not exist ({bits:#x})")]
    NoSuchSlot {
        /// Those bits.
        bits: u64,
    },
    /// A slot posted while its call is being answered.
    #[error("the client posted slot {slot} before it was answered")]
    PostedTwice {
        /// The slot.
        slot: usize,
    },
    /// A slot posted whose state is not that of its next call.
    #[error("the client posted slot {slot} in a state that does not follow")]
    OutOfTurn {
        /// The slot.
        slot: usize,
    },
}
