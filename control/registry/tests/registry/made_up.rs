//! A made-up box: what is diverted, watched and alive is written down.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard};

use registry::{AliveSocket, News, Way, World};
use tables::{Lookup, Registrations};
use wire::{Endpoint, Protocol};

use crate::lab::{MANAGED, OWN, at, end};

/// What is so on the made-up box.
#[derive(Default)]
pub struct State {
    pub diverted: BTreeMap<(Protocol, Endpoint, Way), u32>,
    /// Watched sockets, and whether they show foreign addresses.
    pub watched: BTreeMap<u64, bool>,
    pub news: Vec<u64>,
    pub is_news_lost: bool,
    pub alive: HashMap<u64, AliveSocket>,
    pub refuses_divert: Option<Way>,
    pub refuses_watch: bool,
    pub refuses_news: bool,
    pub refuses_alive: bool,
    /// Open sockets say nothing by themselves.
    pub are_mute: bool,
    pub dumps: usize,
    /// What the registry did, and what a worker would have found at that moment.
    pub log: Vec<String>,
}

pub struct MadeUp {
    pub state: Arc<Mutex<State>>,
    pub table: Arc<Registrations>,
}

impl MadeUp {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Whether a worker finds a registration that changes packets from here, or to here.
    fn is_found(&self, proto: Protocol, to: Endpoint) -> bool {
        let anybody = end(at("198.51.100.99:9"));
        let found = [
            self.table.owner(proto, to, anybody),
            self.table.reached(proto, anybody, to),
        ];
        found
            .iter()
            .any(|found| matches!(found, Lookup::Found(one) if one.uses.0 & 7 != 0))
    }
}

impl World for MadeUp {
    fn divert(&mut self, proto: Protocol, at: Endpoint, way: Way) -> io::Result<()> {
        let found = self.is_found(proto, at);
        assert!(self.table.are_any(), "workers must expect answers");
        let mut state = self.state();
        if state.refuses_divert == Some(way) {
            return Err(io::Error::other("no room"));
        }
        *state.diverted.entry((proto, at, way)).or_insert(0) += 1;
        state.log.push(format!("divert {at} {way:?} found {found}"));
        Ok(())
    }

    fn release(&mut self, proto: Protocol, at: Endpoint, way: Way) {
        let found = self.is_found(proto, at);
        let mut state = self.state();
        let users = state.diverted.get_mut(&(proto, at, way)).expect("diverted");
        *users -= 1;
        if *users == 0 {
            state.diverted.remove(&(proto, at, way));
        }
        state
            .log
            .push(format!("release {at} {way:?} found {found}"));
    }

    fn watch(&mut self, cookie: u64, shows: bool) -> io::Result<()> {
        let mut state = self.state();
        if state.refuses_watch {
            return Err(io::Error::other("no room"));
        }
        let before = state.watched.insert(cookie, shows);
        assert_ne!(before, Some(shows), "watched once");
        state.log.push(format!("watch {cookie} {shows}"));
        Ok(())
    }

    fn forget(&mut self, cookie: u64) {
        let mut state = self.state();
        assert!(state.watched.remove(&cookie).is_some(), "was watched");
        state.log.push(format!("forget {cookie}"));
    }

    fn closed(&mut self, gone: &mut Vec<u64>, most: usize) -> io::Result<News> {
        let mut state = self.state();
        if state.refuses_news {
            return Err(io::Error::other("broken"));
        }
        let some = state.news.len().min(most);
        gone.extend(state.news.drain(..some));
        Ok(News {
            lost: std::mem::take(&mut state.is_news_lost),
            more: !state.news.is_empty(),
        })
    }

    fn alive(&mut self) -> io::Result<HashMap<u64, AliveSocket>> {
        let mut state = self.state();
        state.dumps += 1;
        state.log.push("alive".to_owned());
        if state.refuses_alive {
            return Err(io::Error::other("broken"));
        }
        Ok(state.alive.clone())
    }

    fn in_use(&mut self) -> io::Result<HashSet<(u8, SocketAddrV4)>> {
        if self.state().are_mute {
            return Ok(HashSet::new());
        }
        let alive = self.alive()?;
        Ok(alive.values().map(|one| (one.proto, one.local)).collect())
    }

    fn is_own(&self, addr: Ipv4Addr) -> bool {
        OWN.contains(&addr)
    }

    fn is_management(&self, proto: Protocol, port: u16) -> bool {
        proto == Protocol::TCP && port == MANAGED
    }
}
