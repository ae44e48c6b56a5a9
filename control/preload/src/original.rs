//! `SO_ORIGINAL_DST`: where the peer of a connected socket wanted to go.

use std::net::SocketAddrV4;
use std::os::fd::RawFd;

use shm::{Access, Operation, Request};

use crate::facts::{self, Kind};
use crate::inside::Outcome;
use crate::{channel, memory, option};

/// The option's number.
pub const SO_ORIGINAL_DST: std::ffi::c_int = 80;

/// Length of `struct sockaddr_in`.
const ADDRESS: usize = 16;

/// `getsockopt`: all that the daemon does not know is the kernel's to answer.
pub fn get(fd: RawFd, at: usize, len_at: usize) -> Outcome {
    let Some(destination) = ask(fd, len_at) else {
        return Outcome::Pass;
    };
    let len = (ADDRESS as u32).to_ne_bytes();
    match memory::write(&[(at, &address(destination)), (len_at, &len)]) {
        Ok(()) => Outcome::Done,
        Err(errno) => errno.into(),
    }
}

fn ask(fd: RawFd, len_at: usize) -> Option<SocketAddrV4> {
    let room = i32::try_from(option::read_len(len_at).ok()?).ok()?;
    if usize::try_from(room).ok()? < ADDRESS {
        return None;
    }
    let Ok(Kind::Ip {
        transport: Some(_), ..
    }) = facts::kind(fd)
    else {
        return None;
    };
    facts::peer(fd).ok()?;
    let request = Request::new(Operation::OriginalDestination, Access::Get, fd);
    facts::v4(channel::call(&request).ok()?.foreign?)
}

/// A `struct sockaddr_in`.
pub fn address(of: SocketAddrV4) -> [u8; ADDRESS] {
    let mut bytes = [0; ADDRESS];
    bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&of.port().to_be_bytes());
    bytes[4..8].copy_from_slice(&of.ip().octets());
    bytes
}
