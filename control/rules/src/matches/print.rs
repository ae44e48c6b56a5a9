//! Matches to text, as iptables-save writes them.

use std::fmt;

use policy::{End, Which};
use wire::Protocol;

use super::hashlimit::{EXPIRE_MS, GC_MS, MODES};
use super::transport::FLAGS;
use super::{HashLimit, IcmpType, Limit, MatchSet, Module, MultiPorts, Test, Who, state};
use crate::model::Match;
use crate::names::Named;
use crate::print::{Cidr, Ports, Quoted};

/// The module that a test is printed with, and where in it; none for general options.
/// `protocol` is the rule's.
pub(crate) fn module_of(test: &Test, protocol: Option<Protocol>) -> Option<(Module, u8)> {
    let transport = if protocol == Some(Protocol::UDP) {
        Module::Udp
    } else {
        Module::Tcp
    };
    Some(match test {
        Test::Source(_)
        | Test::Destination(_)
        | Test::InInterface(_)
        | Test::OutInterface(_)
        | Test::Protocol(_)
        | Test::Fragment => return None,
        Test::SourcePorts(_) => (transport, 0),
        Test::DestinationPorts(_) => (transport, 1),
        Test::TcpFlags { .. } => (transport, 2),
        Test::Icmp(_) => (Module::Icmp, 0),
        Test::MultiPorts(_) => (Module::Multiport, 0),
        Test::SourceRange(..) => (Module::Iprange, 0),
        Test::DestinationRange(..) => (Module::Iprange, 1),
        Test::CtState(_) => (Module::Conntrack, 0),
        Test::State(_) => (Module::State, 0),
        Test::Tproxy => (Module::Tproxy, 0),
        Test::Mark { .. } => (Module::Mark, 0),
        Test::Limit(_) => (Module::Limit, 0),
        Test::HashLimit(_) => (Module::Hashlimit, 0),
        Test::Set(_) => (Module::Set, 0),
        Test::Mac(_) => (Module::Mac, 0),
        Test::Comment(_) => (Module::Comment, 0),
        Test::SourceZone(_) => (Module::Zone, 0),
        Test::DestinationZone(_) => (Module::Zone, 1),
        Test::User(_) => (Module::Owner, 0),
        Test::Group(_) => (Module::Owner, 1),
        Test::SocketExists => (Module::Owner, 2),
    })
}

/// Whether a test can share the `-m` of the one before it.
pub(crate) fn is_same_mention(before: Option<(Module, u8)>, this: (Module, u8)) -> bool {
    before.is_some_and(|(module, rank)| module == this.0 && rank < this.1)
}

impl fmt::Display for Match {
    /// The option and its value, without `-m`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.negated { "! " } else { "" };
        match &self.test {
            Test::Source(network) => write!(f, "{not}-s {}", Cidr(*network)),
            Test::Destination(network) => write!(f, "{not}-d {}", Cidr(*network)),
            Test::InInterface(pattern) => write!(f, "{not}-i {}", Quoted(&pattern.to_string())),
            Test::OutInterface(pattern) => write!(f, "{not}-o {}", Quoted(&pattern.to_string())),
            Test::Protocol(protocol) => write!(f, "{not}-p {}", Named(*protocol)),
            Test::Fragment => write!(f, "{not}-f"),
            Test::SourcePorts(range) => write!(f, "{not}--sport {}", Ports(*range)),
            Test::DestinationPorts(range) => write!(f, "{not}--dport {}", Ports(*range)),
            Test::TcpFlags { mask, set } => {
                write!(f, "{not}--tcp-flags {} {}", flags(*mask), flags(*set))
            }
            Test::Icmp(kind) => write!(f, "{not}--icmp-type {kind}"),
            Test::MultiPorts(ports) => write!(f, "{not}{ports}"),
            Test::SourceRange(first, last) => write!(f, "{not}--src-range {first}-{last}"),
            Test::DestinationRange(first, last) => write!(f, "{not}--dst-range {first}-{last}"),
            Test::CtState(states) => write!(f, "{not}--ctstate {}", state::names(*states)),
            Test::State(states) => write!(f, "{not}--state {}", state::names(*states)),
            Test::Tproxy => Ok(()),
            Test::Mark { value, mask } => write!(f, "{not}--mark {}", Masked(*value, *mask)),
            Test::Limit(limit) => in_full(*limit, f),
            Test::HashLimit(limit) => limit.fmt(f),
            Test::Set(set) => write!(f, "{not}{set}"),
            Test::Mac(mac) => write!(f, "{not}--mac-source {}", mac_text(mac)),
            Test::Comment(text) => write!(f, "--comment {}", Quoted(text)),
            Test::SourceZone(name) => write!(f, "{not}--src {}", Quoted(name)),
            Test::DestinationZone(name) => write!(f, "{not}--dst {}", Quoted(name)),
            Test::User(who) => write!(f, "{not}--uid-owner {who}"),
            Test::Group(who) => write!(f, "{not}--gid-owner {who}"),
            Test::SocketExists => write!(f, "{not}--socket-exists"),
        }
    }
}

/// A value under a mask; a full mask is not said.
pub(crate) struct Masked(pub(crate) u32, pub(crate) u32);

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)?;
        if self.1 == u32::MAX {
            return Ok(());
        }
        write!(f, "/{:#x}", self.1)
    }
}

/// The names of TCP flags.
pub(crate) fn flags(bits: u8) -> String {
    let named = FLAGS.iter().filter(|(_, bit)| bits & bit != 0);
    let names: Vec<&str> = named.map(|(name, _)| *name).collect();
    if names.is_empty() {
        "NONE".to_owned()
    } else {
        names.join(",")
    }
}

/// A MAC address as it is written.
pub(crate) fn mac_text(mac: &[u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

impl fmt::Display for IcmpType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Of { kind, code: None } => write!(f, "{kind}"),
            Self::Of {
                kind,
                code: Some(code),
            } => write!(f, "{kind}/{code}"),
        }
    }
}

impl fmt::Display for MultiPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let option = match self.which {
            Which::Source => "--sports",
            Which::Destination => "--dports",
            Which::Either => "--ports",
        };
        write!(f, "{option} {}", self.list())
    }
}

impl MultiPorts {
    /// The ports alone, parted by commas.
    pub(crate) fn list(&self) -> String {
        let ranges = self.ranges.iter().map(|range| Ports(*range).to_string());
        ranges.collect::<Vec<_>>().join(",")
    }
}

fn in_full(limit: Limit, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "--limit {limit}")?;
    if limit.has_usual_burst() {
        return Ok(());
    }
    write!(f, " --limit-burst {}", limit.burst)
}

impl fmt::Display for HashLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let option = if self.above { "above" } else { "upto" };
        write!(f, "--hashlimit-{option} {}", self.limit)?;
        write!(f, " --hashlimit-burst {}", self.limit.burst)?;
        if !self.by.is_empty() {
            write!(f, " --hashlimit-mode {}", self.modes())?;
        }
        write!(f, " --hashlimit-name {}", Quoted(&self.name))?;
        let parts = [
            ("htable-size", self.size, 0),
            ("htable-max", self.most, 0),
            ("htable-gcinterval", self.gc_ms, GC_MS),
            ("htable-expire", self.expire_ms, EXPIRE_MS),
            ("srcmask", self.source_bits.into(), 32),
            ("dstmask", self.destination_bits.into(), 32),
        ];
        for (name, value, usual) in parts {
            if value != usual {
                write!(f, " --hashlimit-{name} {value}")?;
            }
        }
        Ok(())
    }
}

impl HashLimit {
    /// What packets are told apart by.
    pub(crate) fn modes(&self) -> String {
        let held = MODES.iter().filter(|(_, key)| self.by.contains(key));
        held.map(|(name, _)| *name).collect::<Vec<_>>().join(",")
    }
}

impl fmt::Display for MatchSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--match-set {} {}", Quoted(&self.name), self.ends())
    }
}

impl MatchSet {
    /// Whose address or port each part is.
    pub(crate) fn ends(&self) -> String {
        let name = |end: &End| match end {
            End::Source => "src",
            End::Destination => "dst",
        };
        self.by.iter().map(name).collect::<Vec<_>>().join(",")
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numbers(first, last) if first == last => write!(f, "{first}"),
            Self::Numbers(first, last) => write!(f, "{first}-{last}"),
            Self::Name(name) => Quoted(name).fmt(f),
        }
    }
}
