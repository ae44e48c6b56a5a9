//! Opening: what an earlier daemon registered and still lives is taken over.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddrV4;

use crate::entry::{Diverted, Entry};
use crate::error::Error;
use crate::refusal::Refusal;
use crate::registry::{Adopted, Registry, RegistryConfig};
use crate::store::{Left, Store};
use crate::world::{AliveSocket, World};

impl Registry {
    /// Opens the file `registrations` in the runtime folder and takes over what lives: each
    /// record is checked against the kernel and against the grants and rules of today. To be
    /// called before packets are let in.
    ///
    /// # Errors
    /// The file cannot be used, or the kernel does not say which sockets live.
    pub fn open(config: RegistryConfig, world: Box<dyn World>) -> Result<(Self, Adopted), Error> {
        let (store, left) = Store::open(&config.dir, &config.grants)?;
        let now_ns = config.now_ns;
        let mut registry = Self::new(config, store, world);
        let adopted = registry.adopt(left, now_ns)?;
        registry.store.commit()?;
        Ok((registry, adopted))
    }

    fn adopt(&mut self, left: Left, now_ns: u64) -> Result<Adopted, Error> {
        self.counts.damaged = left.damaged as u64;
        let ended = left.entries.iter().filter(|entry| entry.is_orphan).count();
        let records = left.damaged + left.entries.len() - ended;
        let mut seen = HashSet::new();
        // Watched first: what closes after the kernel was asked is told.
        let (watched, ended): (Vec<Entry>, Vec<Entry>) =
            left.entries.into_iter().partition(|entry| {
                !entry.is_orphan
                    && seen.insert(entry.cookie)
                    && (self.world)
                        .watch(entry.cookie, entry.terms.shows())
                        .is_ok()
            });
        for entry in ended {
            self.shadow(entry, now_ns)?;
        }
        let alive = self.world.alive().map_err(Error::World)?;
        let mut kept = 0;
        for entry in watched {
            let cookie = entry.cookie;
            match self.adopt_one(entry.clone(), &alive, now_ns) {
                Ok(()) => kept += 1,
                Err(_) => {
                    self.world.forget(cookie);
                    self.shadow(entry, now_ns)?;
                }
            }
        }
        self.counts.adopted = kept as u64;
        Ok(Adopted {
            kept,
            gone: records - kept,
        })
    }

    /// Keeps diverted what an ended registration diverted: connections that nobody knows may
    /// still go on there, and must not leave untranslated.
    fn shadow(&mut self, mut entry: Entry, now_ns: u64) -> Result<(), Error> {
        entry.diverted = entry.diverted.with(&entry.terms);
        if entry.diverted == Diverted::default() {
            return Ok(());
        }
        let refused = |_| {
            Error::World(io::Error::other(
                "no room for what an earlier start diverted: raise limits.registrations",
            ))
        };
        let owner = self.take_owner(now_ns).map_err(refused)?;
        self.flows.withdraw(owner);
        entry.is_orphan = true;
        self.count_diverted(1);
        self.divert(&entry, entry.diverted).map_err(refused)?;
        let written = self.store.write(owner, &entry);
        self.counts.failures += u64::from(written.is_err());
        self.keep(owner, entry);
        self.shadows.push((owner, now_ns));
        Ok(())
    }

    fn adopt_one(
        &mut self,
        entry: Entry,
        alive: &HashMap<u64, AliveSocket>,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        let wanted = AliveSocket {
            proto: entry.proto.0,
            uid: entry.socket_uid,
            local: SocketAddrV4::new(entry.local.addr, entry.local.port),
        };
        if alive.get(&entry.cookie) != Some(&wanted) {
            return Err(Refusal::NotFound);
        }
        self.is_allowed(&entry.client, &entry.terms)?;
        // Whether the box has the local address at this moment does not matter: it can come
        // back, and the socket is bound to it.
        if self.world.is_management(entry.proto, entry.local.port) {
            return Err(Refusal::Invalid);
        }
        let created_ns = entry.created_ns.min(now_ns);
        self.enter(
            Entry {
                created_ns,
                ..entry
            },
            now_ns,
        )
        .map(|_| ())
    }
}
