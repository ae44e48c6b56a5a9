//! Reads a capture and judges what the firewall sent on that wire.
//!
//! The rules: every frame is from the firewall's card (no internal mark on the wire), every
//! checksum is right, no packet shows an address that this side must not see.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use etherparse::{Ipv4HeaderSlice, LinkSlice, NetSlice, SlicedPacket, TransportSlice};
use pcap_file::pcap::PcapReader;

use crate::checksum::{pseudo_header, sum};

/// Violations that a report spells out; more are only counted.
const SPELLED_OUT: usize = 10;

/// What may be seen on a wire.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// Its name in messages.
    pub name: &'static str,
    /// The addresses of the firewall's card on it.
    pub macs: Vec<[u8; 6]>,
    /// The firewall's own addresses: its kernel sends with them.
    pub own: BTreeSet<Ipv4Addr>,
    /// Own endpoints that may speak TCP here, where the others may not.
    pub services: Option<BTreeSet<SocketAddrV4>>,
    /// Foreign endpoints that may be the source of a TCP packet; `None`: any.
    pub servers: Option<BTreeSet<SocketAddrV4>>,
    /// Addresses that must not be the source of any packet.
    pub hidden: BTreeSet<Ipv4Addr>,
    /// Endpoints that must not be the source of a TCP or UDP packet, nor the destination of
    /// the packet in an ICMP error, whatever else holds.
    pub proxies: BTreeSet<SocketAddrV4>,
    /// Whether the receiver merges packets, which leaves a partial checksum on the result.
    pub merged: bool,
}

/// What an ICMP error says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct IcmpError {
    /// Who says it.
    pub from: Ipv4Addr,
    /// Type and code.
    pub kind: (u8, u8),
    /// Source of the packet that it is about.
    pub source: SocketAddrV4,
    /// Destination of that packet.
    pub destination: SocketAddrV4,
}

/// What a capture held.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Packets by kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// IPv4 packets by source, of every protocol.
    pub sources: BTreeMap<Ipv4Addr, u64>,
    /// TCP packets by source and destination.
    pub tcp: BTreeMap<(SocketAddrV4, SocketAddrV4), u64>,
    /// UDP packets by source and destination.
    pub udp: BTreeMap<(SocketAddrV4, SocketAddrV4), u64>,
    /// ICMP errors.
    pub errors: BTreeMap<IcmpError, u64>,
    /// What broke a rule, up to a limit.
    pub violations: Vec<String>,
    /// How many packets broke a rule.
    pub violation_count: u64,
}

impl Report {
    /// How many packets of `kind` there were.
    pub fn count(&self, kind: &str) -> u64 {
        self.kinds.get(kind).copied().unwrap_or_default()
    }

    /// An error that lists the violations, if there are any.
    pub fn check(&self) -> Result<()> {
        if self.violation_count == 0 {
            return Ok(());
        }
        bail!(
            "{} packets broke the rules of the wire:\n  {}",
            self.violation_count,
            self.violations.join("\n  ")
        );
    }

    /// An error unless all IPv4 packets came from addresses in `only`.
    pub fn check_sources(&self, only: &BTreeSet<Ipv4Addr>) -> Result<()> {
        let others = self.sources.iter().filter(|(from, _)| !only.contains(from));
        let others: Vec<_> = others.collect();
        ensure!(
            others.is_empty(),
            "packets came from others than {only:?}: {others:?}"
        );
        Ok(())
    }

    /// Counts a packet of which there is nothing more to judge.
    fn harmless(&mut self, kind: &'static str) -> Result<(), String> {
        self.count_one(kind);
        Ok(())
    }

    fn count_one(&mut self, kind: &'static str) {
        *self.kinds.entry(kind).or_default() += 1;
    }
}

/// Judges every packet of the capture at `path`.
pub fn audit(path: &Path, link: &Link) -> Result<Report> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut reader = PcapReader::new(BufReader::with_capacity(1 << 20, file))
        .with_context(|| path.display().to_string())?;
    let mut report = Report::default();
    let mut number = 0_u64;
    while let Some(packet) = reader.next_packet() {
        let packet = packet.with_context(|| path.display().to_string())?;
        number += 1;
        report.count_one("all");
        let whole = packet.data.len() as u64 == u64::from(packet.orig_len);
        let verdict = if whole {
            judge(&packet.data, link, &mut report)
        } else {
            Err("is cut off: capture whole packets".to_owned())
        };
        if let Err(cause) = verdict {
            report.violation_count += 1;
            if report.violations.len() < SPELLED_OUT {
                let name = link.name;
                let line = format!("{name} #{number} {}: {cause}", summary(&packet.data));
                report.violations.push(line);
            }
        }
    }
    Ok(report)
}

fn judge(frame: &[u8], link: &Link, report: &mut Report) -> Result<(), String> {
    let packet = SlicedPacket::from_ethernet(frame).map_err(|e| format!("is malformed: {e}"))?;
    let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link else {
        return Err("is not Ethernet".into());
    };
    let source = ethernet.source();
    if !link.macs.contains(&source) {
        return Err(format!("has the source MAC {source:02x?}"));
    }
    let ip = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => ip,
        Some(NetSlice::Arp(_)) => return report.harmless("arp"),
        Some(NetSlice::Ipv6(_)) => return report.harmless("ipv6"),
        None => return report.harmless("other"),
    };
    report.count_one("ipv4");
    let header = ip.header();
    if sum(&[header.slice()]) != 0xffff {
        return Err("has a bad IPv4 header checksum".into());
    }
    let (from, to) = (header.source_addr(), header.destination_addr());
    *report.sources.entry(from).or_default() += 1;
    if link.hidden.contains(&from) {
        return Err(format!("shows {from}, which this side must not see"));
    }
    if ip.is_payload_fragmented() {
        return report.harmless("fragment");
    }
    let payload = ip.payload().payload;
    let pseudo = pseudo_header(from, to, header.protocol().0, payload.len());
    // The firewall's kernel leaves checksums to the card, and a virtual one never does them.
    let partial_is_fine = link.merged || link.own.contains(&from);
    let partial = partial_is_fine.then(|| sum(&[&pseudo]));
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            report.count_one("tcp");
            transport(&[&pseudo, payload], tcp.checksum(), partial, "TCP", report)?;
            let source = SocketAddrV4::new(from, tcp.source_port());
            let destination = SocketAddrV4::new(to, tcp.destination_port());
            *report.tcp.entry((source, destination)).or_default() += 1;
            endpoint(source, link)
        }
        Some(TransportSlice::Udp(udp)) => {
            report.count_one("udp");
            match udp.checksum() {
                0 => Ok(()),
                check => transport(&[&pseudo, payload], check, partial, "UDP", report),
            }?;
            let source = SocketAddrV4::new(from, udp.source_port());
            let destination = SocketAddrV4::new(to, udp.destination_port());
            *report.udp.entry((source, destination)).or_default() += 1;
            not_a_proxy(source, link)
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            report.count_one("icmp");
            transport(&[payload], icmp.checksum(), None, "ICMP", report)?;
            icmp_error(from, payload, link, report)
        }
        _ => report.harmless("other ipv4"),
    }
}

/// Checks a checksum: right, or, where that is fine, only begun.
fn transport(
    parts: &[&[u8]],
    check: u16,
    partial: Option<u16>,
    name: &str,
    report: &mut Report,
) -> Result<(), String> {
    if sum(parts) == 0xffff {
        return Ok(());
    }
    if partial == Some(check) {
        return report.harmless("partial checksum");
    }
    Err(format!("has a bad {name} checksum {check:#06x}"))
}

/// Checks what an ICMP error tells of the packet that it is about.
fn icmp_error(from: Ipv4Addr, icmp: &[u8], link: &Link, report: &mut Report) -> Result<(), String> {
    let (&[kind @ (3 | 4 | 5 | 11 | 12), code, ..], Some(about)) = (icmp, icmp.get(8..)) else {
        return Ok(());
    };
    let (header, rest) = Ipv4HeaderSlice::from_slice(about)
        .map(|header| (header.to_header(), about.get(header.slice().len()..)))
        .map_err(|e| format!("tells of a malformed packet: {e}"))?;
    if header.calc_header_checksum() != header.header_checksum {
        return Err("tells of a packet with a bad IPv4 header checksum".into());
    }
    let Some(&[s0, s1, d0, d1, ..]) = rest.filter(|_| matches!(header.protocol.0, 6 | 17)) else {
        return Ok(());
    };
    let told = IcmpError {
        from,
        kind: (kind, code),
        source: SocketAddrV4::new(header.source.into(), u16::from_be_bytes([s0, s1])),
        destination: SocketAddrV4::new(header.destination.into(), u16::from_be_bytes([d0, d1])),
    };
    *report.errors.entry(told).or_default() += 1;
    if link.proxies.contains(&told.destination) {
        let proxy = told.destination;
        return Err(format!(
            "tells of a packet to the proxy's own endpoint {proxy}"
        ));
    }
    Ok(())
}

fn not_a_proxy(source: SocketAddrV4, link: &Link) -> Result<(), String> {
    if link.proxies.contains(&source) {
        return Err(format!("comes from the proxy's own endpoint {source}"));
    }
    Ok(())
}

/// Checks whose word a TCP packet claims to be.
fn endpoint(source: SocketAddrV4, link: &Link) -> Result<(), String> {
    not_a_proxy(source, link)?;
    let allowed = match link.own.contains(source.ip()) {
        true => &link.services,
        false => &link.servers,
    };
    match allowed {
        Some(allowed) if !allowed.contains(&source) => {
            Err(format!("comes from {source}, which is none of the servers"))
        }
        _ => Ok(()),
    }
}

/// A frame in a few words, as far as it can be read.
fn summary(frame: &[u8]) -> String {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return format!("{} bytes", frame.len());
    };
    let Some(NetSlice::Ipv4(ip)) = &packet.net else {
        return format!("{} bytes", frame.len());
    };
    let (from, to) = (ip.header().source_addr(), ip.header().destination_addr());
    match &packet.transport {
        Some(TransportSlice::Tcp(t)) => {
            let flags = [(t.syn(), 'S'), (t.fin(), 'F'), (t.rst(), 'R')];
            let flags: String = flags.iter().filter(|f| f.0).map(|f| f.1).collect();
            let (sport, dport) = (t.source_port(), t.destination_port());
            format!("TCP {from}:{sport} > {to}:{dport} [{flags}]")
        }
        Some(TransportSlice::Udp(u)) => {
            let (sport, dport) = (u.source_port(), u.destination_port());
            format!("UDP {from}:{sport} > {to}:{dport}")
        }
        _ => format!("{from} > {to}"),
    }
}
