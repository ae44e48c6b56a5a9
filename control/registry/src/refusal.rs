//! Why an operation is refused.

use rustix::io::Errno;

/// Why an operation is refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// What the client says of the socket is not so: it means another one.
    OtherSocket,
    /// The socket, an address or the flags will not do.
    Invalid,
    /// The client may not use this foreign address.
    NotGranted,
    /// The socket has no registration, or the connection no such flow.
    NotFound,
    /// The socket has a registration already.
    AssignedAlready,
    /// Another socket has this local endpoint and peer.
    LocalTaken,
    /// Another registration or connection has the foreign endpoint.
    ForeignTaken,
    /// Another registration is reached by the foreign endpoint already.
    ListenTaken,
    /// All foreign ports are taken.
    NoPort,
    /// A table is full.
    NoRoom,
    /// There is no such operation, or not for get, or not for set.
    NoOption,
}

impl Refusal {
    pub(crate) fn errno(self) -> i32 {
        let errno = match self {
            Self::OtherSocket => Errno::BADF,
            Self::Invalid | Self::ListenTaken => Errno::INVAL,
            Self::NotGranted => Errno::PERM,
            Self::NotFound => Errno::NOENT,
            Self::AssignedAlready | Self::LocalTaken => Errno::EXIST,
            Self::ForeignTaken => Errno::ADDRINUSE,
            Self::NoPort => Errno::FAULT,
            Self::NoRoom => Errno::NOBUFS,
            Self::NoOption => Errno::NOPROTOOPT,
        };
        errno.raw_os_error()
    }

    /// Whether a socket that was closed meanwhile may be what stands in the way.
    pub(crate) const fn is_clash(self) -> bool {
        match self {
            Self::LocalTaken
            | Self::ForeignTaken
            | Self::ListenTaken
            | Self::NoPort
            | Self::NoRoom => true,
            Self::OtherSocket
            | Self::Invalid
            | Self::NotGranted
            | Self::NotFound
            | Self::AssignedAlready
            | Self::NoOption => false,
        }
    }
}
