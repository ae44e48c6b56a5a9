//! The shared memory of a channel as its client has it, read and written by the numbers of
//! `docs/shm-protocol.md` and not by the code that serves it.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use shm::{Access, Operation, Reply, Request};

/// Length of the memory.
pub(crate) const TOTAL_BYTES: usize = 16 * 1024;
/// Length of the header.
pub(crate) const HEADER_BYTES: usize = 1024;
/// How many slots there are.
pub(crate) const SLOTS: usize = 48;
/// Length of a slot.
pub(crate) const SLOT_BYTES: usize = 320;
/// Length of a request, and of a reply.
pub(crate) const RECORD_BYTES: usize = 128;
const POSTED_AT: usize = 64;
const REQUEST_AT: usize = 64;
const REPLY_AT: usize = 192;

const EINVAL: i32 = 22;
const ENOPROTOOPT: i32 = 92;

/// Every operation with its number.
pub(crate) const OPERATIONS: [(u32, Operation); 9] = [
    (0, Operation::Version),
    (1, Operation::Assign),
    (2, Operation::Unassign),
    (3, Operation::Query),
    (4, Operation::Flags),
    (5, Operation::Alloc),
    (6, Operation::Connect),
    (64, Operation::AssignFlags),
    (65, Operation::OriginalDestination),
];

/// The bytes of a record.
pub(crate) type Record = [u8; RECORD_BYTES];

/// The memory, through its file.
pub(crate) struct Mailbox(File);

impl Mailbox {
    pub(crate) fn new(memory: OwnedFd) -> Self {
        Self(memory.into())
    }

    pub(crate) fn put(&self, at: usize, bytes: &[u8]) {
        let room = TOTAL_BYTES.saturating_sub(at).min(bytes.len());
        let written = self.0.write_all_at(&bytes[..room], at as u64);
        written.unwrap_or_else(|error| panic!("the memory at {at}: {error}"));
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        let read = self.0.read_exact_at(&mut bytes, at as u64);
        read.unwrap_or_else(|error| panic!("the memory at {at}: {error}"));
        bytes
    }

    pub(crate) fn posted(&self) -> u64 {
        u64::from_ne_bytes(self.get(POSTED_AT))
    }

    pub(crate) fn put_posted(&self, bits: u64) {
        self.put(POSTED_AT, &bits.to_ne_bytes());
    }

    pub(crate) fn state(&self, slot: usize) -> u32 {
        u32::from_ne_bytes(self.get(slot_at(slot)))
    }

    pub(crate) fn put_state(&self, slot: usize, state: u32) {
        self.put(slot_at(slot), &state.to_ne_bytes());
    }

    pub(crate) fn request(&self, slot: usize) -> Record {
        self.get(slot_at(slot) + REQUEST_AT)
    }

    /// Writes bytes of a request, as far as it reaches.
    pub(crate) fn put_request(&self, slot: usize, from: usize, bytes: &[u8]) {
        let from = from.min(RECORD_BYTES);
        let room = (RECORD_BYTES - from).min(bytes.len());
        self.put(slot_at(slot) + REQUEST_AT + from, &bytes[..room]);
    }

    pub(crate) fn reply(&self, slot: usize) -> Record {
        self.get(slot_at(slot) + REPLY_AT)
    }
}

pub(crate) const fn slot_at(slot: usize) -> usize {
    HEADER_BYTES + SLOT_BYTES * slot
}

/// The fields of a record, one after another.
struct Fields<'a>(&'a Record, usize);

impl Fields<'_> {
    fn next<const N: usize>(&mut self) -> [u8; N] {
        let bytes = std::array::from_fn(|n| self.0[self.1 + n]);
        self.1 += N;
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.next())
    }

    fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.next())
    }

    /// An endpoint, none, or an error.
    fn endpoint(&mut self) -> Result<Option<SocketAddr>, i32> {
        let family = u16::from_ne_bytes(self.next());
        let port = u16::from_ne_bytes(self.next());
        let scope = self.u32();
        let address: [u8; 16] = self.next();
        let [a, b, c, d, rest @ ..] = address;
        match (family, scope) {
            (0, 0) if port == 0 && address == [0; 16] => Ok(None),
            (2, 0) if rest == [0; 12] => Ok(Some((Ipv4Addr::new(a, b, c, d), port).into())),
            (10, _) => {
                let addr = Ipv6Addr::from(address);
                Ok(Some(SocketAddrV6::new(addr, port, 0, scope).into()))
            }
            _ => Err(EINVAL),
        }
    }
}

/// What a record asks, or the errno of one that asks nothing; and its tag.
pub(crate) fn read_request(record: &Record) -> (u64, Result<Request, i32>) {
    let tag = Fields(record, 32).u64();
    (tag, try_read(record))
}

fn try_read(record: &Record) -> Result<Request, i32> {
    let mut fields = Fields(record, 0);
    let number = fields.u32();
    let known = OPERATIONS.iter().find(|(known, _)| *known == number);
    let (_, operation) = *known.ok_or(ENOPROTOOPT)?;
    let access = match fields.u32() {
        0 => Access::Set,
        1 => Access::Get,
        _ => return Err(EINVAL),
    };
    let mut request = Request::new(operation, access, 0);
    request.flags = fields.u32();
    request.version = fields.u32();
    request.fd = i32::from_ne_bytes(fields.next());
    [request.proto] = fields.next();
    let reserved: [u8; 3] = fields.next();
    request.cookie = fields.u64();
    request.tag = fields.u64();
    request.local = fields.endpoint()?;
    request.foreign = fields.endpoint()?;
    request.peer = fields.endpoint()?;
    let unused: [u8; 16] = fields.next();
    if reserved != [0; 3] || unused != [0; 16] {
        return Err(EINVAL);
    }
    Ok(request)
}

fn write_endpoint(out: &mut Vec<u8>, at: Option<SocketAddr>) {
    let Some(at) = at else {
        return out.extend([0; 24]);
    };
    let (family, scope, address) = match at {
        SocketAddr::V4(_) => (2_u16, 0, None),
        SocketAddr::V6(v6) => (10, v6.scope_id(), Some(v6.ip().octets())),
    };
    out.extend(family.to_ne_bytes());
    out.extend(at.port().to_ne_bytes());
    out.extend(scope.to_ne_bytes());
    match (address, at.ip()) {
        (None, IpAddr::V4(v4)) => out.extend([&v4.octets()[..], &[0; 12]].concat()),
        (address, _) => out.extend(address.unwrap_or_default()),
    }
}

fn record(bytes: Vec<u8>) -> Record {
    match bytes.try_into() {
        Ok(record) => record,
        Err(bytes) => panic!("a record of {} bytes", bytes.len()),
    }
}

/// The record of a request; the operation by its number, which need not be one.
pub(crate) fn write_request(number: u32, request: &Request) -> Record {
    let mut out = Vec::with_capacity(RECORD_BYTES);
    out.extend(number.to_ne_bytes());
    out.extend((request.access as u32).to_ne_bytes());
    out.extend(request.flags.to_ne_bytes());
    out.extend(request.version.to_ne_bytes());
    out.extend(request.fd.to_ne_bytes());
    out.extend([request.proto, 0, 0, 0]);
    out.extend(request.cookie.to_ne_bytes());
    out.extend(request.tag.to_ne_bytes());
    for at in [request.local, request.foreign, request.peer] {
        write_endpoint(&mut out, at);
    }
    out.extend([0; 16]);
    record(out)
}

/// The record of a reply.
pub(crate) fn write_reply(reply: &Reply) -> Record {
    let mut out = Vec::with_capacity(RECORD_BYTES);
    out.extend(reply.errno.to_ne_bytes());
    out.extend(reply.flags.to_ne_bytes());
    out.extend(reply.version.to_ne_bytes());
    out.extend([reply.proto, 0, 0, 0]);
    out.extend(reply.cookie.to_ne_bytes());
    out.extend(reply.tag.to_ne_bytes());
    for at in [reply.local, reply.foreign, reply.peer] {
        write_endpoint(&mut out, at);
    }
    out.extend([0; 24]);
    record(out)
}
