//! The audit must catch each kind of wrong packet, and nothing else.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use etherparse::PacketBuilder;
use lab::audit::{Link, Report, audit};
use lab::topology::{CLIENT, FW_INTRA, SERVER};
use pcap_file::pcap::{PcapPacket, PcapWriter};

const FW_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const END_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn tcp(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(FW_MAC, END_MAC)
        .ipv4(from.0.octets(), to.0.octets(), 64)
        .tcp(from.1, to.1, 1, 1000);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"odd").unwrap();
    frame
}

fn udp() -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(FW_MAC, END_MAC)
        .ipv4(SERVER.octets(), CLIENT.octets(), 64)
        .udp(53, 4000);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"answer").unwrap();
    frame
}

fn good() -> Vec<u8> {
    tcp((SERVER, 80), (CLIENT, 4000))
}

fn client_link() -> Link {
    Link {
        name: "client",
        macs: vec![FW_MAC],
        own: [FW_INTRA].into(),
        services: Some([SocketAddrV4::new(FW_INTRA, 22)].into()),
        servers: Some([SocketAddrV4::new(SERVER, 80)].into()),
        proxies: [SocketAddrV4::new(FW_INTRA, 50080)].into(),
        ..Link::default()
    }
}

fn judge(frames: &[Vec<u8>], link: &Link) -> Report {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = PcapWriter::new(File::create(file.path()).unwrap()).unwrap();
    for frame in frames {
        let packet = PcapPacket::new(Duration::ZERO, frame.len() as u32, frame);
        writer.write_packet(&packet).unwrap();
    }
    drop(writer);
    audit(file.path(), link).unwrap()
}

#[track_caller]
fn refuses(frame: Vec<u8>, link: &Link, cause: &str) {
    let report = judge(&[good(), frame], link);
    assert_eq!(report.violation_count, 1, "{report:?}");
    assert!(report.violations[0].contains(cause), "{report:?}");
    assert!(report.check().is_err());
}

/// Leaves in the frame what a kernel leaves to its card.
fn make_partial(frame: &mut [u8], from: Ipv4Addr, to: Ipv4Addr, at: usize) {
    let payload = frame.len() - 34;
    let pseudo = lab::checksum::pseudo_header(from, to, 6, payload);
    frame[at..at + 2].copy_from_slice(&lab::checksum::sum(&[&pseudo]).to_be_bytes());
}

#[test]
fn accepts_good_packets_and_counts_them() {
    let report = judge(&[good(), udp(), good()], &client_link());
    report.check().unwrap();
    assert_eq!((report.count("tcp"), report.count("udp")), (2, 1));
    let pair = (
        SocketAddrV4::new(SERVER, 80),
        SocketAddrV4::new(CLIENT, 4000),
    );
    assert_eq!(report.tcp[&pair], 2);
}

#[test]
fn refuses_each_bad_checksum() {
    let link = client_link();
    let flip = |mut frame: Vec<u8>, at: usize| {
        frame[at] ^= 0x10;
        frame
    };
    refuses(flip(good(), 24), &link, "IPv4 header checksum");
    refuses(flip(good(), 50), &link, "TCP checksum");
    refuses(flip(good(), 56), &link, "TCP checksum");
    refuses(flip(udp(), 40), &link, "UDP checksum");
}

#[test]
fn a_udp_checksum_of_zero_means_none() {
    let mut frame = udp();
    frame[40..42].fill(0);
    judge(&[frame], &client_link()).check().unwrap();
}

#[test]
fn a_partial_checksum_is_the_kernels_or_a_merge() {
    let link = client_link();
    let mut foreign = good();
    make_partial(&mut foreign, SERVER, CLIENT, 50);
    refuses(foreign.clone(), &link, "TCP checksum");
    let merging = Link {
        merged: true,
        ..link.clone()
    };
    let report = judge(&[foreign], &merging);
    report.check().unwrap();
    assert_eq!(report.count("partial checksum"), 1);
    let mut own = tcp((FW_INTRA, 22), (CLIENT, 4000));
    make_partial(&mut own, FW_INTRA, CLIENT, 50);
    judge(&[own], &link).check().unwrap();
}

#[test]
fn refuses_the_proxys_address_and_strangers_towards_the_client() {
    let link = client_link();
    refuses(tcp((FW_INTRA, 50080), (CLIENT, 1)), &link, "proxy's own");
    refuses(tcp((FW_INTRA, 8080), (CLIENT, 1)), &link, "none of the");
    refuses(tcp((SERVER, 81), (CLIENT, 1)), &link, "none of the servers");
    judge(&[tcp((FW_INTRA, 22), (CLIENT, 1))], &link)
        .check()
        .unwrap();
    let any = Link {
        servers: None,
        services: None,
        ..link
    };
    refuses(tcp((FW_INTRA, 50080), (CLIENT, 1)), &any, "proxy's own");
}

#[test]
fn refuses_the_clients_address_towards_the_server() {
    let link = Link {
        name: "server",
        macs: vec![FW_MAC],
        hidden: [CLIENT].into(),
        ..Link::default()
    };
    refuses(tcp((CLIENT, 4000), (SERVER, 80)), &link, "must not see");
}

#[test]
fn refuses_marks_and_broken_frames() {
    let mut marked = good();
    marked[6] = 0x06;
    refuses(marked, &client_link(), "source MAC");
    let mut cut = good();
    cut.truncate(40);
    refuses(cut, &client_link(), "malformed");
}

fn from_proxy_by_udp() -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(FW_MAC, END_MAC)
        .ipv4(FW_INTRA.octets(), CLIENT.octets(), 64)
        .udp(50080, 4000);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"answer").unwrap();
    frame
}

#[test]
fn refuses_a_datagram_from_the_proxy() {
    refuses(from_proxy_by_udp(), &client_link(), "proxy's own endpoint");
    let other = judge(
        &[from_proxy_by_udp()],
        &Link {
            proxies: [].into(),
            ..client_link()
        },
    );
    other.check().unwrap();
    let pair = (
        SocketAddrV4::new(FW_INTRA, 50080),
        SocketAddrV4::new(CLIENT, 4000),
    );
    assert_eq!(other.udp[&pair], 1);
}

/// Port unreachable, about a packet of the client to `to`, changed by `spoil` when it is told.
fn error_about(to: (Ipv4Addr, u16), spoil: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut about = tcp((CLIENT, 4000), to)[14..].to_vec();
    spoil(&mut about);
    let kind = etherparse::Icmpv4Type::DestinationUnreachable(
        etherparse::icmpv4::DestUnreachableHeader::Port,
    );
    let builder = PacketBuilder::ethernet2(FW_MAC, END_MAC)
        .ipv4(SERVER.octets(), CLIENT.octets(), 64)
        .icmpv4(kind);
    let mut frame = Vec::new();
    builder.write(&mut frame, &about).unwrap();
    frame
}

#[test]
fn looks_into_icmp_errors() {
    let link = client_link();
    let report = judge(&[error_about((SERVER, 80), |_| {})], &link);
    report.check().unwrap();
    let told = lab::audit::IcmpError {
        from: SERVER,
        kind: (3, 3),
        source: SocketAddrV4::new(CLIENT, 4000),
        destination: SocketAddrV4::new(SERVER, 80),
    };
    assert_eq!(report.errors[&told], 1);
    let leak = error_about((FW_INTRA, 50080), |_| {});
    refuses(leak, &link, "to the proxy's own endpoint");
    let bad = error_about((SERVER, 80), |about| about[8] ^= 1);
    refuses(bad, &link, "tells of a packet with a bad IPv4");
    let short = error_about((SERVER, 80), |about| about.truncate(19));
    refuses(short, &link, "tells of a malformed packet");
}
