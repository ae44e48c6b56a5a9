//! A box without steering: every packet passes, closed sockets are looked for.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::Ipv4Addr;

use registry::{AliveSocket, News, Way, World};
use wire::{Endpoint, Protocol};

/// A box that has all addresses of 10.0.0.0/8.
#[derive(Default)]
pub struct FlatWorld {
    watched: HashSet<u64>,
}

impl World for FlatWorld {
    fn divert(&mut self, _: Protocol, _: Endpoint, _: Way) -> io::Result<()> {
        Ok(())
    }

    fn release(&mut self, _: Protocol, _: Endpoint, _: Way) {}

    fn watch(&mut self, cookie: u64, _: bool) -> io::Result<()> {
        self.watched.insert(cookie);
        Ok(())
    }

    fn forget(&mut self, cookie: u64) {
        self.watched.remove(&cookie);
    }

    fn closed(&mut self, gone: &mut Vec<u64>, most: usize) -> io::Result<News> {
        if !self.watched.is_empty() {
            let alive = self.alive()?;
            let is_gone = |cookie: &u64| !alive.contains_key(cookie);
            let closed = self.watched.iter().copied().filter(is_gone);
            gone.extend(closed.take(most));
        }
        Ok(News::default())
    }

    fn alive(&mut self) -> io::Result<HashMap<u64, AliveSocket>> {
        let told = |(cookie, alive): (u64, sockets::Alive)| {
            let sockets::Alive { proto, uid, local } = alive;
            (cookie, AliveSocket { proto, uid, local })
        };
        Ok(sockets::alive()?.into_iter().map(told).collect())
    }

    fn is_own(&self, addr: Ipv4Addr) -> bool {
        addr.octets()[0] == 10
    }

    fn is_management(&self, proto: Protocol, port: u16) -> bool {
        (proto, port) == (Protocol::TCP, 22)
    }
}
