//! A registration as the registry knows it.

use std::sync::Arc;

use tables::{OwnerId, Registration, RegistrationId};
use wire::{Endpoint, Protocol};

use crate::client::Client;
use crate::terms::Terms;

/// Which of its endpoints are diverted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Diverted {
    pub(crate) local: bool,
    pub(crate) foreign: bool,
}

impl Diverted {
    /// What these terms need, and it stays: packets may be under way.
    pub(crate) fn with(self, terms: &Terms) -> Self {
        Self {
            local: self.local || terms.diverts_local(),
            foreign: self.foreign || terms.diverts_foreign(),
        }
    }

    /// What is not in `other`.
    pub(crate) const fn without(self, other: Self) -> Self {
        Self {
            local: self.local && !other.local,
            foreign: self.foreign && !other.foreign,
        }
    }
}

/// A registration as the registry knows it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) cookie: u64,
    pub(crate) proto: Protocol,
    pub(crate) local: Endpoint,
    pub(crate) terms: Terms,
    /// Who owns the socket.
    pub(crate) socket_uid: u32,
    pub(crate) client: Arc<Client>,
    pub(crate) created_ns: u64,
    /// Where the workers find it; none: nowhere yet, or no more.
    pub(crate) registration: Option<RegistrationId>,
    /// Of an earlier daemon: its flows are not known.
    pub(crate) is_taken_over: bool,
    /// Ended, but for its flows.
    pub(crate) is_orphan: bool,
    pub(crate) diverted: Diverted,
}

impl Entry {
    /// What the workers get to see.
    pub(crate) fn published(&self, owner: OwnerId) -> Registration {
        Registration {
            proto: self.proto,
            local: self.local,
            foreign: self.terms.foreign,
            peer: self.terms.peer,
            uses: self.terms.uses(),
            owner,
        }
    }
}
