//! Where datagrams of a source wanted to go: asked for once, and kept as long as the daemon says.
//!
//! Invariants: an answer is of one socket (by cookie) and one shown source; nobody waits for a
//! lock, which a fork could leave locked: who does not get it asks the daemon.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::os::fd::RawFd;
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

use shm::{Access, Operation, Request};

use crate::{channel, facts};

/// Where a datagram comes from and where it was meant to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Original {
    /// Its true source.
    pub source: SocketAddrV4,
    /// Where it was sent to.
    pub destination: SocketAddrV4,
}

/// Threads that read from one socket seldom meet in one shard.
const SHARDS: usize = 64;

/// Answers that a shard keeps.
const ROOM: usize = 512;

/// Socket and shown source.
type Key = (u64, SocketAddrV4);

/// One part of the cache.
#[derive(Debug, Default)]
pub struct Shard(BTreeMap<Key, (Original, Instant)>);

static ANSWERS: [Mutex<Shard>; SHARDS] = [const { Mutex::new(Shard(BTreeMap::new())) }; SHARDS];

/// What the daemon says of a datagram that came with this source. Nothing if it was sent to the
/// socket itself, or if there is no daemon.
pub fn of(fd: RawFd, cookie: u64, shown: SocketAddrV4) -> Option<Original> {
    let (key, now) = ((cookie, shown), Instant::now());
    let place = (cookie ^ u64::from(shown.ip().to_bits()) ^ u64::from(shown.port())) as usize;
    let shard = &ANSWERS[place % SHARDS];
    if let Some(kept) = with(shard, |shard| shard.get(key, now)) {
        return Some(kept);
    }
    let mut request = Request::new(Operation::OriginalDestination, Access::Get, fd);
    request.cookie = cookie;
    request.peer = Some(shown.into());
    let reply = channel::call(&request).ok()?;
    let original = Original {
        source: reply.peer.and_then(facts::v4)?,
        destination: reply.foreign.and_then(facts::v4)?,
    };
    // From before the question: not a moment longer than the daemon meant.
    let until = now + Duration::from_millis(reply.flags.into());
    with(shard, |shard| {
        shard.put(key, original, until, now);
        Some(())
    });
    Some(original)
}

fn with<T>(shard: &Mutex<Shard>, work: impl FnOnce(&mut Shard) -> Option<T>) -> Option<T> {
    match shard.try_lock() {
        Ok(mut shard) => work(&mut shard),
        Err(TryLockError::Poisoned(held)) => work(&mut held.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl Shard {
    /// An answer that still holds.
    pub fn get(&mut self, key: Key, now: Instant) -> Option<Original> {
        let (original, until) = *self.0.get(&key)?;
        if now < until {
            return Some(original);
        }
        self.0.remove(&key);
        None
    }

    /// Keeps one. A full shard forgets what holds no longer, or else everything.
    pub fn put(&mut self, key: Key, original: Original, until: Instant, now: Instant) {
        if until <= now {
            return;
        }
        if self.0.len() >= ROOM {
            self.0.retain(|_, (_, until)| now < *until);
        }
        if self.0.len() >= ROOM {
            self.0.clear();
        }
        self.0.insert(key, (original, until));
    }

    /// How many it keeps.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
