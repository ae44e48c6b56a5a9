//! A flow as the control socket tells it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One direction of a flow: its packets' addresses as they arrive, and how many came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direction {
    /// Source address.
    pub src: IpAddr,
    /// Source port; 0 where the protocol has none.
    pub sport: u16,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port; 0 where the protocol has none.
    pub dport: u16,
    /// Packets of this direction.
    pub packets: u64,
    /// Bytes of this direction.
    pub bytes: u64,
}

/// A flow: two directions and one lifetime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Names the flow for as long as the daemon runs.
    pub id: u64,
    /// `tcp`, `udp`, `icmp`, or a number.
    pub proto: String,
    /// What is done with it.
    pub kind: FlowKind,
    /// How far it got.
    pub state: FlowState,
    /// Who handles its packets.
    pub path: Path,
    /// As the side that began it sends.
    pub orig: Direction,
    /// As the answers arrive, before they are translated back.
    pub reply: Direction,
    /// Packets of both directions.
    pub packets: u64,
    /// Bytes of both directions.
    pub bytes: u64,
    /// Nanoseconds since its first packet.
    pub age_ns: u64,
    /// Nanoseconds since its latest packet.
    pub idle_ns: u64,
    /// Nanoseconds until it goes if no packet comes.
    pub expires_ns: u64,
    /// The generation of the rules that made it.
    pub rule_generation: u32,
}

/// A word was none of those that are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName {
    what: &'static str,
    text: String,
    known: String,
}

impl UnknownName {
    pub(crate) fn new(what: &'static str, text: &str, known: String) -> Self {
        let text = text.into();
        Self { what, text, known }
    }
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "unknown {} '{}': one of {}",
            self.what, self.text, self.known
        )
    }
}

impl std::error::Error for UnknownName {}

/// An enum of names that are the same in JSON, on the command line and in tables.
macro_rules! names {
    ($(#[$doc:meta])* $type:ident, $what:literal {
        $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $type {
            $($(#[$variant_doc])* #[serde(rename = $name)] $variant,)*
        }

        impl $type {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = $crate::UnknownName;

            fn from_str(text: &str) -> Result<Self, $crate::UnknownName> {
                Self::ALL.iter().copied().find(|one| one.name() == text).ok_or_else(|| {
                    let known: Vec<&str> = Self::ALL.iter().map(|one| one.name()).collect();
                    $crate::UnknownName::new($what, text, known.join(", "))
                })
            }
        }
    };
}

pub(crate) use names;

names! {
    /// What is done with a flow.
    FlowKind, "kind" {
        /// A rule took it to a local proxy.
        Redirect = "redirect",
        /// A local proxy listens on the foreign address that it goes to.
        Listen = "listen",
        /// A local proxy made it from a foreign address.
        Connect = "connect",
        /// Its source is translated.
        Snat = "snat",
        /// Its destination is translated.
        Dnat = "dnat",
        /// It passes as it is.
        Forward = "forward",
        /// It goes to the box itself, delivered as it is.
        Local = "local",
    }
}

names! {
    /// How far a flow got.
    FlowState, "state" {
        /// TCP: a SYN, no answer yet.
        SynSent = "syn_sent",
        /// TCP: the SYN is answered, the handshake is not complete.
        SynReceived = "syn_received",
        /// TCP: picked up in mid-stream, no answer yet.
        PickedUp = "picked_up",
        /// TCP: open.
        Established = "established",
        /// TCP: one side has closed, the other may go on.
        HalfClosed = "half_closed",
        /// TCP: both sides have closed, not both closes are acknowledged.
        Closing = "closing",
        /// TCP: over, or reset.
        Closed = "closed",
        /// Not TCP: no answer seen.
        Unreplied = "unreplied",
        /// Not TCP: answered.
        Replied = "replied",
    }
}

names! {
    /// Who handles a flow's packets.
    Path, "path" {
        /// A worker, in user space.
        Worker = "worker",
    }
}
