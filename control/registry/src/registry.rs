//! The registry: what it holds.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use tables::{FlowTable, OwnerId, Registrations};

use crate::client::Grant;
use crate::counts::RegistryCounts;
use crate::entry::Entry;
use crate::names::Names;
use crate::owners::Owners;
use crate::store::Store;
use crate::world::World;

/// What a registry needs.
pub struct RegistryConfig {
    /// The flow table.
    pub flows: Arc<FlowTable>,
    /// Where the workers find registrations.
    pub table: Arc<Registrations>,
    /// Who may register what, besides root.
    pub grants: Vec<Grant>,
    /// Where ALLOC takes foreign ports from.
    pub ports: RangeInclusive<u16>,
    /// The runtime folder.
    pub dir: PathBuf,
    /// Nanoseconds of a monotonic clock.
    pub now_ns: u64,
}

/// What became of the registrations of an earlier daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Adopted {
    /// Their sockets live: taken over.
    pub kept: usize,
    /// Not taken over: no such socket any more, not granted any more, or the record was none.
    pub gone: usize,
}

/// All registrations.
pub struct Registry {
    pub(crate) world: Box<dyn World>,
    pub(crate) flows: Arc<FlowTable>,
    pub(crate) table: Arc<Registrations>,
    pub(crate) grants: Vec<Grant>,
    pub(crate) ports: RangeInclusive<u16>,
    pub(crate) store: Store,
    pub(crate) names: Names,
    pub(crate) owners: Owners,
    /// By owner id.
    pub(crate) entries: Vec<Option<Entry>>,
    pub(crate) orphans: Vec<OwnerId>,
    /// Orphans of an earlier daemon.
    pub(crate) shadows: Vec<(OwnerId, u64)>,
    /// When to look at them next.
    pub(crate) shadows_due_ns: u64,
    /// The orphan to look at next.
    pub(crate) cursor: usize,
    /// Sockets that have closed, and whose registrations have not ended yet.
    pub(crate) gone: Vec<u64>,
    /// News of closed sockets were lost, and not made up for yet.
    pub(crate) is_unsure: bool,
    /// When the kernel may be asked about all sockets again.
    pub(crate) resync_due_ns: u64,
    pub(crate) counts: RegistryCounts,
}

impl Registry {
    pub(crate) fn new(config: RegistryConfig, store: Store, world: Box<dyn World>) -> Self {
        Self {
            world,
            owners: Owners::new(),
            flows: config.flows,
            table: config.table,
            grants: config.grants,
            ports: config.ports,
            store,
            names: Names::default(),
            entries: Vec::new(),
            orphans: Vec::new(),
            shadows: Vec::new(),
            shadows_due_ns: 0,
            cursor: 0,
            gone: Vec::new(),
            is_unsure: false,
            resync_due_ns: 0,
            counts: RegistryCounts::default(),
        }
    }

    /// Handles closed sockets and lets orphans go. To be called some ten times a second. It
    /// takes a millisecond or so; `true`: there is more to do, and the caller lets others have
    /// the registry and calls again.
    pub fn upkeep(&mut self, now_ns: u64) -> bool {
        let has_news = self.learn();
        if self.is_unsure {
            self.resync(now_ns);
        }
        let has_gone = self.bury(now_ns);
        let has_orphans = self.sweep(now_ns);
        self.lift(now_ns);
        has_news || has_gone || has_orphans
    }

    /// Who may register what, besides root.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// How much there is, and what has happened.
    #[must_use]
    pub fn counts(&self) -> RegistryCounts {
        RegistryCounts {
            live: self.names.len() as u64,
            orphaned: self.orphaned() as u64,
            capacity: self.table.counts().1 as u64,
            ..self.counts
        }
    }

    fn orphaned(&self) -> usize {
        self.orphans.len() + self.shadows.len()
    }

    /// Tells the workers how many there are with endpoints that may be diverted, and `besides`
    /// that are about to be.
    pub(crate) fn count_diverted(&self, besides: usize) {
        let count = self.names.len() + self.orphaned() + besides;
        self.table.set_diverted(count);
    }

    pub(crate) fn entry(&self, owner: OwnerId) -> Option<&Entry> {
        self.entries.get(owner.0 as usize)?.as_ref()
    }

    /// Every registration, orphans too.
    pub(crate) fn each(&self) -> impl Iterator<Item = (OwnerId, &Entry)> {
        let numbered = (0..).map(OwnerId).zip(&self.entries);
        numbered.filter_map(|(owner, entry)| Some((owner, entry.as_ref()?)))
    }
}
