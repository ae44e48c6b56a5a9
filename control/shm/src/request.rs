//! What a client asks.

use std::net::SocketAddr;

use bytemuck::{Pod, Zeroable};
use rustix::io::Errno;

use crate::endpoint::EndpointRecord;
use crate::layout::Words;

/// The operations, by their numbers in the record. Those below 64 are TProxy 2.0's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Operation {
    /// Set: is this version of the interface served? Get: which is?
    Version = 0,
    /// Bind the socket's local address to a foreign one.
    Assign = 1,
    /// Undo that.
    Unassign = 2,
    /// Ask for the foreign address.
    Query = 3,
    /// Set or get what is done with it.
    Flags = 4,
    /// Choose a free foreign port.
    Alloc = 5,
    /// Record the peer.
    Connect = 6,
    /// `Assign` and `Flags` at once: both or neither.
    AssignFlags = 64,
    /// Ask where the peer of an accepted socket wanted to go.
    OriginalDestination = 65,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Version,
        Self::Assign,
        Self::Unassign,
        Self::Query,
        Self::Flags,
        Self::Alloc,
        Self::Connect,
        Self::AssignFlags,
        Self::OriginalDestination,
    ];
}

impl TryFrom<u32> for Operation {
    type Error = Malformed;

    fn try_from(number: u32) -> Result<Self, Malformed> {
        let named = Self::ALL.into_iter().find(|named| *named as u32 == number);
        named.ok_or(Malformed::Operation(number))
    }
}

/// Which half of an operation: `Version` and `Flags` have both.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u32)]
pub enum Access {
    /// As by `setsockopt`.
    #[default]
    Set = 0,
    /// As by `getsockopt`.
    Get = 1,
}

impl TryFrom<u32> for Access {
    type Error = Malformed;

    fn try_from(number: u32) -> Result<Self, Malformed> {
        match number {
            0 => Ok(Self::Set),
            1 => Ok(Self::Get),
            other => Err(Malformed::Access(other)),
        }
    }
}

/// What is wrong with a request's record. It concerns this call only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// No operation has this number.
    #[error("no operation has the number {0}")]
    Operation(u32),
    /// Neither set nor get.
    #[error("an access is 0 (set) or 1 (get), not {0}")]
    Access(u32),
    /// An endpoint of no known family, or one with bytes set that its family has no use for.
    #[error("the {0} endpoint is none")]
    Endpoint(&'static str),
    /// Bytes set that this version has no use for.
    #[error("reserved bytes are not zero")]
    Reserved,
}

impl Malformed {
    /// The errno to answer with.
    #[must_use]
    pub fn errno(self) -> i32 {
        let errno = match self {
            Self::Operation(_) => Errno::NOPROTOOPT,
            Self::Access(_) | Self::Endpoint(_) | Self::Reserved => Errno::INVAL,
        };
        errno.raw_os_error()
    }
}

/// What a client asks. Fields that an operation has no use for are zero or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// What to do.
    pub operation: Operation,
    /// Whether to set or to get.
    pub access: Access,
    /// What to do with the foreign address: the `ITP_` bits.
    pub flags: u32,
    /// The version of the interface that the client asks for.
    pub version: u32,
    /// The socket, by its number in the client.
    pub fd: i32,
    /// The protocol's number; 0 leaves it to the socket.
    pub proto: u8,
    /// The socket's cookie, if the client knows it; 0 if not.
    pub cookie: u64,
    /// Comes back in the reply.
    pub tag: u64,
    /// The local address; none leaves it to the socket.
    pub local: Option<SocketAddr>,
    /// The foreign address.
    pub foreign: Option<SocketAddr>,
    /// The peer.
    pub peer: Option<SocketAddr>,
}

impl Request {
    /// A request about a socket, everything else zero or none.
    #[must_use]
    pub fn new(operation: Operation, access: Access, fd: i32) -> Self {
        Self {
            operation,
            access,
            flags: 0,
            version: 0,
            fd,
            proto: 0,
            cookie: 0,
            tag: 0,
            local: None,
            foreign: None,
            peer: None,
        }
    }

    /// As it is copied into the shared memory.
    pub(crate) fn words(&self) -> Words {
        bytemuck::cast(RequestRecord {
            operation: self.operation as u32,
            access: self.access as u32,
            flags: self.flags,
            version: self.version,
            fd: self.fd,
            proto: self.proto,
            reserved_bytes: [0; 3],
            cookie: self.cookie,
            tag: self.tag,
            local: EndpointRecord::new(self.local),
            foreign: EndpointRecord::new(self.foreign),
            peer: EndpointRecord::new(self.peer),
            reserved: [0; 2],
        })
    }

    /// Checks what was copied out; says the tag too, which every reply carries.
    pub(crate) fn parse(words: Words) -> (u64, Result<Self, Malformed>) {
        let record: RequestRecord = bytemuck::cast(words);
        (record.tag, record.parse())
    }
}

/// A request in memory.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RequestRecord {
    operation: u32,
    access: u32,
    flags: u32,
    version: u32,
    fd: i32,
    proto: u8,
    reserved_bytes: [u8; 3],
    cookie: u64,
    tag: u64,
    local: EndpointRecord,
    foreign: EndpointRecord,
    peer: EndpointRecord,
    reserved: [u64; 2],
}

const _: () = assert!(size_of::<RequestRecord>() == size_of::<Words>());
const _: () = assert!(size_of::<RequestRecord>() == 128);

impl RequestRecord {
    fn parse(self) -> Result<Request, Malformed> {
        let operation = Operation::try_from(self.operation)?;
        let access = Access::try_from(self.access)?;
        if self.reserved_bytes != [0; 3] || self.reserved != [0; 2] {
            return Err(Malformed::Reserved);
        }
        let endpoint = |record: EndpointRecord, name| {
            let parsed = record.parse();
            parsed.ok_or(Malformed::Endpoint(name))
        };
        Ok(Request {
            operation,
            access,
            flags: self.flags,
            version: self.version,
            fd: self.fd,
            proto: self.proto,
            cookie: self.cookie,
            tag: self.tag,
            local: endpoint(self.local, "local")?,
            foreign: endpoint(self.foreign, "foreign")?,
            peer: endpoint(self.peer, "peer")?,
        })
    }
}
