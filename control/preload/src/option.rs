//! `IP_TPROXY` and `IP_RECVORIGADDRS`: the options of TProxy 2.0.

use std::ffi::c_int;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::RawFd;

use rustix::io::Errno;
use shm::{Access, Operation, Reply, Request};

use crate::facts::{self, Kind, Transport};
use crate::inside::Outcome;
use crate::{channel, memory, wishes};

/// `struct in_tproxy`.
pub const IP_TPROXY: c_int = 11274;
/// An int: whether the original addresses come with each datagram. Also their control message.
pub const IP_RECVORIGADDRS: c_int = 11273;

/// Length of `struct in_tproxy`.
const FULL: usize = 12;
/// As much of it as there must be.
const LEAST: usize = 8;

/// A `struct in_tproxy` as it stands in memory: the operation, and the union of address and port
/// (as on the wire) with a version or flags (as the host has them). Clients leave what an
/// operation does not use as it happens to be.
#[derive(Clone, Copy, Debug)]
pub struct InTproxy([u8; FULL]);

impl InTproxy {
    /// From as many bytes as there are; those that are missing are zero.
    pub fn new(bytes: &[u8]) -> Self {
        let mut all = [0; FULL];
        let some = bytes.len().min(FULL);
        all[..some].copy_from_slice(&bytes[..some]);
        Self(all)
    }

    fn operation(&self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_ne_bytes([a, b, c, d])
    }

    fn number(&self) -> u32 {
        let [_, _, _, _, a, b, c, d, ..] = self.0;
        u32::from_ne_bytes([a, b, c, d])
    }

    fn endpoint(&self) -> SocketAddrV4 {
        let [_, _, _, _, a, b, c, d, e, f, ..] = self.0;
        SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([e, f]))
    }

    /// What it asks for about a socket.
    pub fn request(&self, access: Access, fd: RawFd) -> Result<Request, Errno> {
        let operation = Operation::try_from(self.operation()).map_err(|_| Errno::NOPROTOOPT)?;
        let mut request = Request::new(operation, access, fd);
        match (operation, access) {
            (Operation::Version, Access::Set) => request.version = self.number(),
            (Operation::Flags, Access::Set) => request.flags = self.number(),
            (Operation::Assign, Access::Set) => request.foreign = Some(self.endpoint().into()),
            (Operation::Connect, Access::Set) => request.peer = Some(self.endpoint().into()),
            (Operation::Unassign | Operation::Alloc, Access::Set)
            | (Operation::Version | Operation::Query | Operation::Flags, Access::Get) => {}
            // Those of the channel alone, too.
            _ => return Err(Errno::NOPROTOOPT),
        }
        Ok(request)
    }

    /// The same with what was asked for; what an answer has no use for is zero.
    pub fn answered(&self, operation: Operation, reply: &Reply) -> Result<[u8; FULL], Errno> {
        let mut bytes = self.0;
        bytes[4..].fill(0);
        match operation {
            Operation::Version => bytes[4..8].copy_from_slice(&reply.version.to_ne_bytes()),
            Operation::Flags => bytes[4..8].copy_from_slice(&reply.flags.to_ne_bytes()),
            _ => {
                let foreign = reply.foreign.and_then(facts::v4).ok_or(Errno::NOENT)?;
                bytes[4..8].copy_from_slice(&foreign.ip().octets());
                bytes[8..10].copy_from_slice(&foreign.port().to_be_bytes());
            }
        }
        Ok(bytes)
    }
}

/// `setsockopt`: the value is at `at`.
pub fn set(fd: RawFd, name: c_int, at: usize, len: u32) -> Outcome {
    let done = match transport(fd) {
        Ok(None) => return Outcome::Pass,
        Ok(Some(_)) if name == IP_TPROXY => set_tproxy(fd, at, len),
        Ok(Some(transport)) => set_wish(fd, transport, at, len),
        Err(errno) => Err(errno),
    };
    done.map_or_else(Outcome::from, |()| Outcome::Done)
}

/// `getsockopt`: the value is to go to `at`, its length is at `len_at`.
pub fn get(fd: RawFd, name: c_int, at: usize, len_at: usize) -> Outcome {
    let done = match transport(fd) {
        Ok(None) => return Outcome::Pass,
        Ok(Some(_)) if name == IP_TPROXY => get_tproxy(fd, at, len_at),
        Ok(Some(_)) => get_wish(fd, at, len_at),
        Err(errno) => Err(errno),
    };
    done.map_or_else(Outcome::from, |()| Outcome::Done)
}

/// Which transport; nothing if the kernel shall answer.
fn transport(fd: RawFd) -> Result<Option<Transport>, Errno> {
    match facts::kind(fd) {
        Ok(Kind::Ip { transport, .. }) => transport.map(Some).ok_or(Errno::INVAL),
        Ok(Kind::Other) | Err(_) => Ok(None),
    }
}

fn set_tproxy(fd: RawFd, at: usize, len: u32) -> Result<(), Errno> {
    let request = read_tproxy(at, length(len)?)?.request(Access::Set, fd)?;
    channel::call(&request).map(drop)
}

fn get_tproxy(fd: RawFd, at: usize, len_at: usize) -> Result<(), Errno> {
    let len = length(read_len(len_at)?)?;
    let asked = read_tproxy(at, len)?;
    let request = asked.request(Access::Get, fd)?;
    let reply = channel::call(&request)?;
    let bytes = asked.answered(request.operation, &reply)?;
    let len = len.min(FULL);
    memory::write(&[(at, &bytes[..len]), (len_at, &(len as u32).to_ne_bytes())])
}

/// A length that is long enough, and not negative as the kernel reads it.
fn length(len: u32) -> Result<usize, Errno> {
    let len = i32::try_from(len)
        .ok()
        .and_then(|len| usize::try_from(len).ok());
    len.filter(|len| *len >= LEAST).ok_or(Errno::INVAL)
}

fn read_tproxy(at: usize, len: usize) -> Result<InTproxy, Errno> {
    let mut bytes = [0; FULL];
    let some = &mut bytes[..len.min(FULL)];
    memory::read(at, some)?;
    Ok(InTproxy::new(some))
}

/// The length that a caller of `getsockopt` gives.
pub fn read_len(len_at: usize) -> Result<u32, Errno> {
    let mut len = [0; 4];
    memory::read(len_at, &mut len)?;
    Ok(u32::from_ne_bytes(len))
}

/// As for the kernel's own options of this kind: an int, or a byte if there is no more.
fn set_wish(fd: RawFd, transport: Transport, at: usize, len: u32) -> Result<(), Errno> {
    if transport != Transport::Udp || i32::try_from(len).is_err() {
        return Err(Errno::INVAL);
    }
    let mut value = [0; 4];
    let some = match len {
        0 => 0,
        1..4 => 1,
        _ => 4,
    };
    memory::read(at, &mut value[..some])?;
    if value == [0; 4] {
        wishes::forget(facts::cookie(fd)?);
        return Ok(());
    }
    if !channel::is_answered() {
        return Err(Errno::NOPROTOOPT);
    }
    wishes::remember(facts::cookie(fd)?);
    Ok(())
}

fn get_wish(fd: RawFd, at: usize, len_at: usize) -> Result<(), Errno> {
    let len = i32::try_from(read_len(len_at)?).map_err(|_| Errno::INVAL)?;
    if !wishes::any() && !channel::is_answered() {
        return Err(Errno::NOPROTOOPT);
    }
    let value = u32::from(wishes::holds(fd).is_some()).to_ne_bytes();
    let some = usize::try_from(len).unwrap_or(0).min(value.len());
    memory::write(&[(at, &value[..some]), (len_at, &(some as u32).to_ne_bytes())])
}
