//! MAC addresses that carry a port's number over the host port.
//!
//! A frame between a NIC and the host port has one MAC address that says nothing, since it
//! is the NIC's own: the source of what the stack sends, the destination of what the wire
//! sends. The mark takes its place there and is replaced before the frame leaves.

use policy::PortId;
use wire::MacAddr;

/// Locally administered, unicast; the other bits of the first byte are random.
const LOCAL_BIT: u8 = 0x02;
const RANDOM_BITS: u8 = 0xfc;
const KIND_FROM_WIRE: u8 = 1;
const KIND_FROM_STACK: u8 = 2;
const KIND_TO_STACK: u8 = 3;
const KIND_FROM_STRANGER: u8 = 4;
const KIND_FROM_BOX: u8 = 5;

/// Where a marked frame on the host port comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// From the wire at this port, by the slow lane.
    FromWire(PortId),
    /// From the stack, which would have sent it by this port; from a taken endpoint.
    FromStack {
        /// The port.
        port: PortId,
        /// What is known of the sender.
        owners: Owners,
    },
    /// The same, from a registered endpoint, but not from a registered socket.
    FromStranger {
        /// The port.
        port: PortId,
        /// What is known of the sender.
        owners: Owners,
    },
    /// From the stack, but from no taken endpoint: the rules want to know all that the box sends.
    FromBox {
        /// The port.
        port: PortId,
        /// What is known of the sender.
        owners: Owners,
    },
}

/// Which owner tests hold for a sender, and by which rules they were made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Owners {
    /// Bit *n*: owner test *n* holds.
    pub bits: u8,
    /// Rules with other tests have the other epoch.
    pub epoch: bool,
}

impl Owners {
    const EPOCH: u8 = 0x80;

    const fn of(byte: u8) -> Self {
        Self {
            bits: byte & !Self::EPOCH,
            epoch: byte & Self::EPOCH != 0,
        }
    }
}

/// The marks of one run, made unguessable by random bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    secret: [u8; 3],
}

impl Marks {
    /// Marks with these random bits. Two bits of the last byte have no place in a mark.
    #[must_use]
    pub const fn new(secret: [u8; 3]) -> Self {
        Self { secret }
    }

    const fn mac(self, kind: u8, last: [u8; 2]) -> MacAddr {
        let [a, b, c] = self.secret;
        let [x, y] = last;
        MacAddr([(c & RANDOM_BITS) | LOCAL_BIT, a, b, kind, x, y])
    }

    /// The destination of a slow-lane frame from the wire.
    #[must_use]
    pub const fn from_wire(self, port: PortId) -> MacAddr {
        self.mac(KIND_FROM_WIRE, [port.0, 0])
    }

    /// The source of a frame that the stack would have sent by this port. Its last byte tells
    /// which owner tests hold: none here.
    #[must_use]
    pub const fn from_stack(self, port: PortId) -> MacAddr {
        self.mac(KIND_FROM_STACK, [port.0, 0])
    }

    /// The source of a frame that the stack would have sent by this port, for a socket that is
    /// not registered though its endpoint is: it shares it, or has it after another. Its last
    /// byte tells which owner tests hold: none here.
    #[must_use]
    pub const fn from_stranger(self, port: PortId) -> MacAddr {
        self.mac(KIND_FROM_STRANGER, [port.0, 0])
    }

    /// The source of a frame that the stack would have sent by this port, from an endpoint that
    /// nobody has taken. Its last byte tells which owner tests hold: none here.
    #[must_use]
    pub const fn from_box(self, port: PortId) -> MacAddr {
        self.mac(KIND_FROM_BOX, [port.0, 0])
    }

    /// The destination of a frame that the stack shall see arrive at this port.
    #[must_use]
    pub const fn to_stack(self, port: PortId) -> MacAddr {
        self.mac(KIND_TO_STACK, [0, port.0])
    }

    /// Reads the mark of a frame that came in by the host port.
    #[must_use]
    pub fn read(self, frame: &[u8]) -> Option<Mark> {
        let macs: &[u8; 12] = frame.first_chunk()?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, kind, x, owners] = *macs;
        let dst = MacAddr([d0, d1, d2, d3, d4, d5]);
        if dst == self.from_wire(PortId(d4)) {
            return Some(Mark::FromWire(PortId(d4)));
        }
        let src = MacAddr([s0, s1, s2, kind, x, owners]);
        if src != self.mac(kind, [x, owners]) {
            return None;
        }
        let (port, owners) = (PortId(x), Owners::of(owners));
        match kind {
            KIND_FROM_STACK => Some(Mark::FromStack { port, owners }),
            KIND_FROM_STRANGER => Some(Mark::FromStranger { port, owners }),
            KIND_FROM_BOX => Some(Mark::FromBox { port, owners }),
            _ => None,
        }
    }
}
