//! How registrations are made and changed: in whole or not at all.

use tables::{FlowKey, OwnerId, RegisterError, RegistrationId, Side};
use wire::{Endpoint, Tuple};

use crate::entry::{Diverted, Entry};
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::terms::Terms;
use crate::world::Way;

impl Registry {
    /// Makes a registration; its socket is watched from before anybody can find it.
    pub(crate) fn make(&mut self, entry: Entry, now_ns: u64) -> Result<OwnerId, Refusal> {
        let cookie = entry.cookie;
        self.check(None, &entry)?;
        let capacity = self.table.counts().1;
        if !self.names.has_room(entry.client.uid, capacity) {
            return Err(Refusal::NoRoom);
        }
        let watched = self.world.watch(cookie, entry.terms.shows());
        watched.map_err(|_| Refusal::NoRoom)?;
        let made = self.enter(entry, now_ns);
        if made.is_err() {
            self.world.forget(cookie);
        }
        made
    }

    /// Makes a registration whose socket is watched already.
    pub(crate) fn enter(&mut self, mut entry: Entry, now_ns: u64) -> Result<OwnerId, Refusal> {
        self.check(None, &entry)?;
        let owner = self.take_owner(now_ns)?;
        self.count_diverted(1);
        match self.publish(owner, None, &entry) {
            Ok((registration, diverted)) => {
                (entry.registration, entry.diverted) = (Some(registration), diverted);
                self.names.insert(owner, &entry);
                self.keep(owner, entry);
                self.counts.made += 1;
                Ok(owner)
            }
            Err(refusal) => {
                self.count_diverted(0);
                self.owners.put_back(owner);
                Err(refusal)
            }
        }
    }

    pub(crate) fn take_owner(&mut self, now_ns: u64) -> Result<OwnerId, Refusal> {
        let owner = self.owners.take(now_ns).ok_or(Refusal::NoRoom)?;
        if !self.flows.is_withdrawn(owner) {
            // Fresh. The flow table withdraws only those that it has room for.
            self.flows.withdraw(owner);
            if !self.flows.is_withdrawn(owner) {
                self.owners.limit_below(owner);
                return Err(Refusal::NoRoom);
            }
        }
        self.flows.reinstate(owner);
        Ok(owner)
    }

    /// Changes a registration's terms, all of them or none.
    pub(crate) fn change(&mut self, owner: OwnerId, terms: Terms) -> Result<(), Refusal> {
        let old = self.entry(owner).ok_or(Refusal::NotFound)?.clone();
        let mut new = Entry {
            terms,
            ..old.clone()
        };
        self.check(Some(owner), &new)?;
        let (registration, diverted) = self.show(owner, &old, &new)?;
        (new.registration, new.diverted) = (Some(registration), diverted);
        self.names.remove(&old);
        self.names.insert(owner, &new);
        self.keep(owner, new);
        Ok(())
    }

    /// Publishes a change; steering knows first whether the socket shows a foreign address.
    fn show(
        &mut self,
        owner: OwnerId,
        old: &Entry,
        new: &Entry,
    ) -> Result<(RegistrationId, Diverted), Refusal> {
        let (before, after) = (old.terms.shows(), new.terms.shows());
        if before == after {
            return self.publish(owner, Some(old), new);
        }
        let watched = self.world.watch(new.cookie, after);
        watched.map_err(|_| Refusal::NoRoom)?;
        self.publish(owner, Some(old), new).inspect_err(|_| {
            let undone = self.world.watch(old.cookie, before);
            self.counts.failures += u64::from(undone.is_err());
        })
    }

    pub(crate) fn keep(&mut self, owner: OwnerId, entry: Entry) {
        let idx = owner.0 as usize;
        if self.entries.len() <= idx {
            self.entries.resize_with(idx + 1, || None);
        }
        self.entries[idx] = Some(entry);
    }

    /// Whether the terms make sense and clash with nothing.
    pub(crate) fn check(&self, own: Option<OwnerId>, entry: &Entry) -> Result<(), Refusal> {
        let Entry {
            proto,
            local,
            terms,
            ..
        } = entry;
        terms.check(*proto, self.world.as_ref())?;
        self.names.check(own, *proto, *local, terms)?;
        let before = own.and_then(|owner| self.entry(owner)?.terms.outgoing());
        match terms.outgoing() {
            Some((foreign, peer)) if terms.outgoing() != before => {
                let tuple = Tuple {
                    proto: *proto,
                    src: peer,
                    dst: foreign,
                };
                let is_free = self.is_free(own, &tuple);
                is_free.then_some(()).ok_or(Refusal::ForeignTaken)
            }
            _ => Ok(()),
        }
    }

    /// Whether a connection of `own` can have answers with this tuple: no flow has it that
    /// the workers would not replace. A connection keeps it after its registration has ended.
    fn is_free(&self, own: Option<OwnerId>, tuple: &Tuple) -> bool {
        let Some(hit) = self.flows.lookup(&FlowKey::new(Side::Wire, tuple)) else {
            return true;
        };
        Some(hit.flow.owner) == own || self.flows.is_orphan(&hit.flow) || self.flows.is_over(&hit)
    }

    /// Diverts, writes down, and only then tells the workers; undoes all of it on failure.
    fn publish(
        &mut self,
        owner: OwnerId,
        old: Option<&Entry>,
        new: &Entry,
    ) -> Result<(RegistrationId, Diverted), Refusal> {
        let before = old.map_or_else(Diverted::default, |old| old.diverted);
        // One that is taken over keeps what it had, even if its terms do not need it any more.
        let diverted = new.diverted.with(&new.terms);
        let missing = diverted.without(before);
        let new = &Entry {
            diverted,
            ..new.clone()
        };
        self.divert(new, missing)?;
        match self.put_down(owner, old, new) {
            Ok(registration) => Ok((registration, diverted)),
            Err(refusal) => {
                self.release(new, missing);
                Err(refusal)
            }
        }
    }

    fn put_down(
        &mut self,
        owner: OwnerId,
        old: Option<&Entry>,
        new: &Entry,
    ) -> Result<RegistrationId, Refusal> {
        let published = new.published(owner);
        let put = match self.store.write(owner, new) {
            Ok(()) => match old.and_then(|old| old.registration) {
                Some(id) => self.table.replace(id, &published),
                None => self.table.insert(&published),
            }
            .map_err(Refusal::from),
            Err(_) => Err(Refusal::NoRoom),
        };
        if put.is_err() {
            let undone = match old {
                Some(old) => self.store.write(owner, old),
                None => self.store.clear(owner),
            };
            self.counts.failures += u64::from(undone.is_err());
        }
        put
    }

    pub(crate) fn divert(&mut self, entry: &Entry, what: Diverted) -> Result<(), Refusal> {
        let mut done: Vec<(Endpoint, Way)> = Vec::with_capacity(2);
        for (at, way) in endpoints(entry, what) {
            if self.world.divert(entry.proto, at, way).is_err() {
                for (at, way) in done {
                    self.world.release(entry.proto, at, way);
                }
                return Err(Refusal::NoRoom);
            }
            done.push((at, way));
        }
        Ok(())
    }

    pub(crate) fn release(&mut self, entry: &Entry, what: Diverted) {
        for (at, way) in endpoints(entry, what) {
            self.world.release(entry.proto, at, way);
        }
    }
}

/// The endpoints of an entry that `what` names, and how each is diverted.
fn endpoints(entry: &Entry, what: Diverted) -> impl Iterator<Item = (Endpoint, Way)> {
    let local = what.local.then_some((entry.local, Way::Both));
    let foreign = what.foreign.then_some((entry.terms.foreign, Way::Inbound));
    local.into_iter().chain(foreign)
}

impl From<RegisterError> for Refusal {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::LocalTaken => Self::LocalTaken,
            RegisterError::ForeignTaken => Self::ForeignTaken,
            RegisterError::Full => Self::NoRoom,
            RegisterError::Gone => Self::NotFound,
        }
    }
}
