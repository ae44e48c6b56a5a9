//! Sockets of proxies that register and go while frames pass.

use std::net::Ipv4Addr;

use tables::{FlowTable, OwnerId, Registration, RegistrationId, Registrations, Uses};
use wire::{Endpoint, Protocol};

use crate::batches::OWN;

/// Where a proxy listens.
pub(crate) const LISTENER: Endpoint = Endpoint::new(OWN[0], 50_021);
/// Where a proxy connects from.
pub(crate) const CALLER: Endpoint = Endpoint::new(OWN[1], 50_022);
const FOREIGN: Endpoint = Endpoint::new(Ipv4Addr::new(203, 0, 113, 5), 2121);
const CLIENT: Endpoint = Endpoint::new(Ipv4Addr::new(192, 168, 1, 10), 40_000);

/// What registered sockets show to others.
pub(crate) const SHOWN: [Endpoint; 2] = [FOREIGN, CLIENT];

/// The highest owner.
pub(crate) const OWNERS: u32 = 4;

const fn socket(
    proto: Protocol,
    local: Endpoint,
    foreign: Endpoint,
    uses: u32,
    owner: u32,
) -> Registration {
    Registration {
        proto,
        local,
        foreign,
        peer: None,
        uses: Uses(uses),
        owner: OwnerId(owner),
    }
}

/// A listener, one that takes datagrams one by one, one that connects as the client, and one
/// that answers datagrams as the listener.
const ALL: [Registration; OWNERS as usize] = [
    socket(Protocol::TCP, LISTENER, FOREIGN, Uses::LISTEN.0, 1),
    socket(
        Protocol::UDP,
        LISTENER,
        FOREIGN,
        Uses::LISTEN.0 | Uses::UNIDIR.0,
        2,
    ),
    socket(Protocol::TCP, CALLER, CLIENT, Uses::CONNECT.0, 3),
    socket(Protocol::UDP, CALLER, FOREIGN, Uses::CONNECT.0, 4),
];

/// Who is registered.
#[derive(Default)]
pub(crate) struct Sockets([Option<RegistrationId>; ALL.len()]);

impl Sockets {
    /// Registers all.
    pub(crate) fn open(flows: &FlowTable, table: &Registrations) -> Self {
        let mut sockets = Self::default();
        for nth in 0..ALL.len() {
            sockets.toggle(nth, flows, table);
        }
        sockets
    }

    /// Lets one go, or lets it come back once no flow of its earlier life is left.
    pub(crate) fn toggle(&mut self, nth: usize, flows: &FlowTable, table: &Registrations) {
        let nth = nth % ALL.len();
        let (Some(socket), Some(id)) = (ALL.get(nth), self.0.get_mut(nth)) else {
            return;
        };
        match id.take() {
            Some(id) => {
                assert_eq!(table.remove(id), Some(*socket));
                flows.withdraw(socket.owner);
            }
            None if flows.owned_by(socket.owner) == 0 => {
                flows.reinstate(socket.owner);
                match table.insert(socket) {
                    Ok(new) => *id = Some(new),
                    Err(error) => panic!("{socket:?}: {error:?}"),
                }
            }
            None => {}
        }
    }
}

/// Every flow is counted with its owner.
pub(crate) fn balance(flows: &FlowTable) {
    for owner in (1..=OWNERS).map(OwnerId) {
        let own = flows.iter().filter(|seen| seen.flow.owner == owner);
        assert_eq!(flows.owned_by(owner) as usize, own.count());
    }
}
