//! Which names are taken: cookies, local endpoints, foreign endpoints, pairs of a foreign
//! endpoint and a peer. Only registrations whose socket lives hold any.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use tables::OwnerId;
use wire::{Endpoint, Protocol};

use crate::entry::Entry;
use crate::ports::Ports;
use crate::refusal::Refusal;
use crate::terms::{Terms, flags};
use crate::users::Users;

/// Which names are taken.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_cookie: HashMap<u64, OwnerId>,
    by_local: HashMap<(Protocol, Endpoint, Option<Endpoint>), OwnerId>,
    /// How many have this foreign endpoint.
    by_foreign: HashMap<(Protocol, Endpoint), u32>,
    /// The same, without how many.
    ports: Ports,
    users: Users,
    /// By foreign endpoint and peer.
    by_pair: HashMap<(Protocol, Endpoint, Endpoint), OwnerId>,
}

impl Names {
    pub(crate) fn len(&self) -> usize {
        self.by_cookie.len()
    }

    pub(crate) fn of_cookie(&self, cookie: u64) -> Option<OwnerId> {
        self.by_cookie.get(&cookie).copied()
    }

    /// Whether any registration has this foreign endpoint.
    pub(crate) fn is_held(&self, proto: Protocol, foreign: Endpoint) -> bool {
        self.by_foreign.contains_key(&(proto, foreign))
    }

    /// The ports in `range` that no registration has of this foreign address, from a place on
    /// that `start` tells.
    pub(crate) fn free_ports(
        &self,
        proto: Protocol,
        addr: Ipv4Addr,
        range: &RangeInclusive<u16>,
        start: u32,
    ) -> impl Iterator<Item = u16> {
        self.ports.free(proto, addr, range, start)
    }

    /// Whether this user may have one more in a table of this capacity.
    pub(crate) fn has_room(&self, uid: u32, capacity: usize) -> bool {
        self.users.has_room(uid, capacity)
    }

    /// Whether others than `own` have the names that these terms need.
    pub(crate) fn check(
        &self,
        own: Option<OwnerId>,
        proto: Protocol,
        local: Endpoint,
        terms: &Terms,
    ) -> Result<(), Refusal> {
        let is_others = |holder: Option<&OwnerId>| holder.is_some_and(|&owner| Some(owner) != own);
        if is_others(self.by_local.get(&(proto, local, terms.peer))) {
            return Err(Refusal::LocalTaken);
        }
        let Some((foreign, peer)) = terms.pair() else {
            return Ok(());
        };
        if !is_others(self.by_pair.get(&(proto, foreign, peer))) {
            Ok(())
        } else if terms.has(flags::CONNECT | flags::ESTABLISHED) {
            Err(Refusal::ForeignTaken)
        } else {
            Err(Refusal::ListenTaken)
        }
    }

    pub(crate) fn insert(&mut self, owner: OwnerId, entry: &Entry) {
        let Entry {
            proto,
            local,
            terms,
            ..
        } = *entry;
        self.by_cookie.insert(entry.cookie, owner);
        self.by_local.insert((proto, local, terms.peer), owner);
        self.users.add(entry.client.uid);
        if terms.is_fixed() {
            *self.by_foreign.entry((proto, terms.foreign)).or_insert(0) += 1;
            self.ports.add(proto, terms.foreign);
        }
        if let Some((foreign, peer)) = terms.pair() {
            self.by_pair.insert((proto, foreign, peer), owner);
        }
    }

    pub(crate) fn remove(&mut self, entry: &Entry) {
        let Entry {
            proto,
            local,
            terms,
            ..
        } = *entry;
        self.by_cookie.remove(&entry.cookie);
        self.users.remove(entry.client.uid);
        self.by_local.remove(&(proto, local, terms.peer));
        if let Some((foreign, peer)) = terms.pair() {
            self.by_pair.remove(&(proto, foreign, peer));
        }
        if terms.is_fixed()
            && let Some(holders) = self.by_foreign.get_mut(&(proto, terms.foreign))
        {
            *holders -= 1;
            if *holders == 0 {
                self.by_foreign.remove(&(proto, terms.foreign));
                self.ports.remove(proto, terms.foreign);
            }
        }
    }

    /// The sockets that are not alive.
    pub(crate) fn not_among(&self, is_alive: impl Fn(u64) -> bool) -> impl Iterator<Item = u64> {
        let cookies = self.by_cookie.keys().copied();
        cookies.filter(move |cookie| !is_alive(*cookie))
    }
}
