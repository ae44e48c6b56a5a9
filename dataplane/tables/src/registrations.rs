//! What proxies have registered: the two tables of TProxy, by local and by foreign endpoint,
//! over one set of entries. The control thread writes, workers read on first packets.
//!
//! Invariants: an endpoint with an exact peer is found before one without; a registration that
//! is being changed is found as it was, as it will be, or [`Lookup::Busy`], never missed: a
//! packet that misses would leave untranslated.

use wire::{Endpoint, Protocol, Tuple};

use crate::entry::{Entry, Record};
use crate::index::{Index, Place};
use crate::key::{Direction, FlowKey, Hasher, Side};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, fence};

/// How often a reader looks again while the control thread is at work. A change takes some
/// hundred nanoseconds; a reader that still has no answer then has met a writer that sleeps.
const TRIES: u32 = if cfg!(loom) { 2 } else { 256 };
/// Marks an entry in use, whatever its uses are.
const LIVE: u64 = 1 << 63;
/// No peer: no host has this address.
const NOBODY: Endpoint = Endpoint::new(std::net::Ipv4Addr::UNSPECIFIED, 0);

/// What a registration is for: the bits of TPROXY_FLAGS that decide about packets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Uses(pub u32);

impl Uses {
    /// `ITP_CONNECT`: connections from the local endpoint carry the foreign one.
    pub const CONNECT: Self = Self(1);
    /// `ITP_LISTEN`: connections to the foreign endpoint reach the local one.
    pub const LISTEN: Self = Self(2);
    /// `ITP_ESTABLISHED`: both, for a UDP socket that is connected to its peer.
    pub const ESTABLISHED: Self = Self(4);

    /// Whether any of `other`'s bits is set.
    #[must_use]
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The bits of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A local endpoint and the foreign one that stands for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Registration {
    /// The protocol.
    pub proto: Protocol,
    /// Where the proxy's socket is bound.
    pub local: Endpoint,
    /// What others see. Address 0.0.0.0: nothing, the socket is only marked. Port 0: chosen
    /// when the socket connects.
    pub foreign: Endpoint,
    /// The one host and port that this is about; none: everybody.
    pub peer: Option<Endpoint>,
    /// What it is for.
    pub uses: Uses,
}

impl Registration {
    fn by_local(&self) -> FlowKey {
        local_key(self.proto, self.local, self.peer)
    }

    fn by_foreign(&self) -> FlowKey {
        foreign_key(self.proto, self.foreign, self.peer)
    }

    /// Whether others can reach it by its foreign endpoint.
    const fn is_reached(&self) -> bool {
        self.uses.any(Uses::LISTEN.with(Uses::ESTABLISHED)) && self.foreign.port != 0
    }

    fn record(&self) -> Record<2> {
        Record {
            first: self.by_local(),
            second: self.by_foreign(),
            meta: LIVE | u64::from(self.uses.0),
            stamp: 0,
        }
    }

    fn of(record: &Record<2>) -> Self {
        let (by_local, by_foreign) = (record.first.tuple(), record.second.tuple());
        Self {
            proto: by_local.proto,
            local: by_local.src,
            foreign: by_foreign.dst,
            peer: (by_local.dst != NOBODY).then_some(by_local.dst),
            uses: Uses(record.meta as u32),
        }
    }
}

fn local_key(proto: Protocol, local: Endpoint, peer: Option<Endpoint>) -> FlowKey {
    let tuple = Tuple {
        proto,
        src: local,
        dst: peer.unwrap_or(NOBODY),
    };
    FlowKey::new(Side::Host, &tuple)
}

fn foreign_key(proto: Protocol, foreign: Endpoint, peer: Option<Endpoint>) -> FlowKey {
    let tuple = Tuple {
        proto,
        src: peer.unwrap_or(NOBODY),
        dst: foreign,
    };
    FlowKey::new(Side::Wire, &tuple)
}

/// Names a registration for good.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RegistrationId {
    idx: u32,
    version: u32,
}

/// Why a registration was not made or changed. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegisterError {
    /// Another one has this local endpoint and peer (EEXIST).
    LocalTaken,
    /// Another one is reached by this foreign endpoint and peer (EADDRINUSE).
    ForeignTaken,
    /// No room (ENOBUFS).
    Full,
    /// It has gone (ENOENT).
    Gone,
}

/// What a reader finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// A registration.
    Found(Registration),
    /// There is none.
    None,
    /// The control thread is at work and has not come to an end: not known.
    Busy,
}

/// All registrations of one address family.
pub struct Registrations {
    hasher: Hasher,
    index: Index,
    entries: Box<[Entry<2>]>,
    /// Odd while the control thread is at work: a miss means nothing then.
    changes: AtomicU64,
    free: Mutex<Vec<u32>>,
}

impl Registrations {
    /// A table for `capacity` registrations (at most 2^30); `seed` must be unpredictable.
    #[must_use]
    pub fn new(capacity: usize, seed: u64) -> Self {
        let capacity = capacity.clamp(1, 1 << 30);
        Self {
            hasher: Hasher::new(seed),
            index: Index::new(capacity),
            entries: std::iter::repeat_with(Entry::new).take(capacity).collect(),
            changes: AtomicU64::new(0),
            free: Mutex::new((0..capacity as u32).rev().collect()),
        }
    }

    /// Who is reached by a packet of `proto` from `from` to `to`.
    #[must_use]
    pub fn reached(&self, proto: Protocol, from: Endpoint, to: Endpoint) -> Lookup {
        let exact = foreign_key(proto, to, Some(from));
        self.find(&[exact, foreign_key(proto, to, None)], Direction::Reply)
    }

    /// Whose socket a packet of `proto` from `from` to `to` left.
    #[must_use]
    pub fn owner(&self, proto: Protocol, from: Endpoint, to: Endpoint) -> Lookup {
        let exact = local_key(proto, from, Some(to));
        self.find(&[exact, local_key(proto, from, None)], Direction::Original)
    }

    /// The first of `keys` that is there, in their order.
    fn find(&self, keys: &[FlowKey; 2], table: Direction) -> Lookup {
        for _ in 0..TRIES {
            let before = self.changes.load(Ordering::Acquire);
            let found = keys.iter().find_map(|key| self.get(key, table));
            fence(Ordering::Acquire);
            let is_still = before & 1 == 0 && self.changes.load(Ordering::Relaxed) == before;
            // Even a hit may be the second choice while the first is being written.
            match found {
                Some(registration) if is_still => return Lookup::Found(registration),
                None if is_still => return Lookup::None,
                Some(_) | None => std::hint::spin_loop(),
            }
        }
        Lookup::Busy
    }

    fn get(&self, key: &FlowKey, table: Direction) -> Option<Registration> {
        let places = self.index.candidates(self.hasher.hash(key));
        places
            .filter(|place| place.direction == table)
            .find_map(|place| {
                let (_, record) = self.entries[place.idx as usize].read()?;
                let own = match table {
                    Direction::Original => &record.first,
                    Direction::Reply => &record.second,
                };
                (own == key).then(|| Registration::of(&record))
            })
    }

    /// Registers.
    ///
    /// # Errors
    /// [`RegisterError`]; nothing has changed then.
    pub fn insert(&self, new: &Registration) -> Result<RegistrationId, RegisterError> {
        let mut free = self.lock();
        self.check(new, None)?;
        let idx = free.pop().ok_or(RegisterError::Full)?;
        let change = Change::begin(&self.changes);
        let put = self.put(idx, new);
        if put.is_err() {
            free.push(idx);
        }
        drop(change);
        put
    }

    /// Changes a registration in one step, to whatever extent.
    ///
    /// # Errors
    /// [`RegisterError`]; nothing has changed then.
    pub fn replace(
        &self,
        id: RegistrationId,
        new: &Registration,
    ) -> Result<RegistrationId, RegisterError> {
        let _free = self.lock();
        let old = self.read(id).ok_or(RegisterError::Gone)?;
        self.check(new, Some(id))?;
        let change = Change::begin(&self.changes);
        self.take(id.idx, &old);
        let put = self.put(id.idx, new).or_else(|error| {
            // Its slots were free a moment ago: what was there fits again.
            self.put(id.idx, &old).and(Err(error))
        });
        drop(change);
        put
    }

    /// Unregisters; `None` if it had gone already.
    pub fn remove(&self, id: RegistrationId) -> Option<Registration> {
        let mut free = self.lock();
        let old = self.read(id)?;
        let change = Change::begin(&self.changes);
        self.take(id.idx, &old);
        self.entries[id.idx as usize].write(None);
        drop(change);
        free.push(id.idx);
        Some(old)
    }

    /// Reads one registration; `None` if it has gone.
    #[must_use]
    pub fn read(&self, id: RegistrationId) -> Option<Registration> {
        let (version, record) = self.entries.get(id.idx as usize)?.read()?;
        (version == id.version).then(|| Registration::of(&record))
    }

    /// How many there are, and how many there can be.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let capacity = self.entries.len();
        (capacity - self.lock().len(), capacity)
    }

    /// Whether a registration clashes with one that is not `own`.
    fn check(&self, new: &Registration, own: Option<RegistrationId>) -> Result<(), RegisterError> {
        let clashes = |key: &FlowKey, table| {
            let places = self.index.candidates(self.hasher.hash(key));
            places
                .filter(|place| place.direction == table)
                .any(|place| {
                    own.is_none_or(|own| own.idx != place.idx)
                        && self.entries[place.idx as usize]
                            .read()
                            .is_some_and(|(_, record)| match table {
                                Direction::Original => record.first == *key,
                                Direction::Reply => record.second == *key,
                            })
                })
        };
        if clashes(&new.by_local(), Direction::Original) {
            Err(RegisterError::LocalTaken)
        } else if new.is_reached() && clashes(&new.by_foreign(), Direction::Reply) {
            Err(RegisterError::ForeignTaken)
        } else {
            Ok(())
        }
    }

    fn put(&self, idx: u32, new: &Registration) -> Result<RegistrationId, RegisterError> {
        let version = self.entries[idx as usize].write(Some(&new.record()));
        let mut done = Vec::with_capacity(2);
        for (hash, place) in self.places(idx, new) {
            if !self.index.put(hash, place) {
                for (hash, place) in done {
                    self.index.take(hash, place);
                }
                self.entries[idx as usize].write(None);
                return Err(RegisterError::Full);
            }
            done.push((hash, place));
        }
        Ok(RegistrationId { idx, version })
    }

    fn take(&self, idx: u32, old: &Registration) {
        for (hash, place) in self.places(idx, old) {
            self.index.take(hash, place);
        }
    }

    fn places(&self, idx: u32, of: &Registration) -> impl Iterator<Item = (u64, Place)> {
        let place = |key: FlowKey, direction| (self.hasher.hash(&key), Place { idx, direction });
        let reached = of
            .is_reached()
            .then(|| place(of.by_foreign(), Direction::Reply));
        [Some(place(of.by_local(), Direction::Original)), reached]
            .into_iter()
            .flatten()
    }

    /// A writer that panicked has changed at most its own entry.
    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.free
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A change under way: readers do not believe a miss until it is dropped.
struct Change<'a>(&'a AtomicU64);

impl<'a> Change<'a> {
    /// The caller holds the writer lock.
    fn begin(changes: &'a AtomicU64) -> Self {
        let now = changes.load(Ordering::Relaxed);
        changes.store(now.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        Self(changes)
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(1), Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// Fails without the fences around [`Change`] or in `find`, or if readers believe a miss
    /// during a change.
    #[test]
    fn a_registration_being_changed_is_never_missed() {
        let mut model = loom::model::Builder::new();
        // Every interleaving with up to this many preemptions; without a bound it takes minutes.
        model.preemption_bound = Some(2);
        model.check(|| {
            let table = Arc::new(Registrations::new(1, 1));
            let local = Endpoint::new([10, 0, 0, 1].into(), 5);
            let old = Registration {
                proto: Protocol::TCP,
                local,
                foreign: Endpoint::new([192, 0, 2, 1].into(), 7),
                peer: None,
                uses: Uses::CONNECT,
            };
            let new = Registration {
                foreign: Endpoint::new([192, 0, 2, 2].into(), 8),
                ..old
            };
            let id = table.insert(&old).unwrap();
            let writer = {
                let table = Arc::clone(&table);
                thread::spawn(move || table.replace(id, &new).unwrap())
            };
            let reader = thread::spawn(move || {
                let anybody = Endpoint::new([1, 1, 1, 1].into(), 1);
                let found = table.owner(Protocol::TCP, local, anybody);
                let whole = [Lookup::Found(old), Lookup::Found(new), Lookup::Busy];
                assert!(whole.contains(&found), "{found:?}");
            });
            writer.join().unwrap();
            reader.join().unwrap();
        });
    }
}
