//! What can go wrong between a proxy and the daemon.

use std::io;
use std::path::{Path, PathBuf};

use protocol::{ErrorKind, Failure, Reply};
use rustix::io::Errno;

/// A result of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between a proxy and the daemon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens at the daemon's socket.
    #[error("no daemon answers at {}: start xtproxyd, or name its runtime directory", socket.display())]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Nobody listens at the daemon's socket, and the folder that it was in is no more.
    #[error(
        "no daemon answers at {}: its folder was removed, and one made since cannot be found from \
         another root directory: start xtproxyd, restart this program if it uses chroot, and do \
         not have the folder removed at restarts (systemd: no RuntimeDirectory=)",
        socket.display()
    )]
    FolderGone {
        /// The socket.
        socket: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The socket cannot be used by this user.
    #[error("{}: permission denied: only root may use this socket", socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
    },
    /// The connection to the daemon broke, or the daemon did not answer in time.
    #[error("{}: {source}", socket.display())]
    Io {
        /// The socket.
        socket: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The connection of this socket was not redirected: the client wanted the proxy itself.
    #[error("not a redirected connection: {0}")]
    NotRedirected(String),
    /// The socket is not one that a redirected connection can end at.
    #[error("cannot have been redirected: {0}")]
    BadSocket(String),
    /// The daemon refused or failed before it came to the matter.
    #[error("the daemon refuses: {0}")]
    Failed(Failure),
    /// A registration was refused, and nothing has changed.
    #[error("cannot {what}: {cause}")]
    Refused {
        /// What was asked: the operation and its endpoints.
        what: String,
        /// Why it was refused, and what to do about it.
        cause: String,
        /// The errno of the TProxy interface.
        errno: i32,
    },
    /// The kernel refused what a registration needs of its socket.
    #[error("cannot {what}: {source}")]
    Socket {
        /// What was tried, with its endpoints.
        what: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The daemon answered something that is no answer to the question.
    #[error(
        "the daemon's answer makes no sense ({0}): client and daemon may be of different versions"
    )]
    Nonsense(String),
}

impl Error {
    /// The errno of the TProxy interface that says the same. `ENOPROTOOPT` when no daemon
    /// answers, as from a kernel without TProxy.
    #[must_use]
    pub fn errno(&self) -> i32 {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        let named = |errno: Errno| errno.raw_os_error();
        match self {
            Self::Refused { errno, .. } => *errno,
            Self::NoDaemon { .. } | Self::FolderGone { .. } => named(Errno::NOPROTOOPT),
            Self::Denied { .. } => named(Errno::ACCESS),
            Self::NotRedirected(_) => named(Errno::NOENT),
            Self::BadSocket(_) => named(Errno::INVAL),
            Self::Failed(failure) => named(match failure.kind {
                ErrorKind::Busy => Errno::AGAIN,
                ErrorKind::Forbidden => Errno::PERM,
                ErrorKind::Version | ErrorKind::UnknownRequest => Errno::NOPROTOOPT,
                _ => Errno::IO,
            }),
            Self::Nonsense(_) => named(Errno::PROTO),
            // A daemon that hangs up is none.
            Self::Io { source, .. }
                if matches!(source.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) =>
            {
                named(Errno::NOPROTOOPT)
            }
            Self::Io { source, .. } | Self::Socket { source, .. } => match source.raw_os_error() {
                Some(errno) => errno,
                None if source.kind() == io::ErrorKind::TimedOut => named(Errno::TIMEDOUT),
                None => named(Errno::IO),
            },
        }
    }

    /// An error of what the kernel does with a socket.
    pub(crate) fn socket(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let (what, source) = (what.into(), source.into());
        Self::Socket { what, source }
    }

    /// An error of connecting to `socket`.
    pub(crate) fn connecting(socket: &Path, source: io::Error) -> Self {
        let socket = socket.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Self::NoDaemon { socket, source }
            }
            io::ErrorKind::PermissionDenied => Self::Denied { socket },
            _ => Self::Io { socket, source },
        }
    }

    /// An error on the connection to `socket`.
    pub(crate) fn talking(socket: &Path, source: io::Error) -> Self {
        let source = match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::Error::new(
                io::ErrorKind::TimedOut,
                "the daemon does not answer in time",
            ),
            io::ErrorKind::UnexpectedEof => io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the daemon closed the connection",
            ),
            _ => source,
        };
        Self::Io {
            socket: socket.to_owned(),
            source,
        }
    }

    /// Whether there is no daemon now, as while it is being restarted.
    pub(crate) fn is_absence(&self) -> bool {
        let is_none = matches!(self, Self::NoDaemon { .. } | Self::FolderGone { .. });
        is_none || self.is_broken_connection()
    }

    /// Whether a new connection might do better: the daemon may have been restarted.
    pub(crate) fn is_broken_connection(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
    }
}

/// With the errno where there is one; else with the words.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Refused { errno, .. } => return Self::from_raw_os_error(*errno),
            Error::NoDaemon { source, .. }
            | Error::FolderGone { source, .. }
            | Error::Io { source, .. }
            | Error::Socket { source, .. } => match source.raw_os_error() {
                Some(errno) => return Self::from_raw_os_error(errno),
                None => source.kind(),
            },
            Error::Denied { .. } => io::ErrorKind::PermissionDenied,
            Error::NotRedirected(_) => io::ErrorKind::NotFound,
            Error::BadSocket(_) => io::ErrorKind::InvalidInput,
            Error::Nonsense(_) => io::ErrorKind::InvalidData,
            Error::Failed(_) => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            ErrorKind::NotRedirected => Self::NotRedirected(failure.message),
            ErrorKind::BadSocket => Self::BadSocket(failure.message),
            _ => Self::Failed(failure),
        }
    }
}

/// Reads a reply line; a failure becomes an error.
pub(crate) fn read_reply(line: &[u8]) -> Result<Reply> {
    match serde_json::from_slice(line) {
        Ok(Reply::Error(failure)) => Err(failure.into()),
        Ok(reply) => Ok(reply),
        Err(e) => Err(Error::Nonsense(e.to_string())),
    }
}

/// What a reply of the wrong kind is told as.
pub(crate) fn unexpected() -> Error {
    Error::Nonsense("a reply to another request".into())
}
