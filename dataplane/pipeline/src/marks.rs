//! MAC addresses that carry a port's number over the host port.
//!
//! A frame between a NIC and the host port has one MAC address that says nothing, since it
//! is the NIC's own: the source of what the stack sends, the destination of what the wire
//! sends. The mark takes its place there and is replaced before the frame leaves.

use policy::PortId;
use wire::MacAddr;

/// Locally administered, unicast.
const FIRST_BYTE: u8 = 0x06;
const KIND_FROM_WIRE: u8 = 1;
const KIND_FROM_STACK: u8 = 2;
const KIND_TO_STACK: u8 = 3;
const KIND_FROM_STRANGER: u8 = 4;

/// Where a marked frame on the host port comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// From the wire at this port, by the slow lane.
    FromWire(PortId),
    /// From the stack, which would have sent it by this port.
    FromStack(PortId),
    /// The same, from a registered endpoint, but not from a registered socket.
    FromStranger(PortId),
}

/// The marks of one run, made unguessable by random bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    secret: [u8; 3],
}

impl Marks {
    /// Marks with these random bits.
    #[must_use]
    pub const fn new(secret: [u8; 3]) -> Self {
        Self { secret }
    }

    const fn mac(self, kind: u8, port: u8) -> MacAddr {
        let [a, b, c] = self.secret;
        MacAddr([FIRST_BYTE, a, b, c, kind, port])
    }

    /// The destination of a slow-lane frame from the wire.
    #[must_use]
    pub const fn from_wire(self, port: PortId) -> MacAddr {
        self.mac(KIND_FROM_WIRE, port.0)
    }

    /// The source of a frame that the stack would have sent by this port.
    #[must_use]
    pub const fn from_stack(self, port: PortId) -> MacAddr {
        self.mac(KIND_FROM_STACK, port.0)
    }

    /// The source of a frame that the stack would have sent by this port, for a socket that is
    /// not registered though its endpoint is: it shares it, or has it after another.
    #[must_use]
    pub const fn from_stranger(self, port: PortId) -> MacAddr {
        self.mac(KIND_FROM_STRANGER, port.0)
    }

    /// The destination of a frame that the stack shall see arrive at this port.
    #[must_use]
    pub const fn to_stack(self, port: PortId) -> MacAddr {
        self.mac(KIND_TO_STACK, port.0)
    }

    /// Reads the mark of a frame that came in by the host port.
    #[must_use]
    pub fn read(self, frame: &[u8]) -> Option<Mark> {
        let macs: &[u8; 12] = frame.first_chunk()?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *macs;
        let (dst, src) = (
            MacAddr([d0, d1, d2, d3, d4, d5]),
            MacAddr([s0, s1, s2, s3, s4, s5]),
        );
        if dst == self.from_wire(PortId(d5)) {
            Some(Mark::FromWire(PortId(d5)))
        } else if src == self.from_stack(PortId(s5)) {
            Some(Mark::FromStack(PortId(s5)))
        } else if src == self.from_stranger(PortId(s5)) {
            Some(Mark::FromStranger(PortId(s5)))
        } else {
            None
        }
    }
}
