//! Packets that go nowhere, and what their senders are told.

use std::net::Ipv4Addr;

use policy::{RejectWith, Stop};
use wire::UNREACHABLE_ADDS;

use crate::batch::{Frames, Packet, Stage, Verdict};
use crate::counters::Event;
use crate::drops::{DropExample, DropReason};

/// A packet that goes nowhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    reason: DropReason,
    answer: Answer,
}

/// What the sender of a refused packet is told.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Nothing,
    /// A reset, if it is TCP.
    Reset,
    /// What a REJECT says, by this address.
    Reject(RejectWith, Ipv4Addr),
}

impl Refusal {
    pub(crate) const fn drop(reason: DropReason) -> Self {
        Self {
            reason,
            answer: Answer::Nothing,
        }
    }

    pub(crate) const fn reset(reason: DropReason) -> Self {
        Self {
            reason,
            answer: Answer::Reset,
        }
    }

    /// What rules have stopped: a plain drop has the name `denied`, and `source` is who speaks.
    pub(crate) const fn stopped(stop: Stop, denied: DropReason, source: Ipv4Addr) -> Self {
        match stop {
            Stop::Drop => Self::drop(denied),
            Stop::Nat => Self::drop(DropReason::NotTranslated),
            Stop::Reject(with) => Self {
                reason: DropReason::RuleReject,
                answer: Answer::Reject(with, source),
            },
        }
    }
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self::drop(reason)
    }
}

impl Stage<'_> {
    /// Drops a packet, and tells its sender so as far as that is wanted and may be.
    pub(crate) fn refuse(
        &mut self,
        frames: &mut impl Frames,
        at: usize,
        packet: &Packet,
        refusal: Refusal,
    ) -> Verdict {
        let Refusal { reason, answer } = refusal;
        let told = match answer {
            Answer::Nothing => None,
            Answer::Reset => self.reset(frames, at, packet, reason),
            Answer::Reject(with, source) => self.reject(frames, at, packet, (with, source)),
        };
        told.unwrap_or(Verdict::Drop(reason))
    }

    /// Sends a reset back to where the packet came from, if it may be answered so.
    fn reset(
        &mut self,
        frames: &mut impl Frames,
        at: usize,
        packet: &Packet,
        reason: DropReason,
    ) -> Option<Verdict> {
        // The reset takes the frame's place.
        let example = DropExample::new(reason, self.now_ns, frames.bytes(at));
        let len = wire::reset_for(frames.bytes(at), &packet.headers)?;
        self.count_drop(reason, || example);
        self.counters.count(Event::Refused);
        Some(self.send_back(frames, at, packet, len))
    }

    /// Sends back what a REJECT says, if the packet may be answered and not too many were.
    fn reject(
        &mut self,
        frames: &mut impl Frames,
        at: usize,
        packet: &Packet,
        (with, source): (RejectWith, Ipv4Addr),
    ) -> Option<Verdict> {
        if self.view.is_group(packet.headers.tuple.dst.addr) {
            return None;
        }
        if !self.allowance.has_some(self.now_ns) {
            self.counters.count(Event::RejectsLimited);
            return None;
        }
        let reason = DropReason::RuleReject;
        let example = DropExample::new(reason, self.now_ns, frames.bytes(at));
        let len = match with.code() {
            None => wire::reset_for(frames.bytes(at), &packet.headers)?,
            Some(code) => {
                let before = frames.bytes(at).len();
                frames.lengthen(at, before + UNREACHABLE_ADDS);
                let frame = frames.bytes(at);
                let Some(len) = wire::unreachable_for(frame, &packet.headers, code, source) else {
                    frames.shorten(at, before);
                    return None;
                };
                len
            }
        };
        self.allowance.spend();
        self.count_drop(reason, || example);
        self.counters.count(Event::Rejected);
        Some(self.send_back(frames, at, packet, len))
    }

    fn send_back(
        &self,
        frames: &mut impl Frames,
        at: usize,
        packet: &Packet,
        len: usize,
    ) -> Verdict {
        let verdict = self.send(frames.bytes(at), packet.port, packet.side);
        frames.shorten(at, len);
        verdict
    }
}

/// At most this many answers at once.
const BURST: u64 = 100;
/// One more may be given after this time. With the burst: at most 1000 in any second.
const EVERY_NS: u64 = 1_000_000_000 / 900;

/// How much a worker may tell those whom rules reject: a bucket of time.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    /// When the bucket would be full if nothing were taken from it any more.
    full_at_ns: u64,
}

impl Allowance {
    fn has_some(&mut self, now_ns: u64) -> bool {
        self.full_at_ns = self.full_at_ns.max(now_ns);
        self.full_at_ns - now_ns <= (BURST - 1) * EVERY_NS
    }

    /// Only after [`Self::has_some`].
    fn spend(&mut self) {
        self.full_at_ns = self.full_at_ns.saturating_add(EVERY_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_a_thousand_answers() {
        const SECOND: u64 = 1_000_000_000;
        let mut allowance = Allowance::default();
        let mut given = Vec::new();
        for now_ns in (SECOND..4 * SECOND).step_by(100_000) {
            if allowance.has_some(now_ns) {
                allowance.spend();
                given.push(now_ns);
            }
        }
        for (first, start) in given.iter().enumerate() {
            let within = given[first..].iter().take_while(|&&at| at < start + SECOND);
            assert!(within.count() <= 1000);
        }
        assert!((2700..2900).contains(&given.len()), "{}", given.len());
    }

    #[test]
    fn a_clock_that_goes_back_harms_nothing() {
        let mut allowance = Allowance::default();
        assert!(allowance.has_some(u64::MAX));
        allowance.spend();
        assert!(!allowance.has_some(5));
    }
}
