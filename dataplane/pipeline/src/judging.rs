//! What the rules have said of a flow's packets, remembered in the flow, and when they are
//! asked again.
//!
//! Each direction has a word: the generation of the rules that let it pass, and whether they
//! were asked about it as one of an answered flow. A denial leaves no word, so every packet is
//! asked about until one passes or the flow has gone.

use policy::{Arrival, ConnState, Packet as Question};
use tables::{Direction, Hit, Kind, Side};
use wire::{Fragment, TcpFlags, Transport};

use crate::batch::{Packet, Stage};
use crate::counters::Event;
use crate::drops::DropReason;
use crate::refusing::Refusal;

/// The direction has passed.
const PASSED: u64 = 1;
/// It has passed as one of an answered flow.
const ESTABLISHED: u64 = 1 << 1;

/// The word of a direction that nothing is left to ask about.
pub(crate) fn settled(generation: u32) -> u64 {
    u64::from(generation) << 32 | ESTABLISHED | PASSED
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
            return Ok(Judgement::Goes);
        }
        if matches!(packet.headers.transport, Transport::Icmp(icmp) if icmp.is_error()) {
            return self.judge_error(frame, packet, hit);
        }
        if self.flows.judged(hit) == self.settled {
            return Ok(Judgement::Goes);
        }
        self.judge_again(frame, packet, hit)
    }

    /// Notes that the rules let the first packet of a flow pass.
    pub(crate) fn note_first(&self, hit: &Hit) {
        if self.judges {
            self.flows.set_judged(hit, self.settled & !ESTABLISHED);
        }
    }

    fn judge_again(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        hit: &Hit,
    ) -> Result<Judgement, Refusal> {
        let is_answered = hit.direction == Direction::Reply || self.flows.is_answered(hit);
        let (state, wanted) = if is_answered {
            (ConnState::Established, self.settled)
        } else {
            (ConnState::New, self.settled & !ESTABLISHED)
        };
        let word = self.flows.judged(hit);
        let is_of_now = word & PASSED != 0 && word >> 32 == self.settled >> 32;
        if is_of_now && word & wanted == wanted {
            return Ok(Judgement::Goes);
        }
        let has_passed = self.flows.has_carried(hit);
        if !is_of_now && has_passed && self.view.keep_established {
            self.flows.set_judged(hit, wanted);
            return Ok(Judgement::Goes);
        }
        let mut question = self.question_of(packet, hit, state);
        question.is_rejudged = !is_of_now && has_passed;
        if question.is_rejudged {
            self.counters.count(Event::Rejudged);
        }
        if packet.side == Side::Host {
            self.ask_leave(frame, &mut question)?;
        } else {
            let is_older = !is_of_now && hit.flow.generation != self.view.policy.generation();
            let is_led = hit.flow.kind == Kind::Redirect && hit.direction == Direction::Original;
            if is_led && is_older && !self.is_still_led(&question, packet) {
                self.revoke(hit);
                return Ok(Judgement::Revoked);
            }
            let to = hit.translated();
            if is_led && is_older {
                self.ask_zones(frame, &question, &question.tuple, to.dst)?;
            }
            self.pass_arrival(frame, &mut question)?;
            self.ask_input(frame, &mut question, &to)?;
        }
        self.flows.set_judged(hit, wanted);
        Ok(Judgement::Goes)
    }

    /// Whether the rules would lead the flow of this packet to a proxy, whichever, if it were
    /// the flow's first.
    fn is_still_led(&self, question: &Question, packet: &Packet) -> bool {
        let mut first = Question {
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
