//! What the rules can lead to, found without packets: for steering, which must know
//! beforehand which of the box's own endpoints the rules have a say about.
//!
//! Sets of packets flow through the rules. The answer may be too large, never too
//! small: a steered packet that no rule takes is delivered all the same.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use wire::Protocol;

use crate::condition::ByteSet;
use crate::ranges::Ranges;
use crate::region::Region;
use crate::{
    Action, ChainId, Endpoints, Hook, Policy, PortRange, PortSet, Rule, Test, Verdict, WIDEST,
};

/// How many [`Endpoints`] one address gets at most; more are merged into fewer, wider ones.
const MAX_PER_ADDRESS: usize = 16;

/// Cells held against rules before the walk gives up for the coarse answer, besides some per rule.
const MIN_BUDGET: usize = 1 << 20;
const BUDGET_PER_RULE: usize = 16;

/// What can happen to a region.
#[derive(Clone, Copy)]
enum Claim {
    Drop,
    Redirect {
        addr: Option<Ipv4Addr>,
        port: Option<u16>,
    },
}

/// Protocols and destination ports, by address.
type Claims = BTreeMap<Ipv4Addr, Vec<(ByteSet, PortRange)>>;

impl Policy {
    /// Every local endpoint that a redirect from the wire can lead to.
    #[must_use]
    pub fn proxies(&self) -> Vec<Endpoints> {
        let mut found = Claims::new();
        self.walk(None, |claim, region| {
            let Claim::Redirect { addr, port } = claim else {
                return;
            };
            for cell in region.cells() {
                let ports = port.map_or(cell.ports, |port| PortRange::new(port, port));
                let ingress = self
                    .ports
                    .iter()
                    .filter(|p| cell.in_ports.contains(p.port.0));
                for addr in ingress.filter_map(|p| addr.or(p.first_address)) {
                    found.entry(addr).or_default().push((cell.protos, ports));
                }
            }
        });
        found
            .into_iter()
            .flat_map(|(addr, claims)| endpoints(addr, &claims))
            .collect()
    }

    /// For each of the box's own addresses, what the tproxy table has something to say about
    /// on arrival, whatever configured port, source and source port a packet has.
    #[must_use]
    pub fn concerns(&self, own: &[Ipv4Addr]) -> Vec<Endpoints> {
        own.iter()
            .flat_map(|own| endpoints(*own, &self.claims_on(*own)))
            .collect()
    }

    fn claims_on(&self, own: Ipv4Addr) -> Vec<(ByteSet, PortRange)> {
        let mut claimed = Vec::new();
        let mut take =
            |region: &Region| claimed.extend(region.cells().iter().map(|c| (c.protos, c.ports)));
        self.walk(Some(own), |claim, region| match claim {
            Claim::Drop => take(region),
            Claim::Redirect { addr, port } => {
                // A redirect to where the packet goes anyway claims nothing.
                let here = match addr {
                    Some(addr) if addr == own => PortSet::ALL,
                    Some(_) => PortSet::EMPTY,
                    None => self
                        .ports
                        .iter()
                        .filter(|p| p.first_address == Some(own))
                        .map(|p| p.port)
                        .collect(),
                };
                let same = Region::of_rule(&Rule {
                    in_ports: here,
                    destination_ports: port
                        .map_or(Test::Any, |port| Test::Is(PortRange::new(port, port))),
                    ..Rule::default()
                });
                take(&region.clone().without(&same));
            }
        });
        claimed
    }

    /// Sends all packets, or all to one destination, through the rules, and tells of
    /// every region that a rule or the fallthrough decides about.
    fn walk(&self, destination: Option<Ipv4Addr>, mut claim: impl FnMut(Claim, &Region)) {
        let Some(entry) = self.entry(Hook::TproxyPrerouting) else {
            return;
        };
        let all: PortSet = self.ports.iter().map(|p| p.port).collect();
        let all = Region::from_ports(all.0);
        let budget = MIN_BUDGET + BUDGET_PER_RULE * self.rules.len();
        let mut walk = Walk {
            policy: self,
            destination,
            budget,
            claim: &mut claim,
        };
        let rest = walk.through(entry.chain, all.clone());
        let exhausted = walk.budget == 0;
        if exhausted {
            // Other tables' rules are among them: more than need be, which is allowed.
            for rule in self.rules.iter().filter(|rule| rule.concerns(destination)) {
                if let Some(kind) = Claim::of(rule.action) {
                    claim(kind, &Region::of_rule(rule).and(&all));
                }
            }
        }
        if entry.policy == Verdict::Drop {
            claim(Claim::Drop, if exhausted { &all } else { &rest });
        }
    }
}

impl Claim {
    const fn of(action: Action) -> Option<Self> {
        match action {
            Action::Drop | Action::Reject(_) | Action::Nat => Some(Self::Drop),
            Action::Redirect { addr, port, .. } => Some(Self::Redirect { addr, port }),
            Action::Count
            | Action::Jump(_)
            | Action::Goto(_)
            | Action::Return
            | Action::Accept
            | Action::Log
            | Action::Mark { .. }
            | Action::NoTrack => None,
        }
    }
}

impl Rule {
    /// Whether a packet to this destination, or to any, can match.
    fn concerns(&self, destination: Option<Ipv4Addr>) -> bool {
        destination.is_none_or(|addr| self.destination.holds(|n| n.contains(addr)))
    }

    /// Whether ingress port, protocol and destination port alone decide if it matches.
    fn is_exact(&self, destination: Option<Ipv4Addr>) -> bool {
        // Later fragments have no ports, so no test of ports can be relied on for them; but what
        // is not a first packet is asked about no redirect.
        self.source.is_any()
            && self.source_ports.is_any()
            && self.more.is_empty()
            && self.out_ports == PortSet::ALL
            && (destination.is_some() || self.destination.is_any())
    }
}

struct Walk<'p, F> {
    policy: &'p Policy,
    destination: Option<Ipv4Addr>,
    budget: usize,
    claim: &'p mut F,
}

impl<F: FnMut(Claim, &Region)> Walk<'_, F> {
    /// Sends a region through a chain; what comes back is what the chain returns.
    /// Recursion is as deep as chains nest, which `Policy::new` bounds.
    fn through(&mut self, chain: ChainId, region: Region) -> Region {
        let mut region = region;
        let mut returned = Region::default();
        let policy = self.policy;
        for (_, rule) in policy.rules_of(chain) {
            self.budget = self.budget.saturating_sub(region.cells().len().max(1));
            if region.is_empty() || self.budget == 0 {
                break;
            }
            if !rule.concerns(self.destination) {
                continue;
            }
            let matched = region.and(&Region::of_rule(rule));
            if matched.is_empty() {
                continue;
            }
            let exact = rule.is_exact(self.destination);
            let rest = |region: Region, matched: &Region| {
                if exact {
                    region.without(matched)
                } else {
                    region
                }
            };
            region = match rule.action {
                Action::Count | Action::Log | Action::Mark { .. } | Action::NoTrack => region,
                Action::Accept => rest(region, &matched),
                Action::Return => {
                    let rest = rest(region, &matched);
                    returned = returned.or(matched);
                    rest
                }
                Action::Drop | Action::Reject(_) | Action::Nat | Action::Redirect { .. } => {
                    if let Some(kind) = Claim::of(rule.action) {
                        (self.claim)(kind, &matched);
                    }
                    rest(region, &matched)
                }
                Action::Goto(callee) => {
                    // What it does not decide about goes back where this chain goes back to.
                    let back = self.through(callee, matched.clone());
                    returned = returned.or(back);
                    rest(region, &matched)
                }
                Action::Jump(callee) => {
                    let back = self.through(callee, matched.clone());
                    // All came back, or part of it never left: nothing to cut out.
                    if !exact || back == matched {
                        region
                    } else {
                        region.without(&matched).or(back)
                    }
                }
            };
        }
        region.or(returned)
    }
}

/// A short list for these claims. `Protocol(0)` stands for every protocol, so what is
/// claimed of protocol number 0 itself, as of all by a rule without `-p`, covers the others.
fn endpoints(addr: Ipv4Addr, claims: &[(ByteSet, PortRange)]) -> Vec<Endpoints> {
    let of = |proto: Protocol| -> Ranges {
        claims
            .iter()
            .filter(|(set, _)| set.contains(proto.0))
            .map(|(_, range)| *range)
            .collect()
    };
    let every = of(Protocol(0));
    let others = (1..=255)
        .map(Protocol)
        .map(|proto| (proto, of(proto).without(&every)));
    let mut list: Vec<(Protocol, Ranges)> = others.collect();
    list.insert(0, (Protocol(0), every));
    list.retain(|(_, ranges)| !ranges.is_empty());
    let list = narrowed(list);
    let one = |(proto, ranges): &(Protocol, Ranges)| -> Vec<Endpoints> {
        ranges
            .as_slice()
            .iter()
            .map(|range| Endpoints {
                addr,
                proto: *proto,
                ports: (*range).into(),
            })
            .collect()
    };
    list.iter().flat_map(one).collect()
}

/// Merges neighbouring ranges, nearest first, until the list is short enough.
fn narrowed(mut list: Vec<(Protocol, Ranges)>) -> Vec<(Protocol, Ranges)> {
    if list.len() > MAX_PER_ADDRESS {
        return vec![(Protocol(0), std::iter::once(WIDEST).collect())];
    }
    while list
        .iter()
        .map(|(_, ranges)| ranges.as_slice().len())
        .sum::<usize>()
        > MAX_PER_ADDRESS
    {
        let Some(gap) = list
            .iter()
            .filter_map(|(_, ranges)| ranges.smallest_gap())
            .min()
        else {
            break;
        };
        list.iter_mut()
            .for_each(|(_, ranges)| ranges.close_gaps(gap));
    }
    list
}
