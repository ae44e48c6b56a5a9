//! Watched sockets by cookie, as the ports' programs see them.
//!
//! Invariant: a watched socket that closes is in `ended` before it leaves `watched`.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, Object};

use crate::Error;
use crate::object::Blueprint;

pub(crate) const SENDER_BYTES: usize = 4;
/// Packets wait for ARP for some seconds, so the closed sockets of so long are to be known.
/// All places are allocated at once, 64 bytes each.
const ENDED: std::ops::RangeInclusive<u32> = 1 << 12..=1 << 18;

/// The maps behind [`crate::SocketWatch`], for [`crate::PortProgram::load`].
#[derive(Clone, Debug)]
pub struct SocketMaps {
    watched: Arc<MapHandle>,
    ended: Arc<MapHandle>,
}

/// How many closed sockets are known, of so many that may be watched.
pub(crate) fn ended_of(most: u32) -> u32 {
    most.clamp(*ENDED.start(), *ENDED.end())
}

impl SocketMaps {
    pub(crate) fn of(blueprint: &'static Blueprint, object: &Object) -> Result<Self, Error> {
        Ok(Self {
            watched: Arc::new(blueprint.map(object, "watched", SENDER_BYTES)?),
            ended: Arc::new(blueprint.map(object, "ended", SENDER_BYTES)?),
        })
    }

    pub(crate) fn watched(&self) -> BorrowedFd<'_> {
        self.watched.as_fd()
    }

    pub(crate) fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// How many may be watched.
    pub(crate) fn most(&self) -> u32 {
        self.watched.max_entries()
    }

    /// Puts a cookie in, or changes what is said of it. Ok(true): it is new.
    pub(crate) fn put(&self, cookie: u64, shows: bool) -> Result<bool, libbpf_rs::Error> {
        let (key, value) = (cookie.to_ne_bytes(), u32::from(shows).to_ne_bytes());
        match self.watched.update(&key, &value, MapFlags::NO_EXIST) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        // One that closes meanwhile must not come back: nobody would take it out again.
        match self.watched.update(&key, &value, MapFlags::EXIST) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(false),
        }
    }

    /// Ok(true): it was there.
    pub(crate) fn take(&self, cookie: u64) -> Result<bool, libbpf_rs::Error> {
        match self.watched.delete(&cookie.to_ne_bytes()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a socket has been closed while it was watched, as far as is still known.
    pub(crate) fn has_ended(&self, cookie: u64) -> Result<bool, libbpf_rs::Error> {
        let ended = self.ended.lookup(&cookie.to_ne_bytes(), MapFlags::ANY)?;
        Ok(ended.is_some())
    }
}
