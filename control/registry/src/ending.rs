//! How registrations end: with their socket, and in the end with their flows.
//!
//! The kernel may have more to say in a TCP connection than its flow lives to hear: the flow was
//! killed, expired, or an earlier daemon's. So what has had connections stays diverted as a
//! *shadow* until no socket, be it one that nobody has open any more, has its local endpoint.

use std::net::SocketAddrV4;

use tables::OwnerId;
use wire::{Endpoint, Protocol};

use crate::entry::Entry;
use crate::registry::Registry;

/// Orphans looked at in one go: a hundred microseconds or so.
const ORPHANS_AT_ONCE: usize = 16_384;
/// Registrations ended, or orphans let go, in one go: each takes some system calls.
const ENDED_AT_ONCE: usize = 256;
/// News taken in one go. That takes no system call.
const NEWS_AT_ONCE: usize = 16_384;
/// How often the kernel is asked about all sockets at most.
const RESYNC_EVERY_NS: u64 = 1_000_000_000;
/// How often the kernel is asked whether anybody still has a shadow's endpoint. A shadow stays
/// for at least half of that: packets may wait in a queue.
const SHADOWS_EVERY_NS: u64 = 5_000_000_000;

impl Registry {
    /// Ends a registration: nobody finds it any more. What its flows need goes with them.
    pub(crate) fn end(&mut self, owner: OwnerId, now_ns: u64) {
        let Some(entry) = self
            .entries
            .get_mut(owner.0 as usize)
            .and_then(Option::as_mut)
        else {
            return;
        };
        let Some(registration) = entry.registration.take() else {
            return;
        };
        self.table.remove(registration);
        self.flows.withdraw(owner);
        self.names.remove(entry);
        self.world.forget(entry.cookie);
        self.counts.ended += 1;
        if !self.flows.has_had(owner) && !entry.is_taken_over {
            self.finish(owner, now_ns);
            self.count_diverted(0);
            return;
        }
        entry.is_orphan = true;
        let written = self.store.write(owner, entry);
        self.counts.failures += u64::from(written.is_err());
        self.orphans.push(owner);
    }

    /// The last flow of an orphan has gone. What its sockets may still say is kept back; a
    /// datagram is said at once or known as a closed socket's.
    fn bereave(&mut self, owner: OwnerId, now_ns: u64) {
        let is_heard = |entry: &Entry| entry.proto == Protocol::TCP && entry.diverted.local;
        if self.entry(owner).is_some_and(is_heard) {
            self.shadows.push((owner, now_ns));
        } else {
            self.finish(owner, now_ns);
        }
    }

    /// Nothing is left of an ended registration.
    fn finish(&mut self, owner: OwnerId, now_ns: u64) {
        let place = self.entries.get_mut(owner.0 as usize);
        if let Some(entry) = place.and_then(Option::take) {
            let cleared = self.store.clear(owner);
            self.counts.failures += u64::from(cleared.is_err());
            self.release(&entry, entry.diverted);
            self.owners.put(owner, now_ns);
        }
    }

    /// Learns which sockets have closed. Whether there are more.
    pub(crate) fn learn(&mut self) -> bool {
        match self.world.closed(&mut self.gone, NEWS_AT_ONCE) {
            Ok(news) => {
                self.is_unsure |= news.lost;
                news.more
            }
            Err(_) => {
                self.counts.failures += 1;
                self.is_unsure = true;
                false
            }
        }
    }

    /// Ends the registrations of sockets that have closed, oldest news first. Whether there are
    /// more.
    pub(crate) fn bury(&mut self, now_ns: u64) -> bool {
        let some = self.gone.len().min(ENDED_AT_ONCE);
        let cookies: Vec<u64> = self.gone.drain(..some).collect();
        for cookie in cookies {
            self.end_closed(cookie, now_ns);
        }
        !self.gone.is_empty()
    }

    fn end_closed(&mut self, cookie: u64, now_ns: u64) {
        if let Some(owner) = self.names.of_cookie(cookie) {
            self.end(owner, now_ns);
        }
    }

    /// Asks the kernel about all sockets, since news of some were lost; unless it has just been
    /// asked.
    pub(crate) fn resync(&mut self, now_ns: u64) {
        if now_ns < self.resync_due_ns {
            return;
        }
        self.resync_due_ns = now_ns.saturating_add(RESYNC_EVERY_NS);
        self.counts.resyncs += 1;
        let Ok(alive) = self.world.alive() else {
            self.counts.failures += 1;
            return;
        };
        self.is_unsure = false;
        let gone = self.names.not_among(|cookie| alive.contains_key(&cookie));
        self.gone.extend(gone);
    }

    /// Ends what has closed without the registry having noticed: at least what holds one of
    /// these endpoints, local and foreign. Whether anything had.
    pub(crate) fn catch_up(&mut self, proto: Protocol, held: [Endpoint; 2], now_ns: u64) -> bool {
        let before = self.counts.ended;
        let was_sure = !self.is_unsure;
        self.learn();
        // While the kernel does not answer, only upkeep asks it again.
        if was_sure && self.is_unsure {
            self.resync(now_ns);
        }
        let is_in_the_way = |cookie: &u64| {
            let owner = self.names.of_cookie(*cookie);
            let entry = owner.and_then(|owner| self.entry(owner));
            entry.is_some_and(|entry| {
                entry.proto == proto
                    && (entry.local == held[0]
                        || entry.terms.is_fixed() && entry.terms.foreign == held[1])
            })
        };
        let found = self.gone.iter().copied().filter(is_in_the_way);
        let found: Vec<u64> = found.take(ENDED_AT_ONCE).collect();
        for cookie in found {
            self.end_closed(cookie, now_ns);
        }
        self.bury(now_ns);
        self.counts.ended > before
    }

    /// Lets orphans go whose last flow has. Whether there may be more.
    pub(crate) fn sweep(&mut self, now_ns: u64) -> bool {
        let mut finished = 0;
        for _ in 0..self.orphans.len().min(ORPHANS_AT_ONCE) {
            if self.cursor >= self.orphans.len() {
                self.cursor = 0;
            }
            let Some(&owner) = self.orphans.get(self.cursor) else {
                break;
            };
            if self.flows.owned_by(owner) != 0 {
                self.cursor += 1;
                continue;
            }
            self.orphans.swap_remove(self.cursor);
            self.bereave(owner, now_ns);
            finished += 1;
            if finished == ENDED_AT_ONCE {
                break;
            }
        }
        self.count_diverted(0);
        finished == ENDED_AT_ONCE
    }

    /// Lets shadows go whose local endpoint no socket has any more.
    pub(crate) fn lift(&mut self, now_ns: u64) {
        if self.shadows.is_empty() || now_ns < self.shadows_due_ns {
            return;
        }
        self.shadows_due_ns = now_ns.saturating_add(SHADOWS_EVERY_NS);
        let Ok(used) = self.world.in_use() else {
            self.counts.failures += 1;
            return;
        };
        for (owner, since_ns) in std::mem::take(&mut self.shadows) {
            let is_used = self.entry(owner).is_some_and(|entry| {
                let local = SocketAddrV4::new(entry.local.addr, entry.local.port);
                used.contains(&(entry.proto.0, local))
            });
            if is_used || now_ns.saturating_sub(since_ns) < SHADOWS_EVERY_NS / 2 {
                self.shadows.push((owner, since_ns));
            } else {
                self.finish(owner, now_ns);
            }
        }
        self.count_diverted(0);
    }
}
