//! The walk through the rules.

use std::net::Ipv4Addr;

use wire::Endpoint;

use crate::program::Span;
use crate::{Action, ChainId, Decision, FirstPacket, MAX_NESTING, Policy, PortId, RuleId, Verdict};

impl Policy {
    /// Holds a first packet against the rules, from top to bottom; `hit` hears of every
    /// rule that matched.
    ///
    /// A redirect to where the packet goes anyway is [`Decision::Unclaimed`]: that is a
    /// direct connection to the proxy, not a redirected one.
    pub fn decide(&self, packet: &FirstPacket, mut hit: impl FnMut(RuleId)) -> Decision {
        let mut callers = Callers::default();
        let Some(mut here) = self.chain(ChainId(0)) else {
            return self.fall_through();
        };
        loop {
            let Some(rule) = self
                .rules
                .get(here.start as usize)
                .filter(|_| here.start < here.end)
            else {
                match callers.take() {
                    Some(caller) => here = caller,
                    None => return self.fall_through(),
                }
                continue;
            };
            let id = RuleId(here.start);
            here.start += 1;
            if !rule.matches(packet) {
                continue;
            }
            hit(id);
            match rule.action {
                Action::Count => {}
                Action::Return => here.start = here.end,
                Action::Accept => return Decision::Unclaimed,
                Action::Drop => return Decision::Drop,
                Action::Redirect { addr, port } => return self.redirect(packet, addr, port),
                Action::Jump(chain) => match self.chain(chain) {
                    Some(span) if callers.put(here) => here = span,
                    // `Policy::new` admits neither; were it to, closed is the safe side.
                    _ => return Decision::Drop,
                },
            }
        }
    }

    fn redirect(
        &self,
        packet: &FirstPacket,
        addr: Option<Ipv4Addr>,
        port: Option<u16>,
    ) -> Decision {
        let wanted = packet.tuple.dst;
        let Some(addr) = addr.or_else(|| self.first_address(packet.port)) else {
            return Decision::NoLocalAddress;
        };
        let target = Endpoint::new(addr, port.unwrap_or(wanted.port));
        if target == wanted {
            Decision::Unclaimed
        } else {
            Decision::Redirect(target)
        }
    }

    pub(crate) fn first_address(&self, port: PortId) -> Option<Ipv4Addr> {
        self.first_addresses
            .get(usize::from(port.0))
            .copied()
            .flatten()
    }

    const fn fall_through(&self) -> Decision {
        match self.fallthrough {
            Verdict::Accept => Decision::Unclaimed,
            Verdict::Drop => Decision::Drop,
        }
    }
}

/// Where to go on when chains return.
struct Callers {
    spans: [Span; MAX_NESTING],
    depth: usize,
}

impl Default for Callers {
    fn default() -> Self {
        Self {
            spans: [Span { start: 0, end: 0 }; MAX_NESTING],
            depth: 0,
        }
    }
}

impl Callers {
    /// False if there is no room.
    fn put(&mut self, span: Span) -> bool {
        let Some(slot) = self.spans.get_mut(self.depth) else {
            return false;
        };
        *slot = span;
        self.depth += 1;
        true
    }

    fn take(&mut self) -> Option<Span> {
        self.depth = self.depth.checked_sub(1)?;
        self.spans.get(self.depth).copied()
    }
}
