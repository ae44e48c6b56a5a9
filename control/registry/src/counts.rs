//! What people see of the registry.

use std::net::SocketAddrV4;

use tables::OwnerId;
use wire::{Endpoint, Protocol};

use crate::entry::Entry;
use crate::registry::Registry;
use crate::telling::shown_flags;

/// One registration, for people to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Names the owner of the flows.
    pub owner: u32,
    /// The protocol.
    pub proto: Protocol,
    /// Where the proxy's socket is bound.
    pub local: SocketAddrV4,
    /// What others see; 0.0.0.0:0 if the socket is only marked.
    pub foreign: SocketAddrV4,
    /// The one peer that it is about; none: everybody.
    pub peer: Option<SocketAddrV4>,
    /// The `ITP_` bits as a get of FLAGS tells them.
    pub flags: u32,
    /// Whether its socket has gone and only flows are left.
    pub is_orphan: bool,
    /// Live flows.
    pub flows: u32,
    /// Who registered it.
    pub pid: u32,
    /// As which user.
    pub uid: u32,
    /// The name of the program.
    pub command: String,
    /// How long ago.
    pub age_ns: u64,
}

/// How much there is, and what has happened since the registry was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RegistryCounts {
    /// Registrations whose socket lives.
    pub live: u64,
    /// Registrations whose socket has gone and whose flows have not.
    pub orphaned: u64,
    /// How many can live at once.
    pub capacity: u64,
    /// Registrations made, adopted ones included.
    pub made: u64,
    /// Registrations that ended, by UNASSIGN or with their socket.
    pub ended: u64,
    /// Operations refused.
    pub refused: u64,
    /// Registrations taken over from an earlier daemon.
    pub adopted: u64,
    /// Records of the file that were none.
    pub damaged: u64,
    /// Times that news of closed sockets were lost and all sockets were looked through.
    pub resyncs: u64,
    /// Times that the box or the file refused what cannot be refused: news of closed sockets,
    /// or the clearing of a record.
    pub failures: u64,
}

impl Registry {
    /// Every registration, orphans too.
    #[must_use]
    pub fn rows(&self, now_ns: u64) -> Vec<Row> {
        self.each()
            .map(|(owner, entry)| self.row(owner, entry, now_ns))
            .collect()
    }

    fn row(&self, owner: OwnerId, entry: &Entry, now_ns: u64) -> Row {
        let address = |at: Endpoint| SocketAddrV4::new(at.addr, at.port);
        let flows = self.flows.owned_by(owner);
        Row {
            owner: owner.0,
            proto: entry.proto,
            local: address(entry.local),
            foreign: address(entry.terms.foreign),
            peer: entry.terms.peer.map(address),
            flags: shown_flags(entry, self.flows.has_had(owner)),
            is_orphan: entry.is_orphan,
            flows,
            pid: entry.client.pid,
            uid: entry.client.uid,
            command: entry.client.command.clone(),
            age_ns: now_ns.saturating_sub(entry.created_ns),
        }
    }
}
