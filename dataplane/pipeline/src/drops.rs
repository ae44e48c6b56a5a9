//! Why frames are dropped, and what one such frame looked like.

use crossbeam::queue::ArrayQueue;
use wire::{EtherType, ParseError};

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Why a frame was dropped. Each has one counter.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl DropReason {
            /// Every reason, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name that people and JSON see.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// One line that explains it.
            #[must_use]
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends inside a header.
    Truncated = "truncated",
    /// More than two VLAN tags.
    TooManyTags = "too_many_tags",
    /// Transit IPv6, which is not carried yet.
    Ipv6 = "ipv6",
    /// Neither IPv4 nor IPv6.
    NotIp = "not_ip",
    /// A bad IPv4 version, header length or total length.
    BadIpHeader = "bad_ip_header",
    /// A wrong IPv4 header checksum.
    BadIpChecksum = "bad_ip_checksum",
    /// A TCP or UDP header whose lengths do not fit.
    BadTransportHeader = "bad_transport_header",
    /// An IPv4 fragment of transit or of a taken endpoint.
    Fragment = "fragment",
    /// A frame on the host port that carries no mark.
    Unmarked = "unmarked",
    /// A source address that no host may have: multicast, loopback, broadcast or zero.
    BadSource = "bad_source",
    /// A destination that is no host of another network: multicast, loopback, broadcast or zero.
    BadDestination = "bad_destination",
    /// A packet with a source address of the box itself came back from the wire: a proxy's connection led into the rule that feeds the proxy, or a neighbour routes in a circle. Refused with a reset.
    Loop = "loop",
    /// A TCP packet that opens no connection and belongs to no flow.
    NoFlow = "no_flow",
    /// The stack answered from a taken endpoint, but the flow has gone.
    NoFlowFromStack = "no_flow_from_stack",
    /// A rule or a chain's policy said DROP before the packet's way was known: raw, mangle or tproxy PREROUTING.
    RuleDrop = "rule_drop",
    /// Transit that no rule took, and that FORWARD did not accept.
    ForwardDenied = "forward_denied",
    /// FORWARD accepted it, but transit is not forwarded yet.
    NotForwarded = "not_forwarded",
    /// A nat rule took it, but addresses are not translated by rules yet.
    NotTranslated = "not_translated",
    /// A rule or a chain's policy said DROP to what would reach the box itself or a proxy on it: mangle or filter INPUT.
    InputDenied = "input_denied",
    /// A rule or a chain's policy said DROP to what the box sends: raw, mangle or filter OUTPUT, or mangle POSTROUTING.
    OutputDenied = "output_denied",
    /// A rule said REJECT. The sender is told, unless it must not be or too many were.
    RuleReject = "rule_reject",
    /// The zones do not let the client's reach the server's by this service. Refused with a reset.
    ZoneDenied = "zone_denied",
    /// A TPROXY rule with --on-no-listener drop, and nobody listens where it leads.
    NoListener = "no_listener",
    /// A TPROXY rule without --on-ip, on an interface without an address. Refused with a reset.
    NoLocalAddress = "no_local_address",
    /// A TPROXY rule whose --on-ip is no address of the box. Refused with a reset.
    ProxyNotLocal = "proxy_not_local",
    /// Every source port tried to tell two connections apart was taken.
    NoPort = "no_port",
    /// Registrations were being changed all the time that the packet was looked at. Its sender tries again.
    RegistrationBusy = "registration_busy",
    /// A registered connection from a foreign endpoint to a server that another flow already connects.
    ForeignTaken = "foreign_taken",
    /// A packet of a socket that is not registered, or was not yet, on the flow or from the local endpoint of a registered one.
    Stranger = "stranger",
    /// The registration was withdrawn before its flow was made, or is for another peer.
    OwnerGone = "owner_gone",
    /// The box sent it while rules changed, and its sender's user was not asked about as the new ones want. Its sender tries again.
    RulesChanging = "rules_changing",
    /// The flow table is full. Live flows are never evicted.
    TableFull = "table_full",
    /// An ICMP error about a packet of no known flow.
    IcmpNoFlow = "icmp_no_flow",
    /// The transmit ring of the outgoing port is full.
    TxFull = "tx_full",
    /// No such port: it went away with a new configuration.
    NoPortThere = "no_such_port",
}

impl DropReason {
    pub(crate) const fn of(error: ParseError) -> Self {
        match error {
            ParseError::Truncated => Self::Truncated,
            ParseError::TooManyTags => Self::TooManyTags,
            ParseError::NotIpv4(EtherType::IPV6) => Self::Ipv6,
            ParseError::NotIpv4(_) => Self::NotIp,
            ParseError::BadIpHeader => Self::BadIpHeader,
            ParseError::BadIpChecksum => Self::BadIpChecksum,
            ParseError::BadTransportHeader => Self::BadTransportHeader,
        }
    }
}

/// Bytes kept of an example.
pub const EXAMPLE_BYTES: usize = 96;
/// How often a reason may give an example, in nanoseconds.
const EXAMPLE_EVERY_NS: u64 = 200_000_000;
/// Examples that wait for the control thread.
const EXAMPLES_WAITING: usize = 64;

/// The beginning of a frame that was dropped.
#[derive(Clone, Copy, Debug)]
pub struct DropExample {
    /// Why.
    pub reason: DropReason,
    /// When.
    pub at_ns: u64,
    /// Its whole length.
    pub frame_bytes: u32,
    /// Its first bytes; `frame_bytes` of them if that is fewer.
    pub head: [u8; EXAMPLE_BYTES],
}

impl DropExample {
    pub(crate) fn new(reason: DropReason, at_ns: u64, frame: &[u8]) -> Self {
        Self {
            reason,
            at_ns,
            frame_bytes: frame.len() as u32,
            head: head_of(frame),
        }
    }
}

/// The first bytes of a frame.
pub(crate) fn head_of(frame: &[u8]) -> [u8; EXAMPLE_BYTES] {
    let mut head = [0; EXAMPLE_BYTES];
    for (to, from) in head.iter_mut().zip(frame) {
        *to = *from;
    }
    head
}

/// Where a worker leaves examples for whoever wants to look; the oldest gives way.
#[derive(Debug)]
pub struct Examples {
    queue: ArrayQueue<DropExample>,
}

impl Default for Examples {
    fn default() -> Self {
        Self {
            queue: ArrayQueue::new(EXAMPLES_WAITING),
        }
    }
}

impl Examples {
    /// Takes the oldest example.
    #[must_use]
    pub fn take(&self) -> Option<DropExample> {
        self.queue.pop()
    }

    pub(crate) fn put(&self, example: DropExample) {
        self.queue.force_push(example);
    }
}

/// When each reason last gave an example.
#[derive(Debug)]
pub(crate) struct ExampleClock([u64; DropReason::ALL.len()]);

impl ExampleClock {
    pub(crate) const fn new() -> Self {
        Self([0; DropReason::ALL.len()])
    }

    pub(crate) fn due(&mut self, reason: DropReason, now_ns: u64) -> bool {
        let Some(last) = self.0.get_mut(reason as usize) else {
            return false;
        };
        let due = *last == 0 || now_ns.saturating_sub(*last) >= EXAMPLE_EVERY_NS;
        if due {
            *last = now_ns.max(1);
        }
        due
    }
}
