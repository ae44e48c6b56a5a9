//! Which sockets want the original addresses with their datagrams (`IP_RECVORIGADDRS`).
//!
//! Invariants: a wish belongs to the socket, by its cookie: every descriptor of it has it
//! (dup, fork), and a number that is used again does not. No lock. There are at most twice as many
//! as the process has sockets, or `FLOOR`.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;

use crate::facts;

/// Changing a shard copies it, so there are many.
const SHARDS: usize = 256;

/// Below as many, nobody looks for sockets that are gone.
const FLOOR: usize = 4096;

/// Above this number no descriptor is looked for.
const HIGHEST: u64 = 1 << 20;

static WISHES: [ArcSwapOption<Vec<u64>>; SHARDS] = [const { ArcSwapOption::const_empty() }; SHARDS];

/// About how many.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// At how many to look next for those that are gone.
static LIMIT: AtomicUsize = AtomicUsize::new(FLOOR);

/// Whether there is any.
#[inline]
pub fn any() -> bool {
    COUNT.load(Ordering::Relaxed) != 0
}

/// The cookie of this descriptor's socket, if it wants them.
pub fn holds(fd: RawFd) -> Option<u64> {
    if !any() {
        return None;
    }
    let cookie = facts::cookie(fd).ok()?;
    let shard = shard(cookie).load();
    shard.as_ref()?.contains(&cookie).then_some(cookie)
}

/// From now on.
pub fn remember(cookie: u64) {
    if COUNT.load(Ordering::Relaxed) >= LIMIT.load(Ordering::Relaxed) {
        sweep();
    }
    change(shard(cookie), |cookies| {
        if !cookies.contains(&cookie) {
            cookies.push(cookie);
        }
    });
}

/// No more.
pub fn forget(cookie: u64) {
    change(shard(cookie), |cookies| {
        cookies.retain(|held| *held != cookie)
    });
}

/// Lets go of sockets that the process has no descriptor of any more: most of those that wanted
/// it end without a word.
fn sweep() {
    let mut most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    most = Some(most.unwrap_or(HIGHEST).min(HIGHEST));
    let fds = 0..RawFd::try_from(most.unwrap_or(HIGHEST)).unwrap_or(0);
    let mut alive: Vec<u64> = fds.filter_map(|fd| facts::cookie(fd).ok()).collect();
    alive.sort_unstable();
    for shard in &WISHES {
        change(shard, |cookies| {
            cookies.retain(|held| alive.binary_search(held).is_ok())
        });
    }
    let kept = COUNT.load(Ordering::Relaxed);
    LIMIT.store(FLOOR.max(kept * 2), Ordering::Relaxed);
}

fn shard(cookie: u64) -> &'static ArcSwapOption<Vec<u64>> {
    &WISHES[(cookie % SHARDS as u64) as usize]
}

/// Puts a changed copy in the place of a shard.
fn change(shard: &ArcSwapOption<Vec<u64>>, edit: impl Fn(&mut Vec<u64>)) {
    let mut after = 0;
    let before = shard.rcu(|held| {
        let mut cookies = held.as_ref().map_or_else(Vec::new, |held| held.to_vec());
        edit(&mut cookies);
        after = cookies.len();
        (!cookies.is_empty()).then(|| Arc::new(cookies))
    });
    let before = before.map_or(0, |held| held.len());
    // Wraps round for fewer.
    COUNT.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
}
