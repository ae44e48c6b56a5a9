//! The rules, read from top to bottom, as plainly as can be.

use std::collections::HashMap;

use policy::*;
use wire::{Endpoint, Protocol};

/// What a walk tells: matched rules with the mark at that moment, and what is logged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Story {
    pub matched: Vec<(RuleId, u32)>,
    pub logged: Vec<(RuleId, u32)>,
}

impl Sink for Story {
    fn matched(&mut self, rule: RuleId, packet: &Packet) {
        self.matched.push((rule, packet.mark));
    }

    fn log(&mut self, rule: RuleId, packet: &Packet) {
        self.logged.push((rule, packet.mark));
    }
}

pub struct Naive {
    program: Program,
    /// Held nanoseconds and when they were counted, for each limit (by rule and place) or key.
    buckets: HashMap<String, (u128, u64)>,
}

enum Out {
    Goes,
    Stop(Stop),
    Redirect(Option<std::net::Ipv4Addr>, Option<u16>, NoListener),
}

/// How a chain ends.
enum Came {
    Back,
    Decided(Out),
}

impl Naive {
    pub fn new(program: &Program) -> Self {
        Self {
            program: program.clone(),
            buckets: HashMap::new(),
        }
    }

    pub fn arrive(&mut self, p: &mut Packet, is_taken: bool, story: &mut Story) -> Arrival {
        for hook in [Hook::RawPrerouting, Hook::ManglePrerouting] {
            if let Out::Stop(stop) = self.hook(hook, p, story) {
                return Arrival::Stop(stop);
            }
        }
        if p.state != ConnState::New || is_taken {
            return Arrival::Goes;
        }
        match self.hook(Hook::TproxyPrerouting, p, story) {
            Out::Goes => {}
            Out::Stop(stop) => return Arrival::Stop(stop),
            Out::Redirect(addr, port, otherwise) => {
                let first = p.in_port.and_then(|id| {
                    let local = self.program.ports.iter().find(|l| l.port == id);
                    local.and_then(|l| l.first_address)
                });
                let Some(addr) = addr.or(first) else {
                    return Arrival::NoLocalAddress;
                };
                let to = Endpoint::new(addr, port.unwrap_or(p.tuple.dst.port));
                if to != p.tuple.dst {
                    return Arrival::Redirect { to, otherwise };
                }
            }
        }
        match self.hook(Hook::NatPrerouting, p, story) {
            Out::Stop(stop) => Arrival::Stop(stop),
            _ => Arrival::Goes,
        }
    }

    pub fn way(&mut self, hooks: &[Hook], p: &mut Packet, story: &mut Story) -> Result<(), Stop> {
        for hook in hooks {
            let is_nat = matches!(
                hook,
                Hook::NatInput | Hook::NatOutput | Hook::NatPostrouting
            );
            if is_nat && (p.state != ConnState::New || p.is_tproxy) {
                continue;
            }
            if let Out::Stop(stop) = self.hook(*hook, p, story) {
                return Err(stop);
            }
        }
        Ok(())
    }

    fn hook(&mut self, hook: Hook, p: &mut Packet, story: &mut Story) -> Out {
        let at = self.program.entries.iter().position(|e| e.hook == hook);
        let Some(at) = at else {
            return if hook == Hook::FilterForward {
                Out::Stop(Stop::Drop)
            } else {
                Out::Goes
            };
        };
        let entry = self.program.entries[at];
        if let Came::Decided(out) = self.chain(entry.chain, p, story) {
            return out;
        }
        let rules: usize = self.program.chains.iter().map(Vec::len).sum();
        story.matched(RuleId((rules + at) as u32), p);
        match entry.policy {
            Verdict::Accept => Out::Goes,
            Verdict::Drop => Out::Stop(Stop::Drop),
        }
    }

    fn chain(&mut self, id: ChainId, p: &mut Packet, story: &mut Story) -> Came {
        let chain = self.program.chains[id.0 as usize].clone();
        let before: usize = self.program.chains[..id.0 as usize]
            .iter()
            .map(Vec::len)
            .sum();
        for (n, rule) in chain.iter().enumerate() {
            let id = RuleId((before + n) as u32);
            if !self.matches(id, rule, p) {
                continue;
            }
            story.matched(id, p);
            return Came::Decided(match rule.action {
                Action::Count => continue,
                Action::Log => {
                    story.log(id, p);
                    continue;
                }
                Action::Mark { and, xor } => {
                    p.mark = (p.mark & and) ^ xor;
                    continue;
                }
                Action::NoTrack => {
                    if p.state == ConnState::New || p.state == ConnState::Invalid {
                        p.state = ConnState::Untracked;
                    }
                    continue;
                }
                Action::Jump(callee) => match self.chain(callee, p, story) {
                    Came::Back => continue,
                    Came::Decided(out) => out,
                },
                Action::Goto(callee) => return self.chain(callee, p, story),
                Action::Return => return Came::Back,
                Action::Accept => Out::Goes,
                Action::Drop => Out::Stop(Stop::Drop),
                Action::Reject(with) => Out::Stop(Stop::Reject(with)),
                Action::Nat => Out::Stop(Stop::Nat),
                Action::Redirect {
                    addr,
                    port,
                    otherwise,
                } => Out::Redirect(addr, port, otherwise),
            });
        }
        Came::Back
    }

    fn matches(&mut self, id: RuleId, rule: &Rule, p: &Packet) -> bool {
        fn yes<T>(test: &Test<T>, is: impl Fn(&T) -> bool) -> bool {
            match test {
                Test::Any => true,
                Test::Is(value) => is(value),
                Test::Not(value) => !is(value),
            }
        }
        let (sport, dport) = ports(p);
        let port_tests = [
            (&rule.source_ports, sport),
            (&rule.destination_ports, dport),
        ];
        for (test, port) in port_tests {
            if !test.is_any() && p.is_tail || !yes(test, |r| (r.first()..=r.last()).contains(&port))
            {
                return false;
            }
        }
        let in_net = |n: &Network, a: std::net::Ipv4Addr| {
            a.to_bits() & n.mask().to_bits() == n.addr().to_bits()
        };
        let through = |set: PortSet, port: Option<PortId>| match port {
            Some(port) => set.contains(port),
            None => set == PortSet::ALL,
        };
        yes(&rule.proto, |proto| *proto == p.tuple.proto)
            && yes(&rule.source, |n| in_net(n, p.tuple.src.addr))
            && yes(&rule.destination, |n| in_net(n, p.tuple.dst.addr))
            && through(rule.in_ports, p.in_port)
            && through(rule.out_ports, p.out_port)
            && (0..rule.more.len()).all(|n| {
                let asked = &rule.more[n];
                self.has(&format!("{} {n}", id.0), &asked.test, p)
                    .is_some_and(|has| has != asked.negated)
            })
    }

    fn has(&mut self, name: &str, quality: &Quality, p: &Packet) -> Option<bool> {
        let (sport, dport) = ports(p);
        let zones = self.program.zones.clone();
        let within = |addr, port, zone| {
            zones
                .zone_of(addr, port)
                .is_some_and(|is| zones.is_within(is, zone))
        };
        Some(match quality {
            Quality::Tail => p.is_tail,
            Quality::TcpFlags { mask, set } => p.tcp_flags? & mask == *set,
            Quality::Icmp { kind, codes } => {
                let (k, c) = p.icmp?;
                *kind == 255 || *kind == k && codes.contains(&c)
            }
            Quality::Ports { which, ranges } => {
                if p.is_tail {
                    return None;
                }
                ranges.iter().any(|r| match which {
                    Which::Source => r.contains(sport),
                    Which::Destination => r.contains(dport),
                    Which::Either => r.contains(sport) || r.contains(dport),
                })
            }
            Quality::SourceRange(r) => {
                *r.start() <= p.tuple.src.addr && p.tuple.src.addr <= *r.end()
            }
            Quality::DestinationRange(r) => {
                *r.start() <= p.tuple.dst.addr && p.tuple.dst.addr <= *r.end()
            }
            Quality::State(set) => {
                let state = match p.state {
                    ConnState::New => 1,
                    ConnState::Established => 2,
                    ConnState::Related => 4,
                    ConnState::Invalid => 8,
                    ConnState::Untracked => 16,
                };
                set.0 & state != 0 || set.0 & 256 != 0 && p.is_snat || set.0 & 512 != 0 && p.is_dnat
            }
            Quality::Tproxy => p.is_tproxy,
            Quality::Mark { value, mask } => p.mark & mask == *value,
            Quality::Limit(rate) => p.is_rejudged || self.draw(name.to_owned(), *rate, p.now_ns),
            Quality::HashLimit(limit) => {
                let has = |key| limit.by.contains(&key);
                let cut = |on: bool, addr: std::net::Ipv4Addr, bits: u8| {
                    let mask = if bits == 0 {
                        0
                    } else {
                        u32::MAX << (32 - bits)
                    };
                    if on { addr.to_bits() & mask } else { 0 }
                };
                let part = |on: bool, port: u16| if on && !p.is_tail { port } else { 0 };
                let mut by = limit.by.clone();
                by.sort();
                by.dedup();
                let key = format!(
                    "{} {by:?} {} {} {} {}",
                    limit.name,
                    cut(has(HashKey::SourceIp), p.tuple.src.addr, limit.source_bits),
                    cut(
                        has(HashKey::DestinationIp),
                        p.tuple.dst.addr,
                        limit.destination_bits
                    ),
                    part(has(HashKey::SourcePort), sport),
                    part(has(HashKey::DestinationPort), dport),
                );
                let keeps = p.is_rejudged || self.draw(key, limit.rate, p.now_ns);
                keeps != limit.above
            }
            Quality::Set { set, by } => self.program.sets[set.0 as usize].contains(by, p),
            Quality::Mac(mac) => p.source_mac? == *mac,
            Quality::SourceZone(zone) => within(p.tuple.src.addr, p.in_port, *zone),
            Quality::DestinationZone(zone) => within(p.tuple.dst.addr, None, *zone),
            Quality::Owner(n) => p.owners & (1 << n) != 0,
        })
    }

    fn draw(&mut self, name: String, rate: Rate, now: u64) -> bool {
        let cost = u128::from(rate.per_ns.div_ceil(rate.tokens.into()));
        let brim = cost * u128::from(rate.burst);
        let (held, since) = self.buckets.entry(name).or_insert((brim, now));
        *held = (*held + u128::from(now - *since)).min(brim);
        *since = now;
        let has = *held >= cost;
        if has {
            *held -= cost;
        }
        has
    }
}

fn ports(p: &Packet) -> (u16, u16) {
    if p.tuple.proto == Protocol::ICMP {
        (0, 0)
    } else {
        (p.tuple.src.port, p.tuple.dst.port)
    }
}
