//! The walk through the rules, and the order of the tables on each way.
//! Never here: allocation, locks.

use std::net::Ipv4Addr;

use wire::Endpoint;

use crate::{
    Action, ChainId, ConnState, Hook, MAX_NESTING, NoListener, Packet, Policy, PortId, RejectWith,
    RuleId, Verdict,
};

/// Who hears of what the rules do.
pub trait Sink {
    /// A rule has matched, or a chain's policy has decided.
    fn matched(&mut self, rule: RuleId, packet: &Packet);
    /// A rule wants the packet logged.
    fn log(&mut self, rule: RuleId, packet: &Packet);
    /// A limit was asked: what the rules say holds for this one packet.
    fn asked_limit(&mut self) {}
}

/// Nobody.
impl Sink for () {
    fn matched(&mut self, _: RuleId, _: &Packet) {}
    fn log(&mut self, _: RuleId, _: &Packet) {}
}

/// Why a packet does not go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// A rule or a policy drops it.
    Drop,
    /// A rule refuses it, and its sender is told.
    Reject(RejectWith),
    /// A rule wants it translated.
    Nat,
}

/// What becomes of a packet from the wire before it is known where it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// It goes on as it is.
    Goes,
    /// A rule takes its flow to a local endpoint.
    Redirect {
        /// The endpoint.
        to: Endpoint,
        /// What becomes of it if nobody listens there.
        otherwise: NoListener,
    },
    /// A rule wants a redirect, but the port it came in by has no address to redirect to.
    NoLocalAddress,
    /// It does not go on.
    Stop(Stop),
}

/// How a table's chain ends.
enum Verdicts {
    Goes,
    Stop(Stop),
    Redirect {
        addr: Option<Ipv4Addr>,
        port: Option<u16>,
        otherwise: NoListener,
    },
}

impl Policy {
    /// Asks about a packet from the wire: raw, mangle, tproxy and nat PREROUTING. Tproxy and
    /// nat are asked about new flows only, and not if a registration has taken the flow.
    ///
    /// A redirect to where the packet goes anyway is no redirect: that is a direct
    /// connection to the proxy.
    pub fn arrive(&self, packet: &mut Packet, is_taken: bool, sink: &mut impl Sink) -> Arrival {
        for hook in [Hook::RawPrerouting, Hook::ManglePrerouting] {
            if let Err(stop) = self.pass(hook, packet, sink) {
                return Arrival::Stop(stop);
            }
        }
        if packet.state != ConnState::New || is_taken {
            return Arrival::Goes;
        }
        match self.ask(Hook::TproxyPrerouting, packet, sink) {
            Verdicts::Goes => {}
            Verdicts::Stop(stop) => return Arrival::Stop(stop),
            Verdicts::Redirect {
                addr,
                port,
                otherwise,
            } => match self.redirect(packet, addr, port) {
                None => return Arrival::NoLocalAddress,
                Some(to) if to != packet.tuple.dst => return Arrival::Redirect { to, otherwise },
                Some(_) => {}
            },
        }
        match self.pass(Hook::NatPrerouting, packet, sink) {
            Ok(()) => Arrival::Goes,
            Err(stop) => Arrival::Stop(stop),
        }
    }

    /// Asks about a packet to the box itself, a redirected one with where it goes now.
    ///
    /// # Errors
    /// If it does not go on.
    pub fn input(&self, packet: &mut Packet, sink: &mut impl Sink) -> Result<(), Stop> {
        self.pass(Hook::MangleInput, packet, sink)?;
        self.pass(Hook::FilterInput, packet, sink)?;
        self.pass_nat(Hook::NatInput, packet, sink)
    }

    /// Asks about a packet from the wire to elsewhere.
    ///
    /// # Errors
    /// If it does not go on.
    pub fn forward(&self, packet: &mut Packet, sink: &mut impl Sink) -> Result<(), Stop> {
        self.pass(Hook::MangleForward, packet, sink)?;
        self.pass(Hook::FilterForward, packet, sink)?;
        self.pass(Hook::ManglePostrouting, packet, sink)?;
        self.pass_nat(Hook::NatPostrouting, packet, sink)
    }

    /// Asks about a packet that the box sends.
    ///
    /// # Errors
    /// If it does not go on.
    pub fn leave(&self, packet: &mut Packet, sink: &mut impl Sink) -> Result<(), Stop> {
        self.pass(Hook::RawOutput, packet, sink)?;
        self.pass(Hook::MangleOutput, packet, sink)?;
        self.pass_nat(Hook::NatOutput, packet, sink)?;
        self.pass(Hook::FilterOutput, packet, sink)?;
        self.pass(Hook::ManglePostrouting, packet, sink)?;
        self.pass_nat(Hook::NatPostrouting, packet, sink)
    }

    /// Translation is decided with a flow's first packet, and not for what a proxy has.
    fn pass_nat(&self, hook: Hook, packet: &mut Packet, sink: &mut impl Sink) -> Result<(), Stop> {
        if packet.state != ConnState::New || packet.is_tproxy {
            return Ok(());
        }
        self.pass(hook, packet, sink)
    }

    fn pass(&self, hook: Hook, packet: &mut Packet, sink: &mut impl Sink) -> Result<(), Stop> {
        match self.ask(hook, packet, sink) {
            Verdicts::Goes => Ok(()),
            Verdicts::Stop(stop) => Err(stop),
            // `Policy::new` admits redirects only in the tproxy table.
            Verdicts::Redirect { .. } => Err(Stop::Drop),
        }
    }

    /// Holds a packet against the rules of one hook, from top to bottom.
    fn ask(&self, hook: Hook, packet: &mut Packet, sink: &mut impl Sink) -> Verdicts {
        let Some(entry) = self.entry(hook) else {
            return match hook {
                Hook::FilterForward => Verdicts::Stop(Stop::Drop),
                _ => Verdicts::Goes,
            };
        };
        let mut callers = None;
        let mut here = Place::start(entry.chain);
        loop {
            let mut asks_limit = false;
            let next = self.next_match(here, packet, &mut asks_limit);
            if asks_limit {
                sink.asked_limit();
            }
            let Some(id) = next else {
                match callers.as_mut().and_then(Callers::take) {
                    Some(caller) => here = caller,
                    None => {
                        sink.matched(entry.id, packet);
                        return match entry.policy {
                            Verdict::Accept => Verdicts::Goes,
                            Verdict::Drop => Verdicts::Stop(Stop::Drop),
                        };
                    }
                }
                continue;
            };
            here.next = id.0 + 1;
            sink.matched(id, packet);
            match self.action(id) {
                Action::Count => {}
                Action::Log => sink.log(id, packet),
                Action::Mark { and, xor } => packet.mark = packet.mark & and ^ xor,
                Action::NoTrack => {
                    if matches!(packet.state, ConnState::New | ConnState::Invalid) {
                        packet.state = ConnState::Untracked;
                    }
                }
                Action::Return => here.next = u32::MAX,
                Action::Goto(chain) => here = Place::start(chain),
                Action::Jump(chain) => {
                    // `Policy::new` bounds nesting; were it not to, closed is the safe side.
                    if !callers.get_or_insert_with(Callers::default).put(here) {
                        return Verdicts::Stop(Stop::Drop);
                    }
                    here = Place::start(chain);
                }
                Action::Accept => return Verdicts::Goes,
                Action::Drop => return Verdicts::Stop(Stop::Drop),
                Action::Reject(with) => return Verdicts::Stop(Stop::Reject(with)),
                Action::Nat => return Verdicts::Stop(Stop::Nat),
                Action::Redirect {
                    addr,
                    port,
                    otherwise,
                } => {
                    return Verdicts::Redirect {
                        addr,
                        port,
                        otherwise,
                    };
                }
            }
        }
    }

    /// Where a redirect leads; none if it needs the address of a port that has none.
    fn redirect(
        &self,
        packet: &Packet,
        addr: Option<Ipv4Addr>,
        port: Option<u16>,
    ) -> Option<Endpoint> {
        let addr = addr.or_else(|| self.first_address(packet.in_port?))?;
        Some(Endpoint::new(addr, port.unwrap_or(packet.tuple.dst.port)))
    }

    fn first_address(&self, port: PortId) -> Option<Ipv4Addr> {
        self.first_addresses
            .get(usize::from(port.0))
            .copied()
            .flatten()
    }
}

/// How far the walk has come in a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) chain: ChainId,
    /// The number of the next rule; below the chain's first at its start.
    pub(crate) next: u32,
}

impl Place {
    const fn start(chain: ChainId) -> Self {
        Self { chain, next: 0 }
    }
}

/// Where to go on when chains return.
struct Callers {
    places: [Place; MAX_NESTING],
    depth: usize,
}

impl Default for Callers {
    fn default() -> Self {
        Self {
            places: [Place::start(ChainId(0)); MAX_NESTING],
            depth: 0,
        }
    }
}

impl Callers {
    /// False if there is no room.
    fn put(&mut self, place: Place) -> bool {
        let Some(slot) = self.places.get_mut(self.depth) else {
            return false;
        };
        *slot = place;
        self.depth += 1;
        true
    }

    fn take(&mut self) -> Option<Place> {
        self.depth = self.depth.checked_sub(1)?;
        self.places.get(self.depth).copied()
    }
}
