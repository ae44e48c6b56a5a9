//! Reads a ruleset as a person would: table by table, chain by chain, rule by rule, calling for a
//! jump. It looks at the parsed text only, never at what was compiled.

use std::net::Ipv4Addr;

use policy::{Arrival, ConnState, End, OwnerTest, Packet, PortId, Stop, Verdict, Which, Zones};
use rules::{Chain, Interface, InterfacePattern, Match, Ruleset, Table, Target, Test, Who};
use wire::{Endpoint, Protocol, Tuple};

pub struct Reader<'a> {
    ruleset: &'a Ruleset,
    interfaces: &'a [Interface],
    zones: &'a Zones,
    /// What the bits of [`Packet::owners`] stand for.
    owners: &'a [OwnerTest],
    pub packet: Packet,
    pub matched: Vec<u32>,
    pub logged: Vec<u32>,
}

/// How a chain ends.
#[derive(Clone)]
enum Outcome {
    Goes,
    Stop(Stop),
    Redirect(Target),
}

impl<'a> Reader<'a> {
    pub fn new(
        ruleset: &'a Ruleset,
        interfaces: &'a [Interface],
        zones: &'a Zones,
        owners: &'a [OwnerTest],
        packet: Packet,
    ) -> Self {
        Self {
            ruleset,
            interfaces,
            zones,
            owners,
            packet,
            matched: Vec::new(),
            logged: Vec::new(),
        }
    }

    pub fn arrive(&mut self, is_taken: bool) -> Arrival {
        for table in ["raw", "mangle"] {
            if let Err(stop) = self.pass(table, "PREROUTING") {
                return Arrival::Stop(stop);
            }
        }
        if self.packet.state != ConnState::New || is_taken {
            return Arrival::Goes;
        }
        match self.ask("tproxy", "PREROUTING") {
            Outcome::Goes => {}
            Outcome::Stop(stop) => return Arrival::Stop(stop),
            Outcome::Redirect(target) => {
                let Target::Tproxy {
                    on_port,
                    on_ip,
                    otherwise,
                    ..
                } = target
                else {
                    panic!("{target:?} does not redirect")
                };
                let wanted = self.packet.tuple.dst;
                let comes_by = self.packet.in_port.and_then(|port| self.interface(port));
                let Some(addr) = on_ip.or(comes_by.and_then(|i| i.first_address)) else {
                    return Arrival::NoLocalAddress;
                };
                let to = Endpoint::new(addr, on_port.map_or(wanted.port, u16::from));
                if to != wanted {
                    return Arrival::Redirect { to, otherwise };
                }
            }
        }
        match self.pass("nat", "PREROUTING") {
            Ok(()) => Arrival::Goes,
            Err(stop) => Arrival::Stop(stop),
        }
    }

    pub fn input(&mut self) -> Result<(), Stop> {
        self.pass("mangle", "INPUT")?;
        self.pass("filter", "INPUT")?;
        self.nat("INPUT")
    }

    pub fn forward(&mut self) -> Result<(), Stop> {
        self.pass("mangle", "FORWARD")?;
        self.pass("filter", "FORWARD")?;
        self.pass("mangle", "POSTROUTING")?;
        self.nat("POSTROUTING")
    }

    pub fn leave(&mut self) -> Result<(), Stop> {
        self.pass("raw", "OUTPUT")?;
        self.pass("mangle", "OUTPUT")?;
        self.nat("OUTPUT")?;
        self.pass("filter", "OUTPUT")?;
        self.pass("mangle", "POSTROUTING")?;
        self.nat("POSTROUTING")
    }

    fn nat(&mut self, hook: &str) -> Result<(), Stop> {
        if self.packet.state != ConnState::New || self.packet.is_tproxy {
            return Ok(());
        }
        self.pass("nat", hook)
    }

    fn pass(&mut self, table: &str, hook: &str) -> Result<(), Stop> {
        match self.ask(table, hook) {
            Outcome::Goes => Ok(()),
            Outcome::Stop(stop) => Err(stop),
            Outcome::Redirect(_) => panic!("a redirect in table {table}"),
        }
    }

    fn ask(&mut self, table: &str, hook: &str) -> Outcome {
        let tables = &self.ruleset.tables;
        let Some(found) = tables.iter().find(|t| t.name.as_str() == table) else {
            return if (table, hook) == ("filter", "FORWARD") {
                Outcome::Stop(Stop::Drop)
            } else {
                Outcome::Goes
            };
        };
        let chain = chain(found, hook);
        if let Some(end) = self.chain(found, chain) {
            return end;
        }
        self.matched.push(self.number_of_policy(table, hook));
        match chain.policy {
            Some(Verdict::Drop) => Outcome::Stop(Stop::Drop),
            _ => Outcome::Goes,
        }
    }

    /// None if the packet comes back out of the chain.
    fn chain(&mut self, table: &'a Table, chain: &'a Chain) -> Option<Outcome> {
        for (place, rule) in chain.rules.iter().enumerate() {
            if !rule.matches.iter().all(|m| self.holds(m)) {
                continue;
            }
            let number = self.number(table, chain, place);
            self.matched.push(number);
            match rule.target.as_ref().map(|target| &target.value) {
                None => {}
                Some(Target::Return) => return None,
                Some(Target::Accept) => return Some(Outcome::Goes),
                Some(Target::Drop) => return Some(Outcome::Stop(Stop::Drop)),
                Some(Target::Reject(with)) => return Some(Outcome::Stop(Stop::Reject(*with))),
                Some(Target::Log(_)) => self.logged.push(number),
                Some(Target::Mark { value, mask }) => {
                    self.packet.mark = (self.packet.mark & !mask) ^ value;
                }
                Some(Target::NoTrack) => {
                    self.packet.state = match self.packet.state {
                        ConnState::New | ConnState::Invalid => ConnState::Untracked,
                        other => other,
                    };
                }
                Some(Target::Jump(to)) => {
                    if let Some(end) = self.chain(table, self::chain(table, to)) {
                        return Some(end);
                    }
                }
                Some(Target::Goto(to)) => return self.chain(table, self::chain(table, to)),
                Some(target @ Target::Tproxy { .. }) => {
                    return Some(Outcome::Redirect(target.clone()));
                }
                Some(
                    Target::Snat(_)
                    | Target::Dnat(_)
                    | Target::Masquerade(_)
                    | Target::Redirect(_)
                    | Target::Netmap(_),
                ) => return Some(Outcome::Stop(Stop::Nat)),
            }
        }
        None
    }

    /// Rules are numbered as they stand in a saved text: table by table, chain by chain.
    fn number(&self, table: &Table, wanted: &Chain, place: usize) -> u32 {
        let chains = self.ruleset.tables.iter().flat_map(|t| {
            let name = t.name;
            t.chains.iter().map(move |c| (name, c))
        });
        let before = chains
            .take_while(|(name, c)| (*name, &c.name) != (table.name, &wanted.name))
            .map(|(_, c)| c.rules.len());
        u32::try_from(before.sum::<usize>() + place).unwrap()
    }

    /// Policies are numbered after all rules.
    fn number_of_policy(&self, table: &str, hook: &str) -> u32 {
        let all = self.ruleset.tables.iter();
        let rules: usize = all.flat_map(|t| &t.chains).map(|c| c.rules.len()).sum();
        let policies = self.ruleset.tables.iter().flat_map(|t| {
            let hooks = t.name.built_in_chains().iter();
            hooks.map(move |hook| (t.name.as_str(), *hook))
        });
        let place = policies.into_iter().position(|p| p == (table, hook));
        u32::try_from(rules + place.unwrap()).unwrap()
    }

    fn interface(&self, port: PortId) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.port == port)
    }

    fn is_named(&self, pattern: &InterfacePattern, port: Option<PortId>) -> bool {
        let found = port.and_then(|port| self.interface(port));
        let name = &found.expect("packets come and leave by these").name;
        if pattern.prefix {
            name.starts_with(&pattern.name)
        } else {
            *name == pattern.name
        }
    }

    /// Whether the test is passed by whatever interface there is or could be.
    fn says_nothing(&self, m: &Match, pattern: &InterfacePattern) -> bool {
        let interfaces = self.interfaces.iter();
        let named: Vec<&Interface> = interfaces.filter(|i| pattern.matches(&i.name)).collect();
        if m.negated {
            named.is_empty() && !pattern.is_any()
        } else {
            pattern.is_any()
        }
    }

    fn in_zone(&self, addr: Ipv4Addr, port: Option<PortId>, zone: &str) -> bool {
        let octets = addr.octets();
        let is = match (octets, port) {
            ([192, 168, 1, _], _) => "servers",
            ([192, 168, ..], _) => "inside",
            ([8, ..], _) | (_, Some(PortId(2))) => "world",
            _ => "",
        };
        assert!(self.zones.zone_named(zone).is_some());
        is == zone || (is == "servers" && zone == "inside")
    }

    fn in_set(&self, name: &str, by: &[End]) -> bool {
        let Tuple { proto, src, dst } = self.packet.tuple;
        let end = |end: End| if end == End::Source { src } else { dst };
        let first = end(by[0]);
        let octets = first.addr.octets();
        let has_ports = !self.packet.is_tail && [Protocol::TCP, Protocol::UDP].contains(&proto);
        match name {
            "nets" => octets[0] == 10 && octets != [10, 0, 0, 2],
            "addrs" => [[192, 168, 1, 1], [10, 0, 0, 1], [10, 0, 0, 2]].contains(&octets),
            "pairs" if has_ports => {
                let port = end(by[1]).port;
                (octets == [10, 0, 0, 1] && proto == Protocol::TCP && port == 80)
                    || (octets == [10, 0, 0, 3]
                        && proto == Protocol::UDP
                        && (79..=81).contains(&port))
            }
            "ports" if has_ports => (80..=81).contains(&first.port),
            "pairs" | "ports" => false,
            _ => panic!("no set {name} in the tests"),
        }
    }

    fn has_owner(&self, who: Option<&Who>) -> bool {
        let wanted = match who {
            None => 0..=u32::MAX,
            Some(Who::Numbers(first, last)) => *first..=*last,
            Some(Who::Name(name)) => panic!("{name} is for tproxy OUTPUT only"),
        };
        let test = self
            .owners
            .iter()
            .position(|o| o.uids == wanted && o.gids.is_none());
        self.packet.owners & 1 << test.expect("the policy knows the test") != 0
    }

    fn holds(&self, m: &Match) -> bool {
        let packet = &self.packet;
        let Tuple { proto, src, dst } = packet.tuple;
        let within = |n: &policy::Network, addr: Ipv4Addr| {
            let pairs = addr
                .octets()
                .into_iter()
                .zip(n.addr().octets())
                .zip(n.mask().octets());
            pairs.into_iter().all(|((a, n), mask)| (a ^ n) & mask == 0)
        };
        let inside = |r: &policy::PortRange, port| (r.first()..=r.last()).contains(&port);
        let is = match &m.test {
            Test::Source(network) => within(network, src.addr),
            Test::Destination(network) => within(network, dst.addr),
            // Where the interface is not known, only a test that every one passes holds.
            Test::InInterface(p) if packet.in_port.is_none() => return self.says_nothing(m, p),
            Test::OutInterface(p) if packet.out_port.is_none() => return self.says_nothing(m, p),
            Test::InInterface(pattern) => self.is_named(pattern, packet.in_port),
            Test::OutInterface(pattern) => self.is_named(pattern, packet.out_port),
            Test::Protocol(wanted) => proto == *wanted,
            Test::Fragment => packet.is_tail,
            // A later fragment has no ports, flags or types: nothing about them holds.
            Test::SourcePorts(_)
            | Test::DestinationPorts(_)
            | Test::MultiPorts(_)
            | Test::TcpFlags { .. }
            | Test::Icmp(_)
                if packet.is_tail =>
            {
                return false;
            }
            Test::SourcePorts(range) => inside(range, src.port),
            Test::DestinationPorts(range) => inside(range, dst.port),
            Test::MultiPorts(ports) => {
                let any = |port| ports.ranges.iter().any(|r| inside(r, port));
                match ports.which {
                    Which::Source => any(src.port),
                    Which::Destination => any(dst.port),
                    Which::Either => any(src.port) || any(dst.port),
                }
            }
            Test::TcpFlags { mask, set } => packet.tcp_flags.unwrap() & mask == *set,
            Test::Icmp(rules::IcmpType::Any) => true,
            Test::Icmp(rules::IcmpType::Of { kind, code }) => {
                let (is, of) = packet.icmp.unwrap();
                is == *kind && code.is_none_or(|code| code == of)
            }
            Test::SourceRange(first, last) => (first..=last).contains(&&src.addr),
            Test::DestinationRange(first, last) => (first..=last).contains(&&dst.addr),
            Test::CtState(states) | Test::State(states) => {
                let mut bits = 1 << packet.state as u16;
                bits |= u16::from(packet.is_snat) << 8 | u16::from(packet.is_dnat) << 9;
                states.0 & bits != 0
            }
            Test::Tproxy => packet.is_tproxy,
            Test::Mark { value, mask } => packet.mark & mask == *value,
            Test::Limit(_) => true,
            Test::HashLimit(limit) => !limit.above,
            Test::Set(set) => self.in_set(&set.name, &set.by),
            Test::Mac(mac) => packet.source_mac == Some(*mac),
            Test::Comment(_) => true,
            Test::SourceZone(name) => self.in_zone(src.addr, packet.in_port, name),
            Test::DestinationZone(name) => self.in_zone(dst.addr, None, name),
            Test::User(who) => self.has_owner(Some(who)),
            Test::SocketExists => self.has_owner(None),
            Test::Group(_) => panic!("groups are for tproxy OUTPUT only"),
        };
        is != m.negated
    }
}

fn chain<'a>(table: &'a Table, name: &str) -> &'a Chain {
    let found = table.chains.iter().find(|c| c.name == name);
    found.unwrap_or_else(|| panic!("parsed jumps lead to chains, and not to {name}"))
}
