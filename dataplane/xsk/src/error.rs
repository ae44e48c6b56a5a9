//! What can go wrong while opening, in words for the one who configured it.

use std::io;

use crate::lane::LaneConfig;

/// Why a region or a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel was built without AF_XDP.
    #[error("this kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS): boot one that has")]
    NoAfXdp,
    /// The region could not be made.
    #[error(
        "cannot register {frames} frames of packet memory: {source}; lower limits.frames_per_worker, or give the daemon CAP_IPC_LOCK or a higher locked-memory limit"
    )]
    Region {
        /// How many frames were asked for.
        frames: u32,
        /// The system's answer.
        source: io::Error,
    },
    /// Something else has the queue.
    #[error(
        "queue {queue} of {interface} already has an AF_XDP socket: stop the program that holds it"
    )]
    Busy {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The driver cannot do what the configuration demands.
    #[error(
        "{interface}: mode = \"zerocopy\" is not possible, its driver has no zero-copy: use \"auto\" or \"copy\""
    )]
    NoZeroCopy {
        /// The interface.
        interface: String,
    },
    /// The socket could not be made for another reason.
    #[error("cannot bind an AF_XDP socket to queue {queue} of {interface}: {source}")]
    Bind {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// The system's answer.
        source: io::Error,
    },
}

/// What a refused socket means.
pub(crate) fn bind_error(config: &LaneConfig<'_>, source: io::Error) -> Error {
    let interface = config.interface.to_owned();
    let queue = config.queue;
    match source.raw_os_error() {
        Some(libc::EBUSY) => Error::Busy { interface, queue },
        Some(libc::EAFNOSUPPORT) => Error::NoAfXdp,
        _ => Error::Bind {
            interface,
            queue,
            source,
        },
    }
}

/// The system's error inside one of `xsk-rs`'s, which wraps it.
pub(crate) fn system_error(error: &dyn std::error::Error) -> io::Error {
    error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error)
        .map_or_else(
            || io::Error::other(error.to_string()),
            io::Error::from_raw_os_error,
        )
}
