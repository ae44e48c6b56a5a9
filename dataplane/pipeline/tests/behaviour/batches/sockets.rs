//! Sockets that register and go between batches.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use proptest::sample::select;
use tables::{OwnerId, Registration, RegistrationId, Uses};
use wire::Endpoint;

use crate::fixture::*;

pub fn uses() -> impl Strategy<Value = Uses> {
    select(vec![
        Uses::default(),
        Uses::CONNECT,
        Uses::LISTEN,
        Uses::CONNECT.with(Uses::LISTEN),
        Uses::ESTABLISHED,
        UNIDIR,
    ])
}

pub fn registrations() -> Vec<Registration> {
    let anonymous = Endpoint::new(FOREIGN.addr, 0);
    let nothing = Endpoint::new(Ipv4Addr::UNSPECIFIED, 0);
    let towards_server = Registration {
        foreign: anonymous,
        peer: Some(SERVER),
        ..caller()
    };
    let one_by_one = Registration {
        uses: UNIDIR,
        ..over_udp(listener())
    };
    vec![
        listener(),
        one_by_one,
        Registration {
            local: PROXY,
            foreign: SERVER,
            ..one_by_one
        },
        caller(),
        over_udp(caller()),
        towards_server,
        Registration {
            uses: Uses::ESTABLISHED,
            ..over_udp(towards_server)
        },
        Registration {
            foreign: nothing,
            ..caller()
        },
    ]
}

/// What is registered, and who may be an owner again.
#[derive(Default)]
pub struct Sockets {
    live: Vec<(RegistrationId, OwnerId)>,
}

/// As many owners as there are; so few that they are used again.
pub const OWNERS: u32 = 6;

impl Sockets {
    pub fn register(&mut self, fw: &Firewall, new: Registration) {
        for owner in (1..=OWNERS).map(OwnerId) {
            let is_free = self.live.iter().all(|(_, taken)| *taken != owner);
            if is_free && fw.flows.owned_by(owner) == 0 {
                fw.flows.reinstate(owner);
                let new = Registration { owner, ..new };
                self.live
                    .extend(fw.registrations.insert(&new).map(|id| (id, owner)));
                self.tell(fw);
                return;
            }
        }
    }

    pub fn flags(&mut self, fw: &Firewall, nth: usize, uses: Uses) {
        if self.live.is_empty() {
            return;
        }
        let at = nth % self.live.len();
        let old = fw.registrations.read(self.live[at].0).unwrap();
        if let Ok(id) = fw
            .registrations
            .replace(self.live[at].0, &Registration { uses, ..old })
        {
            self.live[at].0 = id;
        }
    }

    pub fn withdraw(&mut self, fw: &Firewall, nth: usize) {
        if !self.live.is_empty() {
            let (id, _) = self.live.swap_remove(nth % self.live.len());
            fw.withdraw(id);
            self.tell(fw);
        }
    }

    /// How many there are, those included that have gone but for their flows.
    fn tell(&self, fw: &Firewall) {
        let is_orphan =
            |owner: &OwnerId| fw.flows.is_withdrawn(*owner) && fw.flows.owned_by(*owner) > 0;
        let orphans = (1..=OWNERS).map(OwnerId).filter(is_orphan).count();
        fw.registrations.set_diverted(self.live.len() + orphans);
    }
}
