//! What one direction of a flow has seen. One writer (the worker that carries the
//! direction) stores; everyone reads. Loads and stores are relaxed: a count that is
//! a packet behind harms nobody, and a direction that changes its worker loses at
//! most what the two carried at the same moment.

use wire::{Protocol, TcpFlags, TcpHeader};

use crate::key::Side;
use crate::sync::{AtomicU64, Ordering::Relaxed};

const SYN: u64 = 1;
const ACK: u64 = 1 << 1;
const FIN: u64 = 1 << 2;
const RST: u64 = 1 << 3;
/// This direction has acknowledged the other's FIN.
const ACKED_FIN: u64 = 1 << 4;
/// Not TCP's alone: this direction had packets before its flow was made.
const CARRIED: u64 = 1 << 5;

/// Counters and TCP marks of one direction, a cache line of its own.
#[repr(align(64))]
#[derive(Debug)]
pub(crate) struct Lane {
    packets: AtomicU64,
    bytes: AtomicU64,
    last_seen_ns: AtomicU64,
    tcp: AtomicU64,
    /// Initial sequence number in the upper half, the end of the FIN in the lower.
    seqs: AtomicU64,
    /// Of the box's own direction alone: the sequence number that it would send next in the
    /// upper half, the one that it expects next in the lower.
    expected: AtomicU64,
    /// What the rules were asked about this direction; 0 if they never let anything pass.
    judged: AtomicU64,
}

/// A reading of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LaneCounters {
    /// Packets carried.
    pub packets: u64,
    /// Bytes of IP packets carried.
    pub bytes: u64,
    /// When the last one passed; 0 if none has.
    pub last_seen_ns: u64,
    pub(crate) tcp: u64,
    pub(crate) seqs: u64,
}

impl Lane {
    pub(crate) fn new() -> Self {
        Self {
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            last_seen_ns: AtomicU64::new(0),
            tcp: AtomicU64::new(0),
            seqs: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            judged: AtomicU64::new(0),
        }
    }

    pub(crate) fn clear(&self) {
        for word in [
            &self.packets,
            &self.bytes,
            &self.last_seen_ns,
            &self.tcp,
            &self.seqs,
            &self.expected,
            &self.judged,
        ] {
            word.store(0, Relaxed);
        }
    }

    pub(crate) fn read(&self) -> LaneCounters {
        LaneCounters {
            packets: self.packets.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            last_seen_ns: self.last_seen_ns.load(Relaxed),
            tcp: self.tcp.load(Relaxed),
            seqs: self.seqs.load(Relaxed),
        }
    }

    pub(crate) fn judged(&self) -> u64 {
        self.judged.load(Relaxed)
    }

    pub(crate) fn set_judged(&self, word: u64) {
        self.judged.store(word, Relaxed);
    }

    pub(crate) fn has_carried(&self) -> bool {
        self.packets.load(Relaxed) != 0 || self.tcp.load(Relaxed) & CARRIED != 0
    }

    /// Notes that packets went this way before there was a flow to count them. Only while
    /// nobody else has the lane.
    pub(crate) fn set_carried(&self) {
        self.tcp.store(CARRIED, Relaxed);
    }

    /// Adds one packet. Not a read-modify-write: there is one writer.
    pub(crate) fn count(&self, now_ns: u64, bytes: u64) {
        self.packets
            .store(self.packets.load(Relaxed).wrapping_add(1), Relaxed);
        self.bytes
            .store(self.bytes.load(Relaxed).wrapping_add(bytes), Relaxed);
        self.last_seen_ns.store(now_ns, Relaxed);
    }

    /// Marks what a TCP header says about this direction; `other` is the opposite lane.
    ///
    /// What comes from the wire is believed only where its sender shows that it has seen the
    /// box's own packets, which nobody can forge: a handshake is complete, and a reset ends a
    /// flow, by the exact number alone (RFC 5961 3.2).
    pub(crate) fn mark_tcp(&self, other: &Self, header: &TcpHeader, side: Side) {
        let before = self.tcp.load(Relaxed);
        let mut marks = before;
        let seqs = self.seqs.load(Relaxed);
        let (mut isn, mut fin_end) = ((seqs >> 32) as u32, seqs as u32);
        if header.flags.any(TcpFlags::RST) {
            if side == Side::Host || other.expects_reset(header) {
                marks |= RST;
            }
        } else {
            // Traffic after a reset means that the end did not believe it (RFC 5961).
            marks &= !RST;
        }
        if header.flags.any(TcpFlags::SYN) {
            marks |= SYN;
            isn = header.seq;
        }
        if header.flags.any(TcpFlags::FIN) {
            marks |= FIN;
            fin_end = header.seq_end();
        }
        if header.flags.any(TcpFlags::ACK) {
            marks |= other.acknowledged_by(header, side);
        }
        if marks != before {
            self.tcp.store(marks, Relaxed);
        }
        let now = u64::from(isn) << 32 | u64::from(fin_end);
        if now != seqs {
            self.seqs.store(now, Relaxed);
        }
        if side == Side::Host {
            self.expect(header);
        }
    }

    /// The marks that the opposite direction earns by acknowledging this one.
    fn acknowledged_by(&self, header: &TcpHeader, side: Side) -> u64 {
        let (own, seqs) = (self.tcp.load(Relaxed), self.seqs.load(Relaxed));
        let (isn, fin_end) = ((seqs >> 32) as u32, seqs as u32);
        let mut earned = 0;
        if own & SYN != 0 && (side == Side::Host || header.ack == isn.wrapping_add(1)) {
            earned |= ACK;
        }
        if own & FIN != 0 && header.ack.wrapping_sub(fin_end) as i32 >= 0 {
            earned |= ACKED_FIN;
        }
        earned
    }

    /// Notes what the box has sent and what it expects.
    fn expect(&self, header: &TcpHeader) {
        let expected = self.expected.load(Relaxed);
        let (mut next, mut ack) = ((expected >> 32) as u32, expected as u32);
        let end = header.seq_end();
        if expected == 0 || end.wrapping_sub(next) as i32 > 0 {
            next = end;
        }
        if header.flags.any(TcpFlags::ACK) {
            ack = header.ack;
        }
        let now = u64::from(next) << 32 | u64::from(ack);
        if now != expected {
            self.expected.store(now, Relaxed);
        }
    }

    /// Whether a reset from the other end shows that it knows this direction: it stands where
    /// this one expects the next byte, or acknowledges all that this one has sent.
    fn expects_reset(&self, header: &TcpHeader) -> bool {
        let expected = self.expected.load(Relaxed);
        let (next, ack) = ((expected >> 32) as u32, expected as u32);
        expected != 0
            && (header.seq == ack || (header.flags.any(TcpFlags::ACK) && header.ack == next))
    }
}

impl LaneCounters {
    const fn has(&self, mark: u64) -> bool {
        self.tcp & mark != 0
    }

    const fn has_carried(&self) -> bool {
        self.packets != 0 || self.has(CARRIED)
    }

    /// The initial sequence number, if a SYN of this direction was seen.
    pub(crate) const fn isn(&self) -> Option<u32> {
        if self.has(SYN) {
            Some((self.seqs >> 32) as u32)
        } else {
            None
        }
    }
}

/// Where a flow stands, derived from what its two directions have seen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FlowState {
    /// TCP: a SYN, no answer yet.
    SynSent,
    /// TCP: the SYN is answered by a SYN, the handshake is not complete.
    SynReceived,
    /// TCP: picked up in mid-stream, no answer yet.
    PickedUp,
    /// TCP: open.
    Established,
    /// TCP: one side has sent FIN; the other may go on as long as it likes (RFC 6146 3.5.2).
    HalfClosed,
    /// TCP: both sides have sent FIN, not both are acknowledged.
    Closing,
    /// TCP: both FINs acknowledged, or reset.
    Closed,
    /// Not TCP: no answer seen.
    Unreplied,
    /// Not TCP: answered.
    Replied,
}

impl FlowState {
    /// Every state, in the order of a flow's life.
    pub const ALL: [Self; 9] = [
        Self::SynSent,
        Self::SynReceived,
        Self::PickedUp,
        Self::Established,
        Self::HalfClosed,
        Self::Closing,
        Self::Closed,
        Self::Unreplied,
        Self::Replied,
    ];

    /// The name that people and JSON see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::PickedUp => "picked_up",
            Self::Established => "established",
            Self::HalfClosed => "half_closed",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Unreplied => "unreplied",
            Self::Replied => "replied",
        }
    }

    pub(crate) fn of_tcp(orig: &LaneCounters, reply: &LaneCounters) -> Self {
        let either = |mark| orig.has(mark) || reply.has(mark);
        let both = |mark| orig.has(mark) && reply.has(mark);
        if either(RST) || both(ACKED_FIN) {
            Self::Closed
        } else if both(FIN) {
            Self::Closing
        } else if either(FIN) {
            Self::HalfClosed
        } else if orig.has(CARRIED) {
            // It was open when its flow was made: a SYN of whoever sends it changes nothing.
            Self::Established
        } else if !orig.has(SYN) && !reply.has_carried() {
            Self::PickedUp
        } else if !orig.has(SYN) || (reply.has(SYN) && orig.has(ACK)) {
            Self::Established
        } else if reply.has(SYN) {
            Self::SynReceived
        } else {
            Self::SynSent
        }
    }

    pub(crate) fn of_other(reply: &LaneCounters) -> Self {
        if reply.has_carried() {
            Self::Replied
        } else {
            Self::Unreplied
        }
    }
}

/// How long an idle flow lives in each state, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// Established and half-closed TCP (RFC 5382 REQ-5: at least 2 h 4 min).
    pub tcp_established_ns: u64,
    /// TCP being opened. Longer than a SYN or its answer takes to be sent again; shorter than
    /// RFC 5382 asks of a NAT for its outside addresses, since anybody can open these.
    pub tcp_handshake_ns: u64,
    /// TCP being closed (RFC 5382 REQ-5: at least 4 min).
    pub tcp_transitory_ns: u64,
    /// TCP after both FINs are acknowledged, or after a reset. Longer than the 60 s that
    /// the kernel keeps a TIME-WAIT socket, so that the tuple shown to a proxy is not
    /// given to another connection while the proxy's kernel still remembers the old one.
    pub tcp_closed_ns: u64,
    /// UDP and all else (RFC 4787 REQ-5: at least 2 min, 5 min or more by default).
    /// ICMP queries have a minute of it at most (RFC 5508 REQ-2).
    pub other_ns: u64,
    /// The same while there is no answer. Shorter, since anybody can make such flows.
    pub other_unreplied_ns: u64,
}

/// An ICMP query that has been answered needs no more (RFC 5508 REQ-2).
const ICMP_NS: u64 = 60 * SECOND;
/// One that has not been answered.
const ICMP_UNREPLIED_NS: u64 = 30 * SECOND;
/// What has not got on, while the table is nearly full.
const PRESSED_NS: u64 = 5 * SECOND;

const SECOND: u64 = 1_000_000_000;

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established_ns: 7440 * SECOND,
            tcp_handshake_ns: 60 * SECOND,
            tcp_transitory_ns: 240 * SECOND,
            tcp_closed_ns: 70 * SECOND,
            other_ns: 300 * SECOND,
            other_unreplied_ns: 30 * SECOND,
        }
    }
}

impl Timeouts {
    /// The timeouts of a table that is nearly full: handshakes that do not get on, and what
    /// nobody has answered, make room. They are not live flows yet.
    #[must_use]
    pub fn under_pressure(mut self) -> Self {
        self.tcp_handshake_ns = self.tcp_handshake_ns.min(PRESSED_NS);
        self.other_unreplied_ns = self.other_unreplied_ns.min(PRESSED_NS);
        self
    }

    /// The timeout of a flow of this protocol in this state.
    #[must_use]
    pub fn of(&self, proto: Protocol, state: FlowState) -> u64 {
        let is_icmp = proto == Protocol::ICMP;
        match state {
            FlowState::Established | FlowState::HalfClosed => self.tcp_established_ns,
            FlowState::SynSent | FlowState::SynReceived | FlowState::PickedUp => {
                self.tcp_handshake_ns
            }
            FlowState::Closing => self.tcp_transitory_ns,
            FlowState::Closed => self.tcp_closed_ns,
            FlowState::Unreplied if is_icmp => self.other_unreplied_ns.min(ICMP_UNREPLIED_NS),
            FlowState::Unreplied => self.other_unreplied_ns,
            FlowState::Replied if is_icmp => self.other_ns.min(ICMP_NS),
            FlowState::Replied => self.other_ns,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn segment(flags: u8, seq: u32, ack: u32, payload_bytes: u16) -> TcpHeader {
        TcpHeader {
            flags: TcpFlags(flags),
            seq,
            ack,
            payload_bytes,
        }
    }

    const F: u8 = TcpFlags::FIN;
    const S: u8 = TcpFlags::SYN;
    const R: u8 = TcpFlags::RST;
    const A: u8 = TcpFlags::ACK;

    /// Plays segments, `true` for the original direction, and names the state after each.
    fn play(segments: &[(bool, TcpHeader)]) -> Vec<FlowState> {
        let (orig, reply) = (Lane::new(), Lane::new());
        let mut states = Vec::new();
        for (original, header) in segments {
            let (from, to) = if *original {
                (&orig, &reply)
            } else {
                (&reply, &orig)
            };
            from.count(1, 40);
            let side = if *original { Side::Wire } else { Side::Host };
            from.mark_tcp(to, header, side);
            states.push(FlowState::of_tcp(&orig.read(), &reply.read()));
        }
        states
    }

    #[test]
    fn a_connection_opens_half_closes_and_closes() {
        use FlowState as T;
        let states = play(&[
            (true, segment(S, 100, 0, 0)),
            (false, segment(S | A, 500, 101, 0)),
            (true, segment(A, 101, 501, 0)),
            (true, segment(F | A, 101, 501, 10)),
            (false, segment(A, 501, 112, 1000)),
            (false, segment(F | A, 1501, 112, 0)),
            (true, segment(A, 112, 1501, 0)),
            (true, segment(A, 112, 1502, 0)),
        ]);
        let want = [
            T::SynSent,
            T::SynReceived,
            T::Established,
            T::HalfClosed,
            T::HalfClosed,
            T::Closing,
            T::Closing,
            T::Closed,
        ];
        assert_eq!(states, want);
    }

    #[test]
    fn a_fin_that_crosses_the_end_of_sequence_space_is_acknowledged() {
        let states = play(&[
            (true, segment(A, u32::MAX - 4, 7, 0)),
            (true, segment(F | A, u32::MAX - 4, 7, 10)),
            (false, segment(F | A, 7, 6, 0)),
            (true, segment(A, 6, 8, 0)),
        ]);
        assert_eq!(states.last(), Some(&FlowState::Closed));
    }

    /// An open connection: the client's next byte is 101, the box's 501.
    fn open() -> Vec<(bool, TcpHeader)> {
        vec![
            (true, segment(S, 100, 0, 0)),
            (false, segment(S | A, 500, 101, 0)),
            (true, segment(A, 101, 501, 0)),
        ]
    }

    #[test]
    fn a_reset_closes_until_its_sender_goes_on() {
        use FlowState as T;
        let resets = [segment(R, 101, 0, 0), segment(R | A, 7777, 501, 0)];
        for reset in resets {
            let mut story = open();
            story.push((true, reset));
            assert_eq!(play(&story).last(), Some(&T::Closed));
            story.push((true, segment(A, 101, 501, 5)));
            assert_eq!(play(&story).last(), Some(&T::Established));
        }
        let mut story = open();
        story.push((false, segment(R, 9999, 0, 0)));
        assert_eq!(
            play(&story).last(),
            Some(&T::Closed),
            "the box knows what it says"
        );
    }

    #[test]
    fn a_reset_that_knows_nothing_changes_nothing() {
        for forged in [
            segment(R, 102, 0, 0),
            segment(R, 0, 501, 0),
            segment(R | A, 0, 500, 0),
        ] {
            let mut story = open();
            story.push((true, forged));
            assert_eq!(
                play(&story).last(),
                Some(&FlowState::Established),
                "{forged:?}"
            );
        }
    }

    #[test]
    fn a_refused_syn_is_closed() {
        let refused = [
            (true, segment(S, 100, 0, 0)),
            (false, segment(R | A, 0, 101, 0)),
        ];
        assert_eq!(play(&refused).last(), Some(&FlowState::Closed));
    }

    #[test]
    fn only_the_right_number_completes_a_handshake() {
        let mut story = open();
        story.pop();
        for ack in [0, 500, 502, u32::MAX] {
            story.push((true, segment(A, 101, ack, 0)));
            assert_eq!(play(&story).last(), Some(&FlowState::SynReceived), "{ack}");
        }
        story.push((true, segment(A, 101, 501, 10)));
        assert_eq!(play(&story).last(), Some(&FlowState::Established));
    }

    #[test]
    fn what_is_picked_up_is_open_when_it_is_answered() {
        use FlowState as T;
        let states = play(&[(true, segment(A, 1, 1, 5)), (false, segment(A, 1, 6, 0))]);
        assert_eq!(states, [T::PickedUp, T::Established]);
    }
}
