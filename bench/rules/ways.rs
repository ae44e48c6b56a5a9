//! The ways by which a first packet comes to a flow: the rules of a shape, and packets that
//! they let through, on each.

use anyhow::{Context, Result};
use fastrand::Rng;
use policy::{Action, Arrival, Hook, NoListener, Packet, Policy, Program, Test, Verdict};
use wire::Protocol;

use crate::rulesets::{Shape, asks_tproxy, entry, own_address};

/// The first source port. Each packet has a port of its own, so that no two flows are of one
/// name, however few clients the rules know.
const FIRST_PORT: u16 = 1024;
/// The most packets that can have one each.
pub const MOST_PACKETS: u32 = (u16::MAX - FIRST_PORT) as u32;
/// How many packets are made up, at most, for one that the rules let through.
const TRIES: usize = 1000;

/// Where rules that let a packet through stand, and what they do with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Way {
    /// In tproxy PREROUTING; the connection is led to a proxy, which INPUT lets pass at once.
    Led,
    /// In filter INPUT; the packet is for the box itself.
    Local,
}

impl Way {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Led => "led",
            Self::Local => "local",
        }
    }

    /// The ways that a shape has a meaning on. What is for the box has few destinations.
    pub const fn of(shape: Shape) -> &'static [Self] {
        match shape {
            Shape::Pairs | Shape::Negated => &[Self::Led],
            Shape::Hosts
            | Shape::Networks
            | Shape::PortRanges
            | Shape::WideRanges
            | Shape::Grid
            | Shape::NegatedOnly
            | Shape::Sets
            | Shape::Interfaces
            | Shape::Senders
            | Shape::Logging
            | Shape::Proxies => &[Self::Led, Self::Local],
        }
    }

    /// So many rules of a shape, for this way.
    pub fn program(self, shape: Shape, rules: u32) -> Program {
        let program = shape.program(rules);
        // Those have rules for both.
        if self == Self::Local || shape == Shape::Proxies {
            return program;
        }
        led(program)
    }

    /// First packets that the rules let through.
    pub fn packets(self, shape: Shape, policy: &Policy, of: (u32, u32)) -> Result<Vec<Packet>> {
        let (rules, count) = of;
        let mut rng = Rng::with_seed(11);
        (0..count)
            .map(|n| {
                let mut one = || self.packet(shape, rules, &mut rng);
                let mut found = std::iter::repeat_with(&mut one)
                    .take(TRIES)
                    .find(|packet| self.lets(policy, packet))
                    .with_context(|| format!("{rules} rules let next to nothing through"))?;
                found.tuple.src.port = FIRST_PORT + n as u16;
                Ok(found)
            })
            .collect()
    }

    fn packet(self, shape: Shape, rules: u32, rng: &mut Rng) -> Packet {
        let mut packet = shape.packet(rules, rng);
        if let (Self::Local, Some(port)) = (self, packet.in_port) {
            packet.tuple.dst.addr = own_address(port);
            if shape == Shape::Proxies {
                packet.tuple.dst.port = 22;
            }
        }
        packet
    }

    /// Whether a flow comes of it. It takes nothing from the limits.
    fn lets(self, policy: &Policy, packet: &Packet) -> bool {
        let mut packet = Packet {
            is_rejudged: true,
            ..*packet
        };
        let arrival = policy.arrive(&mut packet, false, &mut ());
        match (self, arrival) {
            (Self::Led, Arrival::Redirect { .. }) => true,
            (Self::Local, Arrival::Goes) => policy.input(&mut packet, &mut ()).is_ok(),
            _ => false,
        }
    }
}

/// The same rules in tproxy PREROUTING: what they accepted they lead to a proxy.
fn led(mut program: Program) -> Program {
    for rule in program.chains.iter_mut().flatten() {
        if rule.action == Action::Accept {
            rule.proto = Test::Is(Protocol::TCP);
            rule.action = Action::Redirect {
                addr: None,
                port: Some(50080),
                otherwise: NoListener::Reject,
            };
        }
    }
    let input = program.chains.len() as u32;
    program.chains.push(vec![asks_tproxy()]);
    program.entries = vec![
        entry(Hook::TproxyPrerouting, 0, Verdict::Accept),
        entry(Hook::FilterInput, input, Verdict::Drop),
    ];
    program
}
