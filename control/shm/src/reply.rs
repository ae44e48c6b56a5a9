//! What the server answers.

use std::net::SocketAddr;

use bytemuck::{Pod, Zeroable};

use crate::endpoint::EndpointRecord;
use crate::layout::Words;

/// What the server answers. Fields that an operation has no use for are zero or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reply {
    /// 0, or why the operation failed and changed nothing.
    pub errno: i32,
    /// What is done with the foreign address: the `ITP_` bits.
    pub flags: u32,
    /// The version of the interface that is served.
    pub version: u32,
    /// The protocol's number.
    pub proto: u8,
    /// The socket's cookie.
    pub cookie: u64,
    /// The request's tag; the channel fills it in.
    pub tag: u64,
    /// The local address.
    pub local: Option<SocketAddr>,
    /// The foreign address.
    pub foreign: Option<SocketAddr>,
    /// The peer.
    pub peer: Option<SocketAddr>,
}

impl Reply {
    /// That the operation failed.
    #[must_use]
    pub fn refused(errno: i32) -> Self {
        Self {
            errno,
            ..Self::default()
        }
    }

    /// As it is copied into the shared memory.
    pub(crate) fn words(&self) -> Words {
        bytemuck::cast(ReplyRecord {
            errno: self.errno,
            flags: self.flags,
            version: self.version,
            proto: self.proto,
            reserved_bytes: [0; 3],
            cookie: self.cookie,
            tag: self.tag,
            local: EndpointRecord::new(self.local),
            foreign: EndpointRecord::new(self.foreign),
            peer: EndpointRecord::new(self.peer),
            reserved: [0; 3],
        })
    }

    /// Checks what was copied out. Nothing if no server writes that.
    pub(crate) fn parse(words: Words) -> Option<Self> {
        let record: ReplyRecord = bytemuck::cast(words);
        if record.reserved_bytes != [0; 3] || record.reserved != [0; 3] {
            return None;
        }
        Some(Self {
            errno: record.errno,
            flags: record.flags,
            version: record.version,
            proto: record.proto,
            cookie: record.cookie,
            tag: record.tag,
            local: record.local.parse()?,
            foreign: record.foreign.parse()?,
            peer: record.peer.parse()?,
        })
    }
}

/// A reply in memory.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ReplyRecord {
    errno: i32,
    flags: u32,
    version: u32,
    proto: u8,
    reserved_bytes: [u8; 3],
    cookie: u64,
    tag: u64,
    local: EndpointRecord,
    foreign: EndpointRecord,
    peer: EndpointRecord,
    reserved: [u64; 3],
}

const _: () = assert!(size_of::<ReplyRecord>() == size_of::<Words>());
const _: () = assert!(size_of::<ReplyRecord>() == 128);
