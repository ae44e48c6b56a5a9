//! Which sockets want the original addresses with their datagrams (`IP_RECVORIGADDRS`).
//!
//! Invariants: a wish belongs to the socket, by its cookie: every descriptor of it has it
//! (dup, fork), and a number that is used again does not. No lock. There are at most twice as many
//! as the process has sockets, or `FLOOR`.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Dir, Mode, OFlags, PROC_SUPER_MAGIC, fstatfs, openat};
use rustix::process::{Resource, getrlimit};

use crate::facts;

/// Changing a shard copies it, so there are many.
const SHARDS: usize = 256;

/// Below as many, nobody looks for sockets that are gone.
const FLOOR: usize = 4096;

/// Above this number no descriptor is looked for where there is no `/proc`.
const HIGHEST: u64 = 1 << 20;

/// So many numbers are asked about at once.
const PIECE: usize = 1024;

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
    let fds = listed().unwrap_or_else(probed);
    let cookies = fds.into_iter().filter_map(|fd| facts::cookie(fd).ok());
    let mut alive: Vec<u64> = cookies.collect();
    alive.sort_unstable();
    for shard in &WISHES {
        change(shard, |cookies| {
            cookies.retain(|held| alive.binary_search(held).is_ok())
        });
    }
    let kept = COUNT.load(Ordering::Relaxed);
    LIMIT.store(FLOOR.max(kept * 2), Ordering::Relaxed);
}

/// The descriptors of the process, as `/proc` has them.
pub(crate) fn listed() -> Option<Vec<RawFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(CWD, "/proc/self/fd", flags, Mode::empty()).ok()?;
    // Behind a new root there can be anything at this place.
    if fstatfs(&dir).ok()?.f_type != PROC_SUPER_MAGIC {
        return None;
    }
    let mut fds = Vec::new();
    for entry in Dir::new(dir).ok()? {
        let entry = entry.ok()?;
        let number = entry.file_name().to_str().ok();
        fds.extend(number.and_then(|number| number.parse::<RawFd>().ok()));
    }
    Some(fds)
}

/// The same by asking which numbers are open, many in one call: most are not.
pub(crate) fn probed() -> Vec<RawFd> {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(HIGHEST);
    let end = RawFd::try_from(most.min(HIGHEST)).unwrap_or(0);
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut open = Vec::new();
    for first in (0..end).step_by(PIECE) {
        let piece = first..end.min(first + PIECE as RawFd);
        // SAFETY: none is -1. That a number is not open is what the kernel is asked.
        let borrowed = piece.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
        let mut asked: Vec<PollFd<'_>> = borrowed
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty()))
            .collect();
        let is_told = poll(&mut asked, Some(&at_once)).is_ok();
        let is_open = |asked: &PollFd<'_>| !(is_told && asked.revents() == PollFlags::NVAL);
        let fds = (first..).zip(&asked);
        open.extend(fds.filter(|(_, asked)| is_open(asked)).map(|(fd, _)| fd));
    }
    open
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
