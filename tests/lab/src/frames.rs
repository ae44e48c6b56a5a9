//! Frames that no honest host sends: random bytes, and real frames with random faults.

use std::net::Ipv4Addr;

use etherparse::{Ethernet2Header, IpFragOffset, Ipv4Header, PacketBuilder, VlanId, ip_number};
use fastrand::Rng;

/// Makes hostile frames towards one card of the firewall. The same seed makes the same frames.
#[derive(Debug)]
pub struct Frames {
    random: Rng,
    templates: Vec<Vec<u8>>,
    to: [u8; 6],
    from: [u8; 6],
}

/// Between whom the frames pretend to pass.
#[derive(Clone, Debug)]
pub struct Parties {
    /// The sender's card.
    pub from_mac: [u8; 6],
    /// The firewall's card.
    pub to_mac: [u8; 6],
    /// Sources that frames claim.
    pub sources: Vec<Ipv4Addr>,
    /// Destinations, transit and the box's own.
    pub destinations: Vec<Ipv4Addr>,
    /// Destination ports.
    pub ports: Vec<u16>,
}

impl Frames {
    /// Prepares templates for `parties`.
    pub fn new(seed: u64, parties: &Parties) -> Self {
        let mut templates = vec![arp(parties), ipv6(parties), stacked_vlans(parties)];
        for &source in &parties.sources {
            for &destination in &parties.destinations {
                for &port in &parties.ports {
                    templates.extend(ipv4(parties, source, destination, port));
                }
            }
        }
        Frames {
            random: Rng::with_seed(seed),
            templates,
            to: parties.to_mac,
            from: parties.from_mac,
        }
    }

    /// The next frame: 14 to 1514 bytes.
    pub fn next_frame(&mut self) -> Vec<u8> {
        let mut frame = match self.random.u8(..) {
            0..=31 => self.noise(),
            _ => self.template(),
        };
        for _ in 0..self.random.usize(0..4) {
            self.mutate(&mut frame);
        }
        // Most must reach the program's decisions, not be dropped as somebody else's.
        if self.random.u8(..) < 240 {
            frame.resize(frame.len().max(14), 0);
            frame[..6].copy_from_slice(&self.to);
            frame[6..12].copy_from_slice(&self.from);
        }
        frame.resize(frame.len().clamp(14, 1514), 0);
        frame
    }

    fn noise(&mut self) -> Vec<u8> {
        let mut frame = vec![0; self.random.usize(14..1515)];
        self.random.fill(&mut frame);
        if self.random.bool() {
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
        }
        frame
    }

    fn template(&mut self) -> Vec<u8> {
        let pick = self.random.usize(..self.templates.len());
        self.templates[pick].clone()
    }

    fn mutate(&mut self, frame: &mut Vec<u8>) {
        if frame.len() < 15 {
            return;
        }
        // Faults in headers are worth more than faults in payloads.
        let end = frame.len().min(74);
        match self.random.u8(0..7) {
            0 => frame[self.random.usize(12..end)] = self.random.u8(..),
            1 => frame[self.random.usize(12..end)] ^= 1 << self.random.u8(0..8),
            2 => frame.truncate(self.random.usize(14..frame.len() + 1)),
            3 => frame.extend((0..self.random.usize(1..200)).map(|_| 0xa5)),
            4 => {
                let at = self.random.usize(12..end);
                let extreme = [0x00, 0x01, 0x7f, 0x80, 0xff];
                frame[at] = extreme[self.random.usize(..extreme.len())];
            }
            5 => {
                let other = self.template();
                let at = self.random.usize(12..frame.len().min(other.len()).max(13));
                frame.truncate(at);
                frame.extend(other.get(at..).unwrap_or_default());
            }
            _ => {
                // Options that claim any length, in the TCP or the IPv4 header.
                let at = self.random.usize(34..end.max(35)).min(frame.len() - 1);
                let claimed = [0, 1, 2, 40, 255][self.random.usize(..5)];
                frame[at] = claimed;
            }
        }
    }
}

fn ipv4(parties: &Parties, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<Vec<u8>> {
    let base = || {
        PacketBuilder::ethernet2(parties.from_mac, parties.to_mac).ipv4(
            from.octets(),
            to.octets(),
            64,
        )
    };
    let tcp = || base().tcp(40_000, port, 7, 65_000);
    let mut out = Vec::new();
    let mut put = |size: usize, write: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = Vec::with_capacity(size);
        write(&mut frame);
        out.push(frame);
    };
    // Writing into memory cannot fail; an empty template would only be useless.
    put(80, &|f| drop(tcp().syn().write(f, &[])));
    put(80, &|f| {
        drop(tcp().ack(99).write(f, b"GET / HTTP/1.0\r\n\r\n"))
    });
    put(80, &|f| drop(tcp().fin().ack(99).write(f, &[])));
    put(80, &|f| drop(tcp().rst().write(f, &[])));
    put(80, &|f| drop(tcp().syn().fin().rst().urg(9).write(f, &[])));
    put(1514, &|f| drop(tcp().ack(1).write(f, &[b'x'; 1400])));
    put(90, &|f| drop(base().udp(53, port).write(f, b"question")));
    put(90, &|f| {
        drop(base().icmpv4_echo_request(1, 2).write(f, b"echo"))
    });
    put(120, &|f| fragment(f, parties, from, to));
    out
}

/// A later fragment of a TCP packet.
fn fragment(frame: &mut Vec<u8>, parties: &Parties, from: Ipv4Addr, to: Ipv4Addr) {
    let payload = [0x5a; 64];
    let protocol = ip_number::TCP;
    let Ok(mut header) = Ipv4Header::new(64, 64, protocol, from.octets(), to.octets()) else {
        return;
    };
    header.more_fragments = true;
    header.fragment_offset = IpFragOffset::try_new(3).unwrap_or_default();
    header.header_checksum = header.calc_header_checksum();
    ethernet(parties, 0x0800, frame);
    frame.extend(header.to_bytes());
    frame.extend(payload);
}

fn stacked_vlans(parties: &Parties) -> Vec<u8> {
    let mut frame = Vec::new();
    let id = |id: u16| VlanId::try_new(id).unwrap_or_default();
    let written = PacketBuilder::ethernet2(parties.from_mac, parties.to_mac)
        .double_vlan(id(10), id(20))
        .ipv4([192, 168, 1, 10], [198, 51, 100, 10], 64)
        .tcp(40_000, 80, 1, 1000)
        .syn()
        .write(&mut frame, &[]);
    drop(written);
    frame
}

fn ipv6(parties: &Parties) -> Vec<u8> {
    let mut frame = Vec::new();
    let written = PacketBuilder::ethernet2(parties.from_mac, parties.to_mac)
        .ipv6([0x20; 16], [0x21; 16], 64)
        .tcp(40_000, 80, 1, 1000)
        .syn()
        .write(&mut frame, &[]);
    drop(written);
    frame
}

/// An ARP request for an address that the sender does not want to know.
fn arp(parties: &Parties) -> Vec<u8> {
    let mut frame = Vec::new();
    ethernet(parties, 0x0806, &mut frame);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(parties.from_mac);
    frame.extend([192, 0, 2, 77, 0, 0, 0, 0, 0, 0, 192, 0, 2, 78]);
    frame
}

fn ethernet(parties: &Parties, ether_type: u16, frame: &mut Vec<u8>) {
    let header = Ethernet2Header {
        source: parties.from_mac,
        destination: parties.to_mac,
        ether_type: ether_type.into(),
    };
    frame.extend(header.to_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::SlicedPacket;

    fn parties() -> Parties {
        Parties {
            from_mac: [2, 0, 0, 0, 0, 2],
            to_mac: [2, 0, 0, 0, 0, 1],
            sources: vec![[192, 168, 1, 10].into()],
            destinations: vec![[198, 51, 100, 10].into()],
            ports: vec![80, 9],
        }
    }

    #[test]
    fn templates_are_real_frames() {
        let frames = Frames::new(1, &parties());
        assert!(frames.templates.len() > 20);
        for template in &frames.templates {
            SlicedPacket::from_ethernet(template).unwrap();
        }
    }

    #[test]
    fn one_seed_makes_the_same_frames_of_every_kind() {
        let (mut one, mut two) = (Frames::new(7, &parties()), Frames::new(7, &parties()));
        let mut good = 0;
        for _ in 0..20_000 {
            let frame = one.next_frame();
            assert_eq!(frame, two.next_frame());
            assert!((14..=1514).contains(&frame.len()));
            good += u32::from(SlicedPacket::from_ethernet(&frame).is_ok());
        }
        assert!((2_000..18_000).contains(&good), "{good} of 20000 parse");
    }
}
