//! One pass over a frame that finds where everything is.

use core::net::Ipv4Addr;

use crate::checksum;
use crate::ethernet::{ETHERNET_BYTES, EtherType, MacAddr, VLAN_TAG_BYTES};
use crate::tuple::{Endpoint, Protocol, Tuple};

/// How many 802.1Q tags a frame may carry.
const MAX_TAGS: usize = 2;
/// Bytes of an IPv4 header without options.
const IPV4_BYTES: usize = 20;

/// Why a frame is not one that this crate can read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParseError {
    /// The frame ends inside a header, or before the length that a header claims.
    Truncated,
    /// More than two 802.1Q tags.
    TooManyTags,
    /// Not IPv4; the EtherType behind the tags.
    NotIpv4(EtherType),
    /// The IP version is not 4, the header length below 5, or a length contradicts another.
    BadIpHeader,
    /// The IPv4 header checksum is wrong (RFC 1812 5.2.2).
    BadIpChecksum,
    /// A TCP data offset below 5 or past the segment, or a UDP length that does not fit.
    BadTransportHeader,
}

/// TCP control bits (RFC 9293 3.1), the byte as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field is significant.
    pub const ACK: u8 = 0x10;

    /// Whether any of `bits` is set.
    #[must_use]
    pub const fn any(self, bits: u8) -> bool {
        self.0 & bits != 0
    }

    /// Whether this opens a connection: SYN without ACK, RST or FIN.
    #[must_use]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }
}

/// What of a TCP header the dataplane reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpHeader {
    /// Control bits.
    pub flags: TcpFlags,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; meaningful if ACK is set.
    pub ack: u32,
    /// Bytes of payload.
    pub payload_bytes: u16,
}

impl TcpHeader {
    /// The sequence number that acknowledges all of this segment: SYN and FIN count one each.
    #[must_use]
    pub const fn seq_end(&self) -> u32 {
        let controls = self.flags.any(TcpFlags::SYN) as u32 + self.flags.any(TcpFlags::FIN) as u32;
        self.seq
            .wrapping_add(self.payload_bytes as u32)
            .wrapping_add(controls)
    }
}

/// What of an ICMP header the dataplane reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcmpHeader {
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The identifier of a request or a reply; 0 of anything else.
    pub id: u16,
    /// For an error with a readable embedded packet: its tuple, as the host that the error is
    /// about sent it.
    pub embedded: Option<Tuple>,
}

impl IcmpHeader {
    /// Whether it is an error about another packet (RFC 792: types 3, 4, 5, 11, 12).
    #[must_use]
    pub const fn is_error(&self) -> bool {
        matches!(self.kind, 3 | 4 | 5 | 11 | 12)
    }

    /// Whether it asks for a reply: echo, timestamp, information, address mask (RFC 950).
    #[must_use]
    pub const fn is_request(&self) -> bool {
        matches!(self.kind, 8 | 13 | 15 | 17)
    }

    /// Whether it is the reply to a request.
    #[must_use]
    pub const fn is_reply(&self) -> bool {
        matches!(self.kind, 0 | 14 | 16 | 18)
    }

    /// What stands for the ports in the tuple of a request or a reply: the identifier at the end
    /// that asks, the request's type at the end that answers. So a reply's tuple is the reverse
    /// of its request's. Which of both a packet is, its type tells and not its tuple.
    const fn ports(&self) -> (u16, u16) {
        match self.kind {
            8 | 13 | 15 | 17 => (self.id, self.kind as u16),
            0 => (8, self.id),
            14 | 16 | 18 => (self.kind as u16 - 1, self.id),
            _ => (0, 0),
        }
    }

    /// Reads type, code and identifier.
    const fn read(header: [u8; 8]) -> Self {
        let [kind, code, _, _, i0, i1, _, _] = header;
        let mut icmp = Self {
            kind,
            code,
            id: 0,
            embedded: None,
        };
        if icmp.is_request() || icmp.is_reply() {
            icmp.id = u16::from_be_bytes([i0, i1]);
        }
        icmp
    }
}

/// The transport header of a packet that is not a later fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp(TcpHeader),
    /// UDP.
    Udp,
    /// ICMP.
    Icmp(IcmpHeader),
    /// A protocol without ports here, or a later fragment, whose ports are elsewhere.
    Other,
}

/// Where a packet stands among the fragments of its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// Not a fragment.
    Whole,
    /// Offset 0 with more to come: it has the ports.
    First,
    /// A later one: no ports.
    Later,
}

/// The layout and the meaning of one frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// Destination MAC.
    pub mac_dst: MacAddr,
    /// Source MAC.
    pub mac_src: MacAddr,
    /// Offset of the IPv4 header.
    pub(crate) l3: u16,
    /// Offset of the transport header.
    pub(crate) l4: u16,
    /// Offset of the first byte behind the IP packet (Ethernet padding follows).
    pub(crate) end: u16,
    /// Protocol, addresses and ports. Ports are 0 where [`Transport::Other`]; an ICMP request has
    /// its identifier as source and its type as destination port, its reply the same the other
    /// way round, any other ICMP message 0.
    pub tuple: Tuple,
    /// The transport header.
    pub transport: Transport,
    /// Fragmentation.
    pub fragment: Fragment,
    /// Whether the IPv4 header has options.
    pub has_options: bool,
    /// Time to live.
    pub ttl: u8,
}

/// Reads `N` bytes at `at`, or says that the frame is too short.
fn take<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], ParseError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .ok_or(ParseError::Truncated)
}

impl Headers {
    /// Parses a frame. Everything is checked here, once; what stands behind it cannot fail.
    ///
    /// # Errors
    /// [`ParseError`] names what is wrong with the frame.
    pub fn parse(frame: &[u8]) -> Result<Self, ParseError> {
        let ethernet: [u8; ETHERNET_BYTES] = take(frame, 0)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = ethernet;
        let mut ether_type = EtherType(u16::from_be_bytes([t0, t1]));
        let mut l3 = ETHERNET_BYTES;
        let mut tags = 0;
        while matches!(ether_type, EtherType::VLAN | EtherType::QINQ) {
            if tags == MAX_TAGS {
                return Err(ParseError::TooManyTags);
            }
            let [_, _, t0, t1] = take(frame, l3)?;
            ether_type = EtherType(u16::from_be_bytes([t0, t1]));
            l3 += VLAN_TAG_BYTES;
            tags += 1;
        }
        if ether_type != EtherType::IPV4 {
            return Err(ParseError::NotIpv4(ether_type));
        }
        let packet = frame.get(l3..).ok_or(ParseError::Truncated)?;
        let ip = Ip::parse(packet)?;
        if checksum::fold(checksum::sum(
            packet.get(..ip.header_bytes).unwrap_or_default(),
        )) != 0xffff
        {
            return Err(ParseError::BadIpChecksum);
        }
        let body = packet
            .get(ip.header_bytes..ip.total_bytes)
            .ok_or(ParseError::Truncated)?;
        let (transport, sport, dport) = match ip.fragment {
            Fragment::Later => (Transport::Other, 0, 0),
            Fragment::Whole | Fragment::First => parse_transport(ip.proto, body, ip.fragment)?,
        };
        Ok(Self {
            mac_dst: MacAddr([d0, d1, d2, d3, d4, d5]),
            mac_src: MacAddr([s0, s1, s2, s3, s4, s5]),
            l3: l3 as u16,
            l4: (l3 + ip.header_bytes) as u16,
            end: u16::try_from(l3 + ip.total_bytes).map_err(|_| ParseError::BadIpHeader)?,
            tuple: Tuple {
                proto: ip.proto,
                src: Endpoint::new(ip.src, sport),
                dst: Endpoint::new(ip.dst, dport),
            },
            transport,
            fragment: ip.fragment,
            has_options: ip.header_bytes > IPV4_BYTES,
            ttl: ip.ttl,
        })
    }

    /// Bytes of the IP packet, without Ethernet header and padding.
    #[must_use]
    pub const fn packet_bytes(&self) -> u16 {
        self.end.saturating_sub(self.l3)
    }
}

/// The checked fields of an IPv4 header.
struct Ip {
    header_bytes: usize,
    total_bytes: usize,
    proto: Protocol,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    ttl: u8,
    fragment: Fragment,
}

impl Ip {
    /// Parses the header and checks its lengths against the bytes that are there.
    fn parse(packet: &[u8]) -> Result<Self, ParseError> {
        let ip = Self::parse_embedded(packet)?;
        if ip.total_bytes > packet.len() {
            return Err(ParseError::Truncated);
        }
        Ok(ip)
    }

    /// Parses a header whose payload may be cut off, as in an ICMP error.
    fn parse_embedded(packet: &[u8]) -> Result<Self, ParseError> {
        let header: [u8; IPV4_BYTES] = take(packet, 0)?;
        let [
            version_ihl,
            _,
            len0,
            len1,
            _,
            _,
            frag0,
            frag1,
            ttl,
            proto,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ] = header;
        let header_bytes = usize::from(version_ihl & 0x0f) * 4;
        let total_bytes = usize::from(u16::from_be_bytes([len0, len1]));
        if version_ihl >> 4 != 4 || header_bytes < IPV4_BYTES || total_bytes < header_bytes {
            return Err(ParseError::BadIpHeader);
        }
        if packet.len() < header_bytes {
            return Err(ParseError::Truncated);
        }
        let frag = u16::from_be_bytes([frag0, frag1]);
        let fragment = match (frag & 0x1fff, frag & 0x2000) {
            (0, 0) => Fragment::Whole,
            (0, _) => Fragment::First,
            _ => Fragment::Later,
        };
        Ok(Self {
            header_bytes,
            total_bytes,
            proto: Protocol(proto),
            src: Ipv4Addr::new(s0, s1, s2, s3),
            dst: Ipv4Addr::new(d0, d1, d2, d3),
            ttl,
            fragment,
        })
    }
}

fn ports(body: &[u8]) -> Result<(u16, u16), ParseError> {
    let [s0, s1, d0, d1] = take(body, 0)?;
    Ok((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
}

fn parse_transport(
    proto: Protocol,
    body: &[u8],
    fragment: Fragment,
) -> Result<(Transport, u16, u16), ParseError> {
    match proto {
        Protocol::TCP => {
            let (sport, dport) = ports(body)?;
            let header: [u8; 20] = take(body, 0)?;
            let [
                _,
                _,
                _,
                _,
                q0,
                q1,
                q2,
                q3,
                a0,
                a1,
                a2,
                a3,
                offset,
                flags,
                ..,
            ] = header;
            let header_bytes = usize::from(offset >> 4) * 4;
            if header_bytes < 20 || header_bytes > body.len() {
                return Err(ParseError::BadTransportHeader);
            }
            let tcp = TcpHeader {
                flags: TcpFlags(flags),
                seq: u32::from_be_bytes([q0, q1, q2, q3]),
                ack: u32::from_be_bytes([a0, a1, a2, a3]),
                payload_bytes: (body.len() - header_bytes) as u16,
            };
            Ok((Transport::Tcp(tcp), sport, dport))
        }
        Protocol::UDP => {
            let (sport, dport) = ports(body)?;
            let [_, _, _, _, l0, l1, _, _] = take(body, 0)?;
            let length = usize::from(u16::from_be_bytes([l0, l1]));
            if length < 8 || (fragment == Fragment::Whole && length > body.len()) {
                return Err(ParseError::BadTransportHeader);
            }
            Ok((Transport::Udp, sport, dport))
        }
        Protocol::ICMP => {
            let mut icmp = IcmpHeader::read(take(body, 0)?);
            if icmp.is_error() {
                icmp.embedded = body.get(8..).and_then(parse_embedded);
            }
            let (sport, dport) = icmp.ports();
            Ok((Transport::Icmp(icmp), sport, dport))
        }
        _ => Ok((Transport::Other, 0, 0)),
    }
}

/// The tuple inside an ICMP error, if it is that of a packet which an error may be about and
/// its ports are there.
fn parse_embedded(packet: &[u8]) -> Option<Tuple> {
    let ip = Ip::parse_embedded(packet).ok()?;
    if ip.fragment == Fragment::Later {
        return None;
    }
    let body = packet.get(ip.header_bytes..)?;
    let (sport, dport) = match ip.proto {
        Protocol::TCP | Protocol::UDP => ports(body).ok()?,
        Protocol::ICMP => {
            let icmp = IcmpHeader::read(take(body, 0).ok()?);
            if icmp.is_error() {
                return None;
            }
            icmp.ports()
        }
        _ => (0, 0),
    };
    Some(Tuple {
        proto: ip.proto,
        src: Endpoint::new(ip.src, sport),
        dst: Endpoint::new(ip.dst, dport),
    })
}
