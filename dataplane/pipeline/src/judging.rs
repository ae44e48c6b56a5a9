//! What the rules have said of a flow's packets, remembered in the flow, and when they are
//! asked again.
//!
//! Each direction has a word: the generation of the rules that were asked, what came of it, and
//! who had sent the packet: another sender's is asked about for itself. Where a limit was asked, or
//! the packet was denied, every packet is asked about until one settles it or the flow has gone;
//! the word only says then that these rules were asked before, so that limits are drawn on.

use policy::{Arrival, ConnState, Packet as Question, PortId};
use tables::{Direction, Hit, Kind, Side};
use wire::{Fragment, TcpFlags, Transport};

use crate::batch::{Packet, Stage};
use crate::counters::Event;
use crate::drops::DropReason;
use crate::refusing::Refusal;

/// What came of asking: nothing if neither is set.
const OUTCOME: u64 = ESTABLISHED | PASSED;
/// The direction has passed.
const PASSED: u64 = 1;
/// It has passed as one of an answered flow.
const ESTABLISHED: u64 = 1 << 1;
/// It was asked about, which settles nothing.
const ASKED: u64 = ESTABLISHED;

/// Who sends: the port in 8 bits, the owner tests in 8, the address on the link in 14.
const SENDER: u64 = 0xffff_fffc;
const PORT_SHIFT: u32 = 2;
const OWNERS_SHIFT: u32 = 10;
const MAC_SHIFT: u32 = 18;
const MAC_BITS: u32 = 14;

/// The word of a direction that nothing is left to ask about, but for who sends.
pub(crate) fn settled(generation: u32) -> u64 {
    u64::from(generation) << 32 | ESTABLISHED | PASSED
}

/// The port of the sender that a word remembers; none if it is no word yet.
fn port_in(word: u64) -> Option<PortId> {
    (word & OUTCOME != 0).then_some(PortId((word >> PORT_SHIFT) as u8))
}

/// A few bits that tell addresses on the link apart. One that wants to be taken for another can
/// as well send its address.
fn mac_bits(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    let number = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    // Fibonacci hashing: all bits of the number reach the highest ones.
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - MAC_BITS)
}

/// What becomes of a packet that has a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Judgement {
    Goes,
    /// The rules would not make this flow any more; it has gone.
    Revoked,
}

impl Stage<'_> {
    /// Whether a packet of a flow may go on: one load and one comparison, as long as there is
    /// nothing to ask.
    pub(crate) fn judge_known(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        hit: &Hit,
    ) -> Result<Judgement, Refusal> {
        // A fragment's other parts would not be found; it can pass only as it is.
        if packet.headers.fragment != Fragment::Whole
            && hit.translated() != packet.flow_key().tuple()
        {
            return Err(Refusal::drop(DropReason::Fragment));
        }
        if !self.judges {
            return self.judge_led(frame, packet, hit);
        }
        if matches!(packet.headers.transport, Transport::Icmp(icmp) if icmp.is_error()) {
            return self.judge_error(frame, packet, hit);
        }
        if self.flows.judged(hit) == self.settled | self.sender_bits(packet) {
            return Ok(Judgement::Goes);
        }
        self.judge_again(frame, packet, hit)
    }

    /// Notes that the rules let the first packet of a flow pass.
    pub(crate) fn note_first(&self, packet: &Packet, hit: &Hit) {
        self.remember(packet, hit, PASSED);
    }

    /// Remembers what came of asking about a packet that passes.
    fn remember(&self, packet: &Packet, hit: &Hit, outcome: u64) {
        let outcome = if self.asked_limit.get() {
            ASKED
        } else {
            outcome
        };
        let word = self.settled & !OUTCOME | self.sender_bits(packet) | outcome;
        self.flows.set_judged(hit, word);
    }

    /// Who sends a packet, as far as rules could tell.
    fn sender_bits(&self, packet: &Packet) -> u64 {
        let mac = if self.tells_macs && packet.side != Side::Host {
            mac_bits(packet.headers.mac_src.0)
        } else {
            0
        };
        mac << MAC_SHIFT
            | u64::from(packet.owners) << OWNERS_SHIFT
            | u64::from(packet.port.0) << PORT_SHIFT
    }

    /// Whether these rules have been asked about the direction with this word.
    fn is_of_now(&self, word: u64) -> bool {
        word & OUTCOME != 0 && word >> 32 == self.settled >> 32
    }

    /// Whether a flow was led to a proxy by older rules than these. Another worker may have newer
    /// ones already.
    fn is_led_by_older(&self, hit: &Hit) -> bool {
        let now = self.view.policy.generation();
        hit.flow.kind == Kind::Redirect
            && hit.direction == Direction::Original
            && now.wrapping_sub(hit.flow.generation) as i32 > 0
    }

    /// Judges where rules only lead connections to proxies: once, by rules that are newer than
    /// the flow.
    fn judge_led(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        hit: &Hit,
    ) -> Result<Judgement, Refusal> {
        if !self.is_led_by_older(hit) || self.view.keep_established || packet.is_icmp_error() {
            return Ok(Judgement::Goes);
        }
        let word = self.flows.judged(hit);
        if self.is_of_now(word) {
            return Ok(Judgement::Goes);
        }
        self.counters.count(Event::Rejudged);
        let question = self.question_of(packet, hit, ConnState::Established);
        if !self.is_still_led(&question, packet, word) {
            self.revoke(hit);
            return Ok(Judgement::Revoked);
        }
        self.ask_zones(frame, &question, &question.tuple, hit.translated().dst)?;
        self.asked_limit.set(false);
        self.remember(packet, hit, PASSED);
        Ok(Judgement::Goes)
    }

    fn judge_again(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        hit: &Hit,
    ) -> Result<Judgement, Refusal> {
        let is_answered = hit.direction == Direction::Reply || self.flows.is_answered(hit);
        let (state, outcome) = if is_answered {
            (ConnState::Established, ESTABLISHED | PASSED)
        } else {
            (ConnState::New, PASSED)
        };
        let word = self.flows.judged(hit);
        let is_of_now = self.is_of_now(word);
        let is_same_sender = word & SENDER == self.sender_bits(packet);
        if is_of_now && is_same_sender && word & outcome == outcome && word & PASSED != 0 {
            return Ok(Judgement::Goes);
        }
        self.asked_limit.set(false);
        let has_passed = self.flows.has_carried(hit);
        let is_elsewhere = port_in(word).is_some_and(|port| port != packet.port);
        // What it was asked besides may mean other things by now; the port means the same.
        if !is_of_now && has_passed && self.view.keep_established && !is_elsewhere {
            self.remember(packet, hit, outcome);
            return Ok(Judgement::Goes);
        }
        let mut question = self.question_of(packet, hit, state);
        question.is_rejudged = !is_of_now && has_passed;
        if question.is_rejudged {
            self.counters.count(Event::Rejudged);
        }
        let answer = if packet.side == Side::Host {
            self.ask_leave(frame, &mut question)
        } else {
            let is_older = !is_of_now && self.is_led_by_older(hit);
            if is_older && !self.is_still_led(&question, packet, word) {
                self.revoke(hit);
                return Ok(Judgement::Revoked);
            }
            let to = hit.translated();
            let is_led = hit.flow.kind == Kind::Redirect && hit.direction == Direction::Original;
            // Zones may go by the port.
            if is_older || (is_led && is_elsewhere) {
                self.ask_zones(frame, &question, &question.tuple, to.dst)?;
            }
            self.pass_arrival(frame, &mut question)
                .and_then(|()| self.ask_input(frame, &mut question, &to))
        };
        match answer {
            Ok(()) => {
                self.remember(packet, hit, outcome);
                Ok(Judgement::Goes)
            }
            Err(refusal) => {
                // What has passed under these rules stays, whoever else tries.
                if !is_of_now {
                    let asked = self.settled & !OUTCOME | word & SENDER | ASKED;
                    self.flows.set_judged(hit, asked);
                }
                Err(refusal)
            }
        }
    }

    /// Whether the rules would lead the flow of this packet to a proxy, whichever, if it were
    /// the flow's first. That one came by the port in the flow's word: a packet that somebody sends
    /// by another port does not end the flow.
    fn is_still_led(&self, question: &Question, packet: &Packet, word: u64) -> bool {
        let mut first = Question {
            in_port: port_in(word).or(question.in_port),
            state: ConnState::New,
            is_tproxy: false,
            is_dnat: false,
            is_rejudged: true,
            ..*question
        };
        if packet.tcp().is_some() {
            first.tcp_flags = Some(TcpFlags::SYN);
        }
        // The first packet was counted and logged.
        let arrival = self.view.policy.arrive(&mut first, false, &mut ());
        matches!(arrival, Arrival::Redirect { .. })
    }

    fn revoke(&mut self, hit: &Hit) {
        self.flows.remove(hit.id, self.now_ns);
        self.flows_changed = true;
        self.counters.count(Event::Revoked);
    }

    /// An ICMP error about a flow's packet is related to the flow, and asked about each time.
    fn judge_error(&self, frame: &[u8], packet: &Packet, hit: &Hit) -> Result<Judgement, Refusal> {
        let mut question = self.question_of(packet, hit, ConnState::Related);
        if packet.side == Side::Host {
            self.ask_leave(frame, &mut question)?;
        } else {
            let to = packet.error_for(hit);
            self.pass_arrival(frame, &mut question)?;
            self.ask_input(frame, &mut question, &to)?;
        }
        Ok(Judgement::Goes)
    }
}
