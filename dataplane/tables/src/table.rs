//! The table: index, entries, and the lock of those who change it.

use std::collections::VecDeque;

use wire::{Protocol, TcpHeader};

use crate::answers::{Counts, FlowSnapshot, Hit, InsertError, NewFlow};
use crate::entry::Entry;
use crate::flow::{Flow, FlowId};
use crate::index::{Index, Place};
use crate::key::{Direction, FlowKey, Hasher, Side};
use crate::lane::{FlowState, Lane, Timeouts};
use crate::owners::{Change, OwnerId, Owners};
use crate::sync::{Mutex, MutexGuard};

/// How long an entry rests before another flow gets it: far longer than a batch takes, so
/// that a worker which found the old flow has finished counting on it.
const REST_NS: u64 = 100_000_000;
/// This part of the places is for flows that the box begins, so that no flood from the wire
/// keeps it from its own connections.
const RESERVE: usize = 16;

/// A place for a flow: a line of keys, and a line for what each direction has seen.
struct Cell<const K: usize> {
    entry: Entry<K>,
    orig_lane: Lane,
    reply_lane: Lane,
}

impl<const K: usize> Cell<K> {
    fn new() -> Self {
        Self {
            entry: Entry::new(),
            orig_lane: Lane::new(),
            reply_lane: Lane::new(),
        }
    }

    fn flow(&self) -> Option<(u32, Flow<K>)> {
        let (version, record) = self.entry.read()?;
        Some((version, Flow::of(&record)))
    }
}

/// What only the holder of the lock may see.
struct Ledger {
    /// Entries that were never used: all from here on.
    unused: u32,
    /// Entries given back, oldest first, with the time.
    resting: VecDeque<(u32, u64)>,
    live: usize,
}

/// The table of all flows of one address family.
pub struct FlowTable<const K: usize = 2> {
    hasher: Hasher,
    index: Index,
    cells: Box<[Cell<K>]>,
    owners: Owners,
    ledger: Mutex<Ledger>,
}

impl<const K: usize> FlowTable<K> {
    /// A table for `capacity` flows (fewer than 2^30) of the owners 1 to `owners`; `seed` keys the
    /// hash and must be unpredictable.
    #[must_use]
    pub fn new(capacity: usize, owners: u32, seed: u64) -> Self {
        let capacity = capacity.clamp(1, (1 << 30) - 1);
        Self {
            hasher: Hasher::new(seed),
            index: Index::new(capacity),
            cells: std::iter::repeat_with(Cell::new).take(capacity).collect(),
            owners: Owners::new(owners),
            ledger: Mutex::new(Ledger {
                unused: 0,
                resting: VecDeque::new(),
                live: 0,
            }),
        }
    }

    /// Finds the flow of a key.
    #[must_use]
    pub fn lookup(&self, key: &FlowKey<K>) -> Option<Hit<K>> {
        self.lookup_hashed(self.hasher.hash(key), key)
    }

    /// Finds the flows of many keys: `hits` gets one answer per key, in order.
    ///
    /// The keys are hashed before the first bucket is read, so that the bucket loads do
    /// not wait for one another. At most `hits.len()` keys are looked at.
    pub fn lookup_batch(&self, keys: &[Option<FlowKey<K>>], hits: &mut [Option<Hit<K>>]) {
        const CHUNK: usize = 32;
        for (keys, hits) in keys.chunks(CHUNK).zip(hits.chunks_mut(CHUNK)) {
            let mut hashes = [0; CHUNK];
            for (hash, key) in hashes.iter_mut().zip(keys) {
                *hash = key.as_ref().map_or(0, |key| self.hasher.hash(key));
            }
            for ((hit, key), hash) in hits.iter_mut().zip(keys).zip(hashes) {
                *hit = key.as_ref().and_then(|key| self.lookup_hashed(hash, key));
            }
        }
    }

    fn lookup_hashed(&self, hash: u64, key: &FlowKey<K>) -> Option<Hit<K>> {
        self.index
            .candidates(hash)
            .find_map(|Place { idx, direction }| {
                let (version, flow) = self.cells[idx as usize].flow()?;
                let own = match direction {
                    Direction::Original => &flow.orig,
                    Direction::Reply => &flow.reply,
                };
                (own == key).then_some(Hit {
                    id: FlowId { idx, version },
                    direction,
                    flow,
                })
            })
    }

    /// Makes a flow: both directions or none. The last sixteenth of the places is for flows
    /// that begin at the box.
    ///
    /// # Errors
    /// [`InsertError`] says what stands in the way; the table is as before.
    pub fn insert(&self, new: &NewFlow<K>, now_ns: u64) -> Result<Hit<K>, InsertError<K>> {
        self.make(new, now_ns, false)
    }

    /// Makes the flow of a connection that has long been going on: like [`Self::insert`], but
    /// it counts as open and as answered, though none of its packets was counted.
    ///
    /// # Errors
    /// As those of [`Self::insert`].
    pub fn adopt(&self, new: &NewFlow<K>, now_ns: u64) -> Result<Hit<K>, InsertError<K>> {
        self.make(new, now_ns, true)
    }

    fn make(
        &self,
        new: &NewFlow<K>,
        now_ns: u64,
        is_adopted: bool,
    ) -> Result<Hit<K>, InsertError<K>> {
        let mut ledger = self.lock();
        if let Some(hit) = self.lookup(&new.orig) {
            return Err(InsertError::Exists(hit));
        }
        if self.lookup(&new.reply).is_some() || new.orig == new.reply {
            return Err(InsertError::ReplyTaken);
        }
        if !self.owners.may_own(new.owner) {
            return Err(InsertError::OwnerGone);
        }
        let capacity = self.cells.len();
        let reserve = match new.orig.side() {
            Side::Host => 0,
            Side::Wire | Side::OneWay => capacity / RESERVE,
        };
        let idx = ledger
            .take(capacity, reserve, now_ns)
            .ok_or(InsertError::Full)?;
        let flow = Flow {
            orig: new.orig,
            reply: new.reply,
            kind: new.kind,
            generation: new.generation,
            owner: new.owner,
            created_ns: now_ns,
        };
        let cell = &self.cells[idx as usize];
        cell.orig_lane.clear();
        cell.reply_lane.clear();
        if is_adopted {
            cell.orig_lane.set_carried();
            cell.reply_lane.set_carried();
        }
        let version = cell.entry.write(Some(&flow.record()));
        let [orig, reply] = self.places(idx, &flow);
        if !self.index.put(orig.0, orig.1) {
            cell.entry.write(None);
            ledger.put(idx, now_ns);
            return Err(InsertError::Full);
        }
        if !self.index.put(reply.0, reply.1) {
            self.index.take(orig.0, orig.1);
            cell.entry.write(None);
            ledger.put(idx, now_ns);
            return Err(InsertError::Full);
        }
        self.owners.change(new.owner, Change::FlowMade);
        Ok(Hit {
            id: FlowId { idx, version },
            direction: Direction::Original,
            flow,
        })
    }

    /// Removes a flow, both directions at once; `None` if it had gone already.
    pub fn remove(&self, id: FlowId, now_ns: u64) -> Option<FlowSnapshot<K>> {
        let mut ledger = self.lock();
        let snapshot = self.snapshot(id)?;
        for (hash, place) in self.places(id.idx, &snapshot.flow) {
            self.index.take(hash, place);
        }
        self.cells[id.idx as usize].entry.write(None);
        self.owners.change(snapshot.flow.owner, Change::FlowGone);
        ledger.put(id.idx, now_ns);
        Some(snapshot)
    }

    fn places(&self, idx: u32, flow: &Flow<K>) -> [(u64, Place); 2] {
        [
            (&flow.orig, Direction::Original),
            (&flow.reply, Direction::Reply),
        ]
        .map(|(key, direction)| (self.hasher.hash(key), Place { idx, direction }))
    }

    /// Counts a packet of `bytes` bytes on the flow's direction, and follows TCP.
    pub fn record(&self, hit: &Hit<K>, now_ns: u64, bytes: u64, tcp: Option<&TcpHeader>) {
        let (own, other) = self.lanes(hit);
        own.count(now_ns, bytes);
        if let Some(header) = tcp {
            let side = match hit.direction {
                Direction::Original => hit.flow.orig.side(),
                Direction::Reply => hit.flow.reply.side(),
            };
            own.mark_tcp(other, header, side);
        }
    }

    /// The word that [`Self::set_judged`] has left with this direction of the flow; 0 if none.
    /// It goes with the flow.
    #[must_use]
    pub fn judged(&self, hit: &Hit<K>) -> u64 {
        self.lanes(hit).0.judged()
    }

    /// Leaves a word with this direction of the flow: what its caller has decided about it.
    ///
    /// Whoever stores last wins. A word that meant a flow which has gone meanwhile is cleared
    /// before its place is given to another, for a place rests longer than a batch takes.
    pub fn set_judged(&self, hit: &Hit<K>, word: u64) {
        self.lanes(hit).0.set_judged(word);
    }

    /// Whether a packet of the direction opposite to that of the hit has been carried. Adopted
    /// flows have had packets both ways.
    #[must_use]
    pub fn is_answered(&self, hit: &Hit<K>) -> bool {
        self.lanes(hit).1.has_carried()
    }

    /// Whether a packet of this direction has been carried.
    #[must_use]
    pub fn has_carried(&self, hit: &Hit<K>) -> bool {
        self.lanes(hit).0.has_carried()
    }

    fn lanes(&self, hit: &Hit<K>) -> (&Lane, &Lane) {
        let cell = &self.cells[hit.id.idx as usize];
        match hit.direction {
            Direction::Original => (&cell.orig_lane, &cell.reply_lane),
            Direction::Reply => (&cell.reply_lane, &cell.orig_lane),
        }
    }

    /// Reads one flow; `None` if it has gone.
    #[must_use]
    pub fn snapshot(&self, id: FlowId) -> Option<FlowSnapshot<K>> {
        self.snapshot_at(id.idx)
            .filter(|snapshot| snapshot.id == id)
    }

    fn snapshot_at(&self, idx: u32) -> Option<FlowSnapshot<K>> {
        let cell = self.cells.get(idx as usize)?;
        let (version, flow) = cell.flow()?;
        let (orig, reply) = (cell.orig_lane.read(), cell.reply_lane.read());
        let state = if flow.orig.proto() == Protocol::TCP {
            FlowState::of_tcp(&orig, &reply)
        } else {
            FlowState::of_other(&reply)
        };
        Some(FlowSnapshot {
            id: FlowId { idx, version },
            flow,
            state,
            orig,
            reply,
        })
    }

    /// Whether a SYN with this sequence number opens a new connection on the tuple of this
    /// flow: the old one is over, or never got further than a SYN with another number.
    #[must_use]
    pub fn is_reopened_by(&self, hit: &Hit<K>, isn: u32) -> bool {
        let Some(snapshot) = self.snapshot(hit.id) else {
            return true;
        };
        let lane = match hit.direction {
            Direction::Original => &snapshot.orig,
            Direction::Reply => &snapshot.reply,
        };
        match snapshot.state {
            FlowState::Closed | FlowState::Closing => lane.isn() != Some(isn),
            FlowState::SynSent => lane.isn().is_some_and(|seen| seen != isn),
            FlowState::SynReceived
            | FlowState::PickedUp
            | FlowState::Established
            | FlowState::HalfClosed
            | FlowState::Unreplied
            | FlowState::Replied => false,
        }
    }

    /// Whether a flow is at its end, or gone: nothing but the last acknowledgements is missing.
    #[must_use]
    pub fn is_over(&self, hit: &Hit<K>) -> bool {
        self.snapshot(hit.id)
            .is_none_or(|snapshot| matches!(snapshot.state, FlowState::Closed | FlowState::Closing))
    }

    /// Whether a flow is a handshake that nobody has answered, or gone.
    #[must_use]
    pub fn is_unanswered(&self, hit: &Hit<K>) -> bool {
        self.snapshot(hit.id)
            .is_none_or(|snapshot| snapshot.state == FlowState::SynSent)
    }

    /// Whether this direction of the flow began with a SYN of this sequence number.
    #[must_use]
    pub fn began_with(&self, hit: &Hit<K>, isn: u32) -> bool {
        self.lanes(hit).0.read().isn() == Some(isn)
    }

    /// How many flows live that belong to an owner.
    #[must_use]
    pub fn owned_by(&self, owner: OwnerId) -> u32 {
        self.owners.flows(owner)
    }

    /// Whether an owner has, or has had, a flow since its number was last given free.
    #[must_use]
    pub fn has_had(&self, owner: OwnerId) -> bool {
        self.owners.has_had(owner)
    }

    /// Takes an owner's leave to have new flows: none is made once this has returned. Its TCP
    /// flows live on until they end; all others count as gone, see [`Self::is_orphan`].
    pub fn withdraw(&self, owner: OwnerId) {
        let _ledger = self.lock();
        self.owners.change(owner, Change::Withdraw);
    }

    /// Gives a withdrawn owner's number free for another. Nothing happens while
    /// [`Self::owned_by`] is not 0.
    pub fn reinstate(&self, owner: OwnerId) {
        let _ledger = self.lock();
        self.owners.change(owner, Change::Reinstate);
    }

    /// Whether an owner has been withdrawn.
    #[must_use]
    pub fn is_withdrawn(&self, owner: OwnerId) -> bool {
        self.owners.is_withdrawn(owner)
    }

    /// Whether a flow counts as gone because its owner has been withdrawn. The end of a TCP
    /// flow shows in its packets; any other ends with its socket.
    #[must_use]
    pub fn is_orphan(&self, flow: &Flow<K>) -> bool {
        flow.owner != OwnerId::NOBODY
            && flow.orig.proto() != Protocol::TCP
            && self.is_withdrawn(flow.owner)
    }

    /// All flows, each read whole; flows made or removed meanwhile may or may not appear.
    pub fn iter(&self) -> impl Iterator<Item = FlowSnapshot<K>> + '_ {
        let used = self.lock().unused;
        (0..used).filter_map(|idx| self.snapshot_at(idx))
    }

    /// Looks at the next `budget` entries from `cursor` on and removes those whose time is
    /// over and orphans, telling `gone` of each. Returns how many went. `cursor` wraps by itself. From nine
    /// tenths full on, handshakes and what is not answered have less time.
    pub fn expire(
        &self,
        cursor: &mut u32,
        budget: u32,
        now_ns: u64,
        timeouts: &Timeouts,
        mut gone: impl FnMut(&FlowSnapshot<K>),
    ) -> usize {
        let (used, live) = {
            let ledger = self.lock();
            (ledger.unused, ledger.live)
        };
        let is_nearly_full = live * 10 >= self.cells.len() * 9;
        let timeouts = if is_nearly_full {
            timeouts.under_pressure()
        } else {
            *timeouts
        };
        let mut removed = 0;
        for _ in 0..budget.min(used) {
            if *cursor >= used {
                *cursor = 0;
            }
            let over = self
                .snapshot_at(*cursor)
                .filter(|s| s.expires_ns(&timeouts) <= now_ns || self.is_orphan(&s.flow));
            *cursor += 1;
            if let Some(snapshot) = over.and_then(|s| self.remove(s.id, now_ns)) {
                removed += 1;
                gone(&snapshot);
            }
        }
        removed
    }

    /// How full the table is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let ledger = self.lock();
        let capacity = self.cells.len();
        Counts {
            live: ledger.live,
            resting: ledger.resting.len(),
            free: capacity - ledger.unused as usize,
            capacity,
        }
    }

    /// A writer that panicked while holding the lock left the ledger whole: it is changed
    /// last, by single steps that cannot panic.
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Ledger {
    /// Takes a place, if more than `reserve` could be taken.
    fn take(&mut self, capacity: usize, reserve: usize, now_ns: u64) -> Option<u32> {
        let rested = |&(_, since): &(u32, u64)| now_ns.saturating_sub(since) >= REST_NS;
        // Those that have rested are the first ones.
        if let Some(wanted) = reserve.checked_sub(capacity - self.unused as usize)
            && !self.resting.get(wanted).is_some_and(rested)
        {
            return None;
        }
        let idx = if self.resting.front().is_some_and(rested) {
            self.resting.pop_front()?.0
        } else if (self.unused as usize) < capacity {
            self.unused += 1;
            self.unused - 1
        } else {
            return None;
        };
        self.live += 1;
        Some(idx)
    }

    fn put(&mut self, idx: u32, now_ns: u64) {
        self.live -= 1;
        self.resting.push_back((idx, now_ns));
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::flow::Kind;
    use loom::sync::Arc;
    use loom::thread;

    /// Fails if either asks or changes the owner without the lock.
    #[test]
    fn no_flow_is_made_once_its_owner_is_withdrawn() {
        loom::model(|| {
            let owner = OwnerId(1);
            let table = Arc::new(FlowTable::<1>::new(1, 1, 1));
            let control = {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    table.withdraw(owner);
                    table.owned_by(owner)
                })
            };
            let new = NewFlow {
                orig: FlowKey([1]),
                reply: FlowKey([2]),
                kind: Kind::Connect,
                generation: 1,
                owner,
            };
            let made = table.insert(&new, 1).is_ok();
            let seen = control.join().unwrap();
            assert_eq!(seen, u32::from(made));
            assert_eq!(table.owned_by(owner), seen);
            assert!(table.is_withdrawn(owner));
        });
    }
}
