//! Writes the first inputs of each target into its folder: `cargo run -p xtproxy-fuzz --example
//! seeds`. The fuzzer grows from them.

mod channel;
mod registrations;

use std::fs;
use std::path::Path;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{
    EtherType, Icmpv4Type, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, PacketBuilder,
    TcpHeader, VlanId,
};
use protocol::{Envelope, FlowFilter, Request};

type Address = [u8; 4];
/// Takes a seed by its name.
type Put<'a> = &'a mut dyn FnMut(&str, Vec<u8>);

const CLIENT: Address = [192, 168, 1, 10];
const OWN: Address = [192, 168, 1, 1];
const SERVER: Address = [198, 51, 100, 10];
const SERVER_TWO: Address = [198, 51, 100, 11];
const PROXY_PORT: u16 = 3128;

const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN_ACK: u8 = 17;
const RST: u8 = 4;

/// Where the frame of a batch comes from; see the target.
const FROM_INTRA: u8 = 0;
const FROM_STACK: u8 = 2;
const SLOW_LANE: u8 = 3;
/// Before the frame the first, second, third or fourth socket comes or goes.
const CHANGE: [u8; 4] = [0x40, 0x48, 0x50, 0x58];

/// Before the frame come rules that judge, or go.
const OTHER_RULES: u8 = 0xc0;
/// From the stack, from an endpoint that nobody has taken.
const FROM_BOX: u8 = FROM_STACK | 0x30;

/// Registered local endpoints, and the foreign one.
const LISTENER: (Address, u16) = (OWN, 50_021);
const CALLER: (Address, u16) = ([198, 51, 100, 1], 50_022);
const FOREIGN: (Address, u16) = ([203, 0, 113, 5], 2121);

fn ip(from: Address, to: Address) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64)
}

fn tcp(from: (Address, u16), to: (Address, u16), flags: u8, seq: u32) -> Vec<u8> {
    let mut header = TcpHeader::new(from.1, to.1, seq, 0xffff);
    header.syn = flags & SYN != 0;
    header.ack = flags & ACK != 0;
    header.fin = flags & 1 != 0;
    header.rst = flags & RST != 0;
    let mut frame = Vec::new();
    let payload: &[u8] = if flags == ACK { b"GET /" } else { b"" };
    let step = ip(from.0, to.0).tcp_header(header);
    step.write(&mut frame, payload).expect("memory");
    frame
}

fn udp(from: (Address, u16), to: (Address, u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = ip(from.0, to.0).udp(from.1, to.1);
    step.write(&mut frame, b"question").expect("memory");
    frame
}

/// "Port unreachable" about a frame, of which `kept` bytes of the packet return.
fn error(from: Address, to: Address, about: &[u8], kept: usize) -> Vec<u8> {
    let packet = &about[14..];
    let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
    let mut frame = Vec::new();
    let step = ip(from, to).icmpv4(kind);
    step.write(&mut frame, &packet[..kept.min(packet.len())])
        .expect("memory");
    frame
}

/// A frame with an IPv4 header of one's own, around what a whole frame holds.
fn with_header(frame: &[u8], change: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let (mut header, payload) = Ipv4Header::from_slice(&frame[14..]).expect("IPv4");
    change(&mut header);
    header.set_payload_len(payload.len()).expect("short");
    header.header_checksum = header.calc_header_checksum();
    [&frame[..14], &header.to_bytes(), payload].concat()
}

fn tagged(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    [&frame[..12], &tags.concat(), &frame[12..]].concat()
}

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let client = (CLIENT, 40_000);
    let server = (SERVER, 80);
    let syn = tcp(client, server, SYN, 1000);
    let datagram = udp(client, (SERVER, 53));
    let mut no_checksum = datagram.clone();
    no_checksum[40..42].fill(0);
    let fragment = |more, offset| {
        with_header(&datagram, |header| {
            header.more_fragments = more;
            header.fragment_offset = IpFragOffset::try_new(offset).expect("small");
        })
    };
    let options = Ipv4Options::try_from(&[1_u8; 8][..]).expect("two words");
    let mut echo = Vec::new();
    let step = ip(CLIENT, SERVER).icmpv4_echo_request(1, 2);
    step.write(&mut echo, b"ping").expect("memory");
    let mut arp = vec![0; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    let id = VlanId::try_new(7).expect("small");
    let mut single = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .single_vlan(id)
        .ipv4(CLIENT, SERVER, 64)
        .tcp(40_000, 80, 1, 1)
        .write(&mut single, b"x")
        .expect("memory");
    vec![
        ("syn", syn.clone()),
        ("data", tcp(client, server, ACK, 1001)),
        ("fin", tcp(client, server, FIN_ACK, 1006)),
        ("reset", tcp(client, server, RST, 1006)),
        ("udp", datagram.clone()),
        ("udp-no-checksum", no_checksum),
        ("first-fragment", fragment(true, 0)),
        ("later-fragment", fragment(false, 185)),
        (
            "options",
            with_header(&syn, |header| header.options = options),
        ),
        (
            "gre",
            with_header(&syn, |header| header.protocol = IpNumber(47)),
        ),
        ("echo", echo),
        ("error-tcp", error(CLIENT, OWN, &syn, usize::MAX)),
        ("error-tcp-short", error(CLIENT, OWN, &syn, 28)),
        ("error-udp", error(CLIENT, OWN, &datagram, usize::MAX)),
        ("error-cut", error(CLIENT, OWN, &syn, 22)),
        ("vlan", single),
        (
            "two-tags",
            tagged(&syn, &[[0x88, 0xa8, 0, 1], [0x81, 0, 0, 2]]),
        ),
        ("three-tags", tagged(&syn, &[[0x81, 0, 0, 1]; 3])),
        ("padded", [&syn[..], &[0; 6]].concat()),
        ("arp", arp),
        (
            "ipv6",
            [&syn[..12], &EtherType::IPV6.0.to_be_bytes(), &[0x60; 40]].concat(),
        ),
    ]
}

fn headers(put: Put<'_>) {
    let mut wanted = [OWN, [198, 51, 100, 77]].concat();
    wanted.splice(4..4, PROXY_PORT.to_be_bytes());
    wanted.extend(50_000_u16.to_be_bytes());
    for (name, frame) in frames() {
        put(name, [&wanted[..], &[0], &frame].concat());
    }
}

/// A batch of frames for the target: where from, how much later, length, frame.
fn batch(frames: &[(u8, u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (from, time, frame) in frames {
        out.extend([*from, *time]);
        out.extend(u16::try_from(frame.len()).expect("short").to_be_bytes());
        out.extend(frame);
    }
    out
}

/// Redirected, local and refused packets while rules that judge come and go.
fn judged() -> Vec<(u8, u8, Vec<u8>)> {
    let (client, server) = ((CLIENT, 40_000), (SERVER, 80));
    let (proxy, shell) = ((OWN, PROXY_PORT), (OWN, 22));
    let own = ([198, 51, 100, 1], 33_000);
    let group = ([224, 0, 0, 251], 5353);
    let ping = |from, to, is_reply: bool| {
        let step = match is_reply {
            true => ip(from, to).icmpv4_echo_reply(7, 1),
            false => ip(from, to).icmpv4_echo_request(7, 1),
        };
        let mut frame = Vec::new();
        step.write(&mut frame, b"ping").expect("memory");
        frame
    };
    vec![
        (OTHER_RULES, 0, tcp(client, server, SYN, 1000)),
        (FROM_STACK, 0, tcp(proxy, client, SYN | ACK, 2000)),
        (FROM_INTRA, 1, tcp(client, server, ACK, 1001)),
        (FROM_BOX, 0, udp(own, server)),
        (FROM_INTRA, 0, udp(server, own)),
        (FROM_INTRA, 0, error(SERVER, own.0, &udp(own, server), 28)),
        (FROM_INTRA, 0, ping(CLIENT, OWN, false)),
        (FROM_BOX, 0, ping(OWN, CLIENT, true)),
        (FROM_BOX, 0, ping(OWN, SERVER, false)),
        (FROM_INTRA, 0, ping(SERVER, OWN, true)),
        (FROM_INTRA, 0, tcp(client, shell, SYN, 5)),
        (FROM_INTRA, 0, udp(client, shell)),
        (FROM_INTRA, 0, udp(client, server)),
        (FROM_INTRA, 0, udp(client, group)),
        (FROM_BOX, 0, udp((OWN, 5353), group)),
        (FROM_INTRA, 0, udp(client, (OWN, 123))),
        (FROM_BOX, 0, tcp(own, server, RST, 5)),
        (OTHER_RULES, 1, tcp(client, server, ACK, 1006)),
        (OTHER_RULES, 1, tcp(client, server, ACK, 1012)),
        (FROM_STACK, 0, tcp(proxy, client, ACK, 2001)),
    ]
}

fn batches(put: Put<'_>) {
    let (client, server) = ((CLIENT, 40_000), (SERVER, 80));
    let (proxy, second) = ((OWN, PROXY_PORT), (SERVER_TWO, 80));
    let wire = |time, frame| (FROM_INTRA, time, frame);
    let stack = |time, frame| (FROM_STACK, time, frame);
    let syn = || wire(0, tcp(client, server, SYN, 1000));
    let shown = tcp(client, proxy, SYN, 1000);
    put(
        "connection",
        batch(&[
            syn(),
            stack(0, tcp(proxy, client, SYN | ACK, 2000)),
            wire(1, tcp(client, server, ACK, 1001)),
            stack(1, tcp(proxy, client, ACK, 2001)),
            wire(1, tcp(client, server, FIN_ACK, 1006)),
            stack(1, tcp(proxy, client, FIN_ACK, 2006)),
            wire(1, tcp(client, server, ACK, 1007)),
            wire(90, tcp(client, server, SYN, 900_000)),
        ]),
    );
    put(
        "reset-and-again",
        batch(&[
            syn(),
            stack(0, tcp(proxy, client, RST, 0)),
            wire(0, tcp(client, server, SYN, 5000)),
        ]),
    );
    put(
        "one-port-two-servers",
        batch(&[
            syn(),
            wire(0, tcp(client, second, SYN, 7)),
            wire(1, tcp(client, second, ACK, 8)),
        ]),
    );
    put(
        "foreign-listen",
        batch(&[
            wire(0, tcp(client, FOREIGN, SYN, 1000)),
            stack(0, tcp(LISTENER, client, SYN | ACK, 2000)),
            wire(0, tcp(client, FOREIGN, ACK, 1001)),
            (FROM_INTRA | CHANGE[0], 0, tcp(client, FOREIGN, ACK, 1006)),
            stack(0, tcp(LISTENER, client, FIN_ACK, 2001)),
            wire(0, tcp((CLIENT, 40_001), FOREIGN, SYN, 1)),
        ]),
    );
    put(
        "foreign-connect",
        batch(&[
            stack(0, tcp(CALLER, server, SYN, 1000)),
            wire(0, tcp(server, client, SYN | ACK, 2000)),
            stack(0, tcp(CALLER, server, ACK, 1001)),
            syn(),
            (FROM_STACK | CHANGE[2], 0, tcp(CALLER, server, ACK, 1006)),
            stack(1, tcp(CALLER, server, SYN, 77_000)),
            wire(0, tcp(server, CALLER, SYN, 5)),
        ]),
    );
    put(
        "foreign-datagrams",
        batch(&[
            wire(0, udp(client, FOREIGN)),
            stack(0, udp(CALLER, client)),
            wire(0, udp(client, FOREIGN)),
            stack(0, udp(LISTENER, client)),
            wire(0, udp(client, CALLER)),
            (FROM_STACK | CHANGE[3], 0, udp(CALLER, client)),
            (FROM_INTRA | CHANGE[1], 0, udp(client, FOREIGN)),
            wire(
                0,
                error(CLIENT, FOREIGN.0, &udp(FOREIGN, client), usize::MAX),
            ),
        ]),
    );
    put("judged", batch(&judged()));
    put(
        "errors",
        batch(&[
            syn(),
            stack(0, error(OWN, CLIENT, &shown, 28)),
            stack(0, tcp(proxy, client, SYN | ACK, 2000)),
            wire(
                0,
                error(CLIENT, SERVER, &tcp(server, client, ACK, 1), usize::MAX),
            ),
            wire(0, error(CLIENT, SERVER, &tcp(second, client, ACK, 1), 28)),
        ]),
    );
    put(
        "datagrams",
        batch(&[
            wire(0, udp(client, (SERVER, 53))),
            stack(0, udp(proxy, client)),
            stack(0, error(OWN, CLIENT, &udp(client, proxy), usize::MAX)),
            wire(255, udp(client, (SERVER, 53))),
        ]),
    );
    put(
        "directly-to-the-proxy",
        batch(&[
            wire(0, tcp(client, proxy, SYN, 1)),
            stack(0, tcp(proxy, client, SYN | ACK, 2)),
            stack(0, tcp(proxy, (SERVER, 443), SYN, 3)),
        ]),
    );
    let all = frames().into_iter();
    let kinds = [FROM_INTRA, 1, FROM_STACK, SLOW_LANE].into_iter().cycle();
    let all: Vec<_> = all.zip(kinds).map(|((_, f), from)| (from, 0, f)).collect();
    put("everything", batch(&all));
    let loops = tcp((OWN, 40_001), server, SYN, 1);
    let as_it_is = (FROM_INTRA | 0x80, 0, tcp(client, server, SYN, 1));
    put(
        "refusals",
        batch(&[
            wire(0, loops),
            wire(0, tcp(client, (SERVER, 25), SYN, 1)),
            as_it_is,
        ]),
    );
}

fn rulesets(put: Put<'_>) {
    for (name, text) in [
        (
            "example",
            include_str!("../../../../docs/examples/iptables.conf"),
        ),
        (
            "old-negation",
            "*tproxy\n:PREROUTING ACCEPT [0:0]\n:in - [0:0]\n-A PREROUTING -i eth1 -d ! 192.168.1.1 -j in\n-A in -p tcp --dport 80 -j TPROXY --on-port 50080 --on-ip 192.168.1.1\nCOMMIT\n",
        ),
        (
            "many-options",
            "# comment\n*tproxy\n:PREROUTING DROP [1:2]\n:a - [0:0]\n-A PREROUTING ! -i eth2 ! -s 10.0.0.0/8 -p udp --sport 1024:65535 ! --dport 53:54 -j a\n-A a -p 6 -j RETURN\n-A a -i eth+ -p tcp -j TPROXY\n-A a -s 192.168.1.10/255.255.255.0 -j DROP\n-A a -j ACCEPT\nCOMMIT\n",
        ),
        (
            "counters-and-quotes",
            "*tproxy\n:PREROUTING ACCEPT [0:0]\n[3:180] -A PREROUTING -i \"eth1\" -p tcp -m tcp --dport 80 -j TPROXY --on-port 3128\nCOMMIT\n",
        ),
        (
            "crlf",
            "*tproxy\r\n:PREROUTING ACCEPT [0:0]\r\n-A PREROUTING -j DROP\r\nCOMMIT\r\n",
        ),
        (
            "loop",
            "*tproxy\n:PREROUTING ACCEPT [0:0]\n:a - [0:0]\n:b - [0:0]\n-A PREROUTING -j a\n-A a -j b\n-A b -j a\nCOMMIT\n",
        ),
        (
            "whole-firewall",
            "*raw\n-A PREROUTING -p udp --dport 53 -j CT --notrack\nCOMMIT\n*mangle\n-A FORWARD -m mark ! --mark 1/3 -j MARK --or-mark 4\nCOMMIT\n*nat\n-A PREROUTING -p tcp -j DNAT --to-destination 10.0.0.1-10.0.0.2:80-90/8000 --random\n-A POSTROUTING -o eth1 -j MASQUERADE\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n:LOintra - [0:0]\n-A INPUT -m tproxy -j ACCEPT\n-A INPUT -i eth1 -g LOintra\n-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT\n-A LOintra -p tcp --syn -m limit --limit 5/min -j LOG --log-prefix \"in: \"\n-A LOintra -p tcp -j REJECT --reject-with tcp-reset\n-A OUTPUT -m owner --uid-owner 0-99 -j ACCEPT\nCOMMIT\n",
        ),
        (
            "many-matches",
            "*filter\n-A INPUT -f -m iprange --src-range 10.0.0.1-10.0.0.9 -m set ! --match-set a src -m mac --mac-source 02:00:00:00:00:01\n-A INPUT -p icmp --icmp-type 3/4 -m hashlimit --hashlimit-above 5/sec --hashlimit-mode srcip,dstport --hashlimit-name x --hashlimit-srcmask 24 -j DROP\n-A INPUT -p udp -m multiport ! --ports 1,5:9 -m conntrack --ctstate NEW,DNAT -m zone --src inside\n-A INPUT -p tcp --tcp-flags ALL NONE -m set --match-set b src,dst\nCOMMIT\n",
        ),
        (
            "at-connect",
            "*tproxy\n:OUTPUT DROP [0:0]\n-A OUTPUT -p tcp -m multiport --dports 80,443 -m owner ! --uid-owner root --socket-exists -j TPROXY --on-port 50080 --on-ip 127.0.0.1 --on-no-listener accept\n-A OUTPUT -d 10/8 -j RETURN\nCOMMIT\n",
        ),
        (
            "sets",
            "create a hash:net family inet hashsize 1024 maxelem 65536\nadd a 10.0.0.0/8\nadd a 10.0.0.3-10.0.0.77 nomatch\ncreate b hash:ip,port timeout 0\nadd b 10.0.0.1,udp:53 timeout 0 comment \"x y\"\ncreate c bitmap:port range 0-1023\nadd c 80-90\n",
        ),
        ("no-commit", "*tproxy\n:PREROUTING ACCEPT [0:0]\n"),
        (
            "unknown-option",
            "*tproxy\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING --dporrt 80 -j TPROXY\nCOMMIT\n",
        ),
        (
            "two-tables",
            "*tproxy\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n*tproxy\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n",
        ),
    ] {
        put(name, text.into());
    }
}

fn requests(put: Put<'_>) {
    let filter = FlowFilter {
        id: Some(3),
        ..FlowFilter::default()
    };
    let requests = [
        Request::Status,
        Request::Stats { examples: true },
        Request::FlowsList {
            filter: filter.clone(),
        },
        Request::FlowsKill { filter },
        Request::OriginalDestination,
    ];
    for (number, request) in requests.into_iter().enumerate() {
        let line = protocol::line(&Envelope::new(request)).expect("plain values");
        put(&format!("request-{number}"), line);
    }
    for (name, text) in [
        (
            "filters",
            r#"{"version":1,"request":"flows_list","filter":{"proto":"tcp","src":"192.168.1.0/24","dst":"198.51.100.10","sport":"1024-65535","dport":80,"kind":"redirect","state":"established"}}"#,
        ),
        ("next-version", r#"{"version":2,"request":"status"}"#),
        ("unknown", r#"{"version":1,"request":"reboot\u0000\u202e"}"#),
        (
            "deep",
            r#"{"version":1,"request":"flows_list","filter":[[[[[[[[{}]]]]]]]]}"#,
        ),
        (
            "twice",
            r#"{"version":1,"version":1,"request":"status","request":"ports"}"#,
        ),
        ("no-json", "status\n"),
    ] {
        put(name, text.into());
    }
}

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let fill = |target: &str, seeds: fn(Put<'_>)| {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder).expect("a folder for inputs");
        seeds(&mut |name, bytes| {
            fs::write(folder.join(name), bytes).expect("a file for an input");
        });
    };
    fill("headers", headers);
    fill("batches", batches);
    fill("ruleset", rulesets);
    fill("request", requests);
    fill("channel", channel::seeds);
    fill("registrations", registrations::seeds);
}
