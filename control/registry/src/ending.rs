//! How registrations end: with their socket, and in the end with their flows.
//!
//! Flows do not outlive a daemon, but what the kernel has to say in their connections does. So
//! what an earlier daemon's registrations diverted stays diverted as a *shadow*: an orphan
//! whose flows nobody knows, until no socket of its local endpoint is left.

use std::collections::HashSet;
use std::net::SocketAddrV4;

use tables::OwnerId;

use crate::registry::Registry;

/// Orphans looked at in one go: a hundred microseconds or so.
const ORPHANS_AT_ONCE: usize = 16_384;
/// How long the kernel may go on about a connection that its program has closed: by then it has
/// given up to repeat itself.
pub(crate) const SHADOWS_AT_LEAST_NS: u64 = 600_000_000_000;
/// How often it is asked whether anybody still has a shadow's endpoint.
const SHADOWS_EVERY_NS: u64 = 10_000_000_000;

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
        if self.flows.owned_by(owner) == 0 {
            self.finish(owner, now_ns);
            return;
        }
        entry.is_orphan = true;
        let written = self.store.write(owner, entry);
        self.counts.failures += u64::from(written.is_err());
        self.orphans.push(owner);
    }

    /// The last flow of an ended registration has gone.
    fn finish(&mut self, owner: OwnerId, now_ns: u64) {
        let place = self.entries.get_mut(owner.0 as usize);
        if let Some(entry) = place.and_then(Option::take) {
            let cleared = self.store.clear(owner);
            self.counts.failures += u64::from(cleared.is_err());
            self.release(&entry, entry.diverted);
            self.owners.put(owner, now_ns);
        }
    }

    /// Ends the registrations of closed sockets.
    pub(crate) fn drain(&mut self, now_ns: u64) {
        let mut gone = Vec::new();
        match self.world.closed(&mut gone) {
            Ok(was_lost) => self.is_unsure |= was_lost,
            Err(_) => {
                self.counts.failures += 1;
                self.is_unsure = true;
            }
        }
        for cookie in gone {
            if let Some(owner) = self.names.of_cookie(cookie) {
                self.end(owner, now_ns);
            }
        }
    }

    /// Asks the kernel about all sockets, since news of some were lost.
    pub(crate) fn resync(&mut self, now_ns: u64) {
        self.counts.resyncs += 1;
        let Ok(alive) = self.world.alive() else {
            self.counts.failures += 1;
            return;
        };
        self.is_unsure = false;
        for owner in self.names.not_among(|cookie| alive.contains_key(&cookie)) {
            self.end(owner, now_ns);
        }
    }

    /// Ends what has closed without the registry having noticed. Whether any had.
    pub(crate) fn catch_up(&mut self, now_ns: u64) -> bool {
        let before = self.counts.ended;
        let was_sure = !self.is_unsure;
        self.drain(now_ns);
        // While the kernel does not answer, only upkeep asks it again.
        if was_sure && self.is_unsure {
            self.resync(now_ns);
        }
        self.counts.ended > before
    }

    /// Lets orphans go whose last flow has.
    pub(crate) fn sweep(&mut self, now_ns: u64) {
        for _ in 0..self.orphans.len().min(ORPHANS_AT_ONCE) {
            if self.cursor >= self.orphans.len() {
                self.cursor = 0;
            }
            let Some(&owner) = self.orphans.get(self.cursor) else {
                break;
            };
            if self.flows.owned_by(owner) == 0 {
                self.orphans.swap_remove(self.cursor);
                self.finish(owner, now_ns);
            } else {
                self.cursor += 1;
            }
        }
    }

    /// Lets shadows go whose local endpoint no socket has any more.
    pub(crate) fn lift(&mut self, now_ns: u64) {
        if self.shadows.is_empty() || now_ns < self.shadows_due_ns {
            return;
        }
        self.shadows_due_ns = now_ns.saturating_add(SHADOWS_EVERY_NS);
        let Ok(alive) = self.world.alive() else {
            self.counts.failures += 1;
            return;
        };
        let used: HashSet<(u8, SocketAddrV4)> = alive
            .values()
            .map(|socket| (socket.proto, socket.local))
            .collect();
        for owner in std::mem::take(&mut self.shadows) {
            let is_used = self.entry(owner).is_some_and(|entry| {
                let local = SocketAddrV4::new(entry.local.addr, entry.local.port);
                used.contains(&(entry.proto.0, local))
            });
            if is_used {
                self.shadows.push(owner);
            } else {
                self.finish(owner, now_ns);
            }
        }
    }
}
