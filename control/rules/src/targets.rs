//! The targets: `-j` and what follows it.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use policy::{Network, NoListener, RejectWith};
use wire::Protocol;

use crate::error::{Fault, Parsed, quoted};
use crate::model::TableName;
use crate::option::{OptSpec, Options};
use crate::place::{Place, Placed};

mod log;
mod mark;
mod nat;
pub(crate) mod print;
mod reject;
mod tproxy;

pub use log::Log;
pub use nat::{Masquerade, NatRange};

/// What a rule does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Lets the packet go.
    Accept,
    /// Drops it.
    Drop,
    /// Goes back to the calling chain, or in a built-in chain to its policy.
    Return,
    /// Calls a user chain.
    Jump(String),
    /// Goes to a user chain and does not come back to this one.
    Goto(String),
    /// Drops it and tells the sender.
    Reject(RejectWith),
    /// Tells the log, and goes on.
    Log(Log),
    /// Sets the bits of `mask` of the packet's mark to those of `value`, by exclusive or with
    /// what the mask has left.
    Mark {
        /// The bits to flip afterwards.
        value: u32,
        /// The bits to clear first.
        mask: u32,
    },
    /// The packet makes no flow.
    NoTrack,
    /// Redirects to a local proxy.
    Tproxy {
        /// The proxy's port; none keeps the destination port.
        on_port: Option<NonZeroU16>,
        /// The proxy's address; none is the first of the ingress interface.
        on_ip: Option<Ipv4Addr>,
        /// What becomes of a connection if nobody listens there.
        otherwise: NoListener,
        /// A mark and its mask, which have no effect.
        mark: Option<(u32, u32)>,
    },
    /// Translates sources.
    Snat(NatRange),
    /// Translates destinations.
    Dnat(NatRange),
    /// Translates sources to the address of the interface that the packet leaves by.
    Masquerade(Masquerade),
    /// Translates destinations to this box.
    Redirect(Masquerade),
    /// Translates a whole network to another, one to one.
    Netmap(Network),
}

/// The targets that can be named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Accept,
    Drop,
    Return,
    Reject,
    Log,
    Mark,
    NoTrack,
    Ct,
    Tproxy,
    Snat,
    Dnat,
    Masquerade,
    Redirect,
    Netmap,
}

impl Kind {
    /// Their names.
    pub(crate) const NAMED: [(&'static str, Self); 14] = [
        ("ACCEPT", Self::Accept),
        ("DROP", Self::Drop),
        ("RETURN", Self::Return),
        ("REJECT", Self::Reject),
        ("LOG", Self::Log),
        ("MARK", Self::Mark),
        ("NOTRACK", Self::NoTrack),
        ("CT", Self::Ct),
        ("TPROXY", Self::Tproxy),
        ("SNAT", Self::Snat),
        ("DNAT", Self::Dnat),
        ("MASQUERADE", Self::Masquerade),
        ("REDIRECT", Self::Redirect),
        ("NETMAP", Self::Netmap),
    ];

    pub(crate) fn of(name: &str) -> Option<Self> {
        let named = Self::NAMED.iter().find(|(known, _)| *known == name);
        named.map(|(_, kind)| *kind)
    }

    pub(crate) fn name(self) -> &'static str {
        let named = Self::NAMED.iter().find(|(_, kind)| *kind == self);
        named.map_or("", |(name, _)| name)
    }

    pub(crate) const fn options(self) -> &'static [OptSpec] {
        match self {
            Self::Accept | Self::Drop | Self::Return | Self::NoTrack => &[],
            Self::Reject => reject::OPTIONS,
            Self::Log => log::OPTIONS,
            Self::Mark => mark::OPTIONS,
            Self::Ct => mark::CT,
            Self::Tproxy => tproxy::OPTIONS,
            Self::Snat => nat::SNAT,
            Self::Dnat => nat::DNAT,
            Self::Masquerade => nat::MASQUERADE,
            Self::Redirect => nat::REDIRECT,
            Self::Netmap => nat::NETMAP,
        }
    }

    /// The only table that it may stand in.
    const fn table(self) -> Option<TableName> {
        match self {
            Self::Accept | Self::Drop | Self::Return | Self::Log => None,
            Self::Reject => Some(TableName::Filter),
            Self::Mark => Some(TableName::Mangle),
            Self::NoTrack | Self::Ct => Some(TableName::Raw),
            Self::Tproxy => Some(TableName::Tproxy),
            Self::Snat | Self::Dnat | Self::Masquerade | Self::Redirect | Self::Netmap => {
                Some(TableName::Nat)
            }
        }
    }

    /// Refuses it in tables where it cannot stand.
    pub(crate) fn check_table(self, table: TableName, place: Place) -> Parsed<()> {
        let (name, here) = (self.name(), table.as_str());
        let message = match self.table() {
            Some(only) if only != table => {
                format!(
                    "{name} has no place in table {here}; write it in *{}",
                    only.as_str()
                )
            }
            _ if self == Self::Drop && table == TableName::Nat => {
                "table nat does not filter; write DROP in *filter".to_owned()
            }
            _ => return Ok(()),
        };
        Err(Fault::new(place, message))
    }
}

/// The target of `-j`, when its line has ended. `protocol` is the rule's, if it has exactly one.
pub(crate) fn target(
    kind: Kind,
    place: Place,
    options: &Options<'_>,
    protocol: Option<Protocol>,
) -> Parsed<Placed<Target>> {
    let target = match kind {
        Kind::Accept => Target::Accept,
        Kind::Drop => Target::Drop,
        Kind::Return => Target::Return,
        Kind::NoTrack => Target::NoTrack,
        Kind::Ct => mark::ct(options, place)?,
        Kind::Reject => reject::target(options, protocol)?,
        Kind::Log => log::target(options)?,
        Kind::Mark => mark::target(options, place)?,
        Kind::Tproxy => tproxy::target(options, place, protocol)?,
        Kind::Snat => nat::snat(options, place, protocol)?,
        Kind::Dnat => nat::dnat(options, place, protocol)?,
        Kind::Masquerade => Target::Masquerade(nat::to_ports(options, protocol)?),
        Kind::Redirect => Target::Redirect(nat::to_ports(options, protocol)?),
        Kind::Netmap => nat::netmap(options, place)?,
    };
    Ok(Placed::new(target, place))
}

/// What an option of another target's belongs to, if it is any target's.
pub(crate) fn owner_of(option: &str) -> Option<&'static str> {
    let has = |kind: Kind| {
        kind.options()
            .iter()
            .any(|spec| spec.names.contains(&option))
    };
    let named = Kind::NAMED.iter().find(|(_, kind)| has(*kind));
    named.map(|(name, _)| *name)
}

/// A target needs an option.
fn needs(kind: Kind, place: Place, what: &str) -> Fault {
    Fault::new(
        place,
        format!("{} needs {what}", quoted(&format!("-j {}", kind.name()))),
    )
}
