//! The matches: `-m` and what follows it.
//!
//! A module's options are gathered first and read together when the line has ended, so that
//! they may stand in any order.

use std::net::Ipv4Addr;

use policy::{Network, PortRange, StateSet};
use wire::Protocol;

use crate::error::{Fault, Parsed, did_you_mean_or, quoted};
use crate::grammar;
use crate::lexer::Word;
use crate::model::{InterfacePattern, Match};
use crate::option::{Given, OptSpec, Options};
use crate::place::{Place, Placed};

mod address;
mod hashlimit;
mod icmp;
mod limit;
mod mark;
mod owner;
pub(crate) mod print;
mod set;
mod state;
mod text;
mod transport;

pub use hashlimit::HashLimit;
pub use icmp::IcmpType;
pub use limit::{Limit, Period};
pub use owner::Who;
pub(crate) use print::{is_same_mention, module_of};
pub use set::MatchSet;
pub use transport::MultiPorts;

/// What a match asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Test {
    /// `-s`
    Source(Network),
    /// `-d`
    Destination(Network),
    /// `-i`
    InInterface(InterfacePattern),
    /// `-o`
    OutInterface(InterfacePattern),
    /// `-p`
    Protocol(Protocol),
    /// `-f`: a later fragment.
    Fragment,
    /// `--sport`
    SourcePorts(PortRange),
    /// `--dport`
    DestinationPorts(PortRange),
    /// `--tcp-flags`: of the flags in `mask`, those in `set` are set and the others are not.
    TcpFlags {
        /// The flags that are looked at.
        mask: u8,
        /// Those that must be set.
        set: u8,
    },
    /// `--icmp-type`
    Icmp(IcmpType),
    /// `-m multiport`
    MultiPorts(MultiPorts),
    /// `--src-range`
    SourceRange(Ipv4Addr, Ipv4Addr),
    /// `--dst-range`
    DestinationRange(Ipv4Addr, Ipv4Addr),
    /// `-m conntrack --ctstate`
    CtState(StateSet),
    /// `-m state --state`
    State(StateSet),
    /// `-m tproxy`: a packet of a redirected or registered flow.
    Tproxy,
    /// `-m mark --mark`
    Mark {
        /// What the bits must be.
        value: u32,
        /// The bits that are looked at.
        mask: u32,
    },
    /// `-m limit`
    Limit(Limit),
    /// `-m hashlimit`
    HashLimit(Box<HashLimit>),
    /// `-m set --match-set`
    Set(Box<MatchSet>),
    /// `-m mac --mac-source`
    Mac([u8; 6]),
    /// `-m comment --comment`: always holds.
    Comment(String),
    /// `-m zone --src`
    SourceZone(String),
    /// `-m zone --dst`
    DestinationZone(String),
    /// `-m owner --uid-owner`
    User(Who),
    /// `-m owner --gid-owner`
    Group(Who),
    /// `-m owner --socket-exists`
    SocketExists,
}

/// A module of `-m`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Module {
    /// What `-p` brings with it; which one shows when the line has ended.
    Implied,
    Tcp,
    Udp,
    Icmp,
    Multiport,
    Iprange,
    Conntrack,
    State,
    Tproxy,
    Mark,
    Limit,
    Hashlimit,
    Set,
    Mac,
    Comment,
    Zone,
    Owner,
}

impl Module {
    /// Those that can be named.
    pub(crate) const NAMED: [(&'static str, Self); 16] = [
        ("tcp", Self::Tcp),
        ("udp", Self::Udp),
        ("icmp", Self::Icmp),
        ("multiport", Self::Multiport),
        ("iprange", Self::Iprange),
        ("conntrack", Self::Conntrack),
        ("state", Self::State),
        ("tproxy", Self::Tproxy),
        ("mark", Self::Mark),
        ("limit", Self::Limit),
        ("hashlimit", Self::Hashlimit),
        ("set", Self::Set),
        ("mac", Self::Mac),
        ("comment", Self::Comment),
        ("zone", Self::Zone),
        ("owner", Self::Owner),
    ];

    pub(crate) fn name(self) -> &'static str {
        let named = Self::NAMED.iter().find(|(_, module)| *module == self);
        named.map_or("", |(name, _)| name)
    }

    pub(crate) const fn options(self) -> &'static [OptSpec] {
        match self {
            Self::Implied => transport::IMPLIED,
            Self::Tcp => transport::TCP,
            Self::Udp => transport::UDP,
            Self::Icmp => icmp::OPTIONS,
            Self::Multiport => transport::MULTIPORT,
            Self::Iprange => address::RANGES,
            Self::Conntrack => state::CONNTRACK,
            Self::State => state::STATE,
            Self::Tproxy => &[],
            Self::Mark => mark::OPTIONS,
            Self::Limit => limit::OPTIONS,
            Self::Hashlimit => hashlimit::OPTIONS,
            Self::Set => set::OPTIONS,
            Self::Mac => address::MAC,
            Self::Comment => text::COMMENT,
            Self::Zone => text::ZONE,
            Self::Owner => owner::OPTIONS,
        }
    }

    /// The protocol that the rule must have for it.
    pub(crate) const fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Tcp => Some(Protocol::TCP),
            Self::Udp => Some(Protocol::UDP),
            Self::Icmp => Some(Protocol::ICMP),
            _ => None,
        }
    }

    /// Whether it may stand without options.
    const fn is_complete_alone(self) -> bool {
        matches!(
            self,
            Self::Implied | Self::Tcp | Self::Udp | Self::Icmp | Self::Tproxy | Self::Limit
        )
    }
}

/// One mention of a module, with the options that belong to it.
#[derive(Debug)]
pub(crate) struct Mention<'a> {
    pub(crate) module: Module,
    pub(crate) place: Place,
    pub(crate) options: Options<'a>,
}

/// The module of `-m NAME`.
pub(crate) fn module(word: &Word) -> Parsed<Module> {
    let text = word.text.as_str();
    if let Some((_, module)) = Module::NAMED.iter().find(|(name, _)| *name == text) {
        return Ok(*module);
    }
    let message = match grammar::cure(grammar::NOT_HAD_MODULES, text) {
        Some(cure) => format!("match {} is not had here; {cure}", quoted(text)),
        None => {
            let names = Module::NAMED.iter().map(|(name, _)| *name);
            let known = names.clone().collect::<Vec<_>>().join(", ");
            let not_had = grammar::NOT_HAD_MODULES.iter().map(|(name, _)| *name);
            let cure = did_you_mean_or(text, names.chain(not_had), &format!("there are {known}"));
            format!("unknown match {}{cure}", quoted(text))
        }
    };
    Err(Fault::new(word.place, message))
}

impl Mention<'_> {
    /// The tests of it, in the order of printing.
    pub(crate) fn tests(&self) -> Parsed<Vec<Placed<Match>>> {
        let mut tests = Tests(Vec::new());
        let options = &self.options;
        match self.module {
            Module::Implied => {
                transport::ports_and_flags(options, &mut tests)?;
                icmp::tests(options, &mut tests)?;
            }
            Module::Tcp | Module::Udp => transport::ports_and_flags(options, &mut tests)?,
            Module::Icmp => icmp::tests(options, &mut tests)?,
            Module::Multiport => transport::multiport(options, &mut tests)?,
            Module::Iprange => address::ranges(options, &mut tests)?,
            Module::Conntrack | Module::State => state::tests(options, &mut tests)?,
            Module::Tproxy => tests.put_at(self.place, Test::Tproxy),
            Module::Mark => mark::tests(options, &mut tests)?,
            Module::Limit => limit::tests(options, self.place, &mut tests)?,
            Module::Hashlimit => hashlimit::tests(options, self.place, &mut tests)?,
            Module::Set => set::tests(options, &mut tests)?,
            Module::Mac => address::mac(options, &mut tests)?,
            Module::Comment => text::comment(options, &mut tests)?,
            Module::Zone => text::zones(options, &mut tests)?,
            Module::Owner => owner::tests(options, &mut tests)?,
        }
        if tests.0.is_empty()
            && !self.module.is_complete_alone()
            && let Some(first) = self.module.options().first()
        {
            let message = format!(
                "`-m {}` needs {} and {}",
                self.module.name(),
                first.name(),
                first.wants
            );
            return Err(Fault::new(self.place, message));
        }
        Ok(tests.0)
    }
}

/// The tests that a mention comes to.
pub(crate) struct Tests(Vec<Placed<Match>>);

impl Tests {
    fn put(&mut self, given: &Given<'_>, test: Test) {
        let negated = given.negated;
        self.0
            .push(Placed::new(Match { negated, test }, given.place()));
    }

    fn put_at(&mut self, place: Place, test: Test) {
        let negated = false;
        self.0.push(Placed::new(Match { negated, test }, place));
    }
}
