//! What proxies have registered: the two tables of TProxy, by local and by foreign endpoint,
//! over one set of entries. The control thread writes, workers read on first packets.
//!
//! Invariants: an endpoint with an exact peer is found before one without; a registration that
//! is being changed is found as it was, as it will be, or [`Lookup::Busy`], never missed: a
//! packet that misses would leave untranslated.

use wire::{Endpoint, Protocol};

use crate::entry::Entry;
use crate::index::{Index, Place};
use crate::key::{Direction, FlowKey, Hasher};
use crate::registration::{Registration, foreign_key, local_key};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, fence};

/// How often a reader looks again while the control thread is at work. A change takes some
/// hundred nanoseconds; a reader that still has no answer then has met a writer that sleeps.
const TRIES: u32 = if cfg!(loom) { 2 } else { 256 };
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
    /// How much steering diverts to the workers for registrations' sake.
    diverted: AtomicU64,
    /// Unused entries; whoever changes anything holds this lock.
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
            diverted: AtomicU64::new(0),
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

    /// Whether packets of any local endpoint come to the workers for registrations' sake. On a
    /// packet's way it costs one load.
    #[must_use]
    pub fn are_any(&self) -> bool {
        self.diverted.load(Ordering::Relaxed) != 0
    }

    /// Tells how many there are whose local endpoint is diverted: live ones, and those that
    /// have gone but for their flows.
    pub fn set_diverted(&self, count: usize) {
        self.diverted.store(count as u64, Ordering::Relaxed);
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
        drop(change);
        if put.is_err() {
            free.push(idx);
        }
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

    /// Is, until it is dropped, a change that comes to no end: readers answer
    /// [`Lookup::Busy`], writers wait. For tests of what is done then.
    #[cfg(feature = "hold")]
    pub fn hold(&self) -> Hold<'_> {
        let free = self.lock();
        Hold {
            _change: Change::begin(&self.changes),
            _free: free,
        }
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

/// A change that lasts; see [`Registrations::hold`].
#[cfg(feature = "hold")]
#[must_use = "readers go on as soon as it is dropped"]
pub struct Hold<'a> {
    // Dropped in this order: a change ends under the lock.
    _change: Change<'a>,
    _free: MutexGuard<'a, Vec<u32>>,
}

/// A change under way: readers do not believe a miss until it is dropped.
struct Change<'a>(&'a AtomicU64);

impl<'a> Change<'a> {
    /// The caller holds the writer lock until the change is dropped.
    fn begin(changes: &'a AtomicU64) -> Self {
        let change = Self(changes);
        change.step(Ordering::Relaxed);
        fence(Ordering::Release);
        change
    }

    /// Goes from rest to work or back.
    fn step(&self, order: Ordering) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(1), order);
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.step(Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::owners::OwnerId;
    use crate::registration::Uses;
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
                owner: OwnerId(1),
            };
            let new = Registration {
                foreign: Endpoint::new([192, 0, 2, 2].into(), 8),
                owner: OwnerId(2),
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
