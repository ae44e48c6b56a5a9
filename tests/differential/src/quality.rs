//! What a made-up rule asks of a packet: mostly something that is true of one that will be sent.

use std::net::Ipv4Addr;

use fastrand::Rng;

use crate::kernel::SERVICES;
use crate::packet::{Body, Packet, Sender};
use crate::traffic::Ways;

/// Where a rule stands.
pub struct Asked<'a> {
    /// Its table.
    pub table: &'a str,
    /// The built-in chains from which it may be reached.
    pub roots: &'a [&'static str],
    /// Ways of packets that come by.
    pub ways: Ways,
}

impl Asked<'_> {
    fn all(&self, chains: &[&str]) -> bool {
        self.roots.iter().all(|root| chains.contains(root))
    }

    fn knows_in_port(&self) -> bool {
        self.all(&["PREROUTING", "INPUT", "FORWARD"])
    }

    /// Transit's way out is not known to the packet path yet.
    fn knows_out_port(&self) -> bool {
        self.all(&["OUTPUT"]) || (!self.ways.transit && self.all(&["OUTPUT", "POSTROUTING"]))
    }
}

/// Options about `about`, and the protocol that they ask for (0: any).
pub fn quality(random: &mut Rng, asked: &Asked<'_>, about: &Packet) -> (String, u8) {
    let mut text = String::new();
    let mut protocol = 0;
    if random.u8(..3) > 0 {
        protocol = about.protocol();
        let name = match (protocol, random.bool()) {
            (1, true) => "icmp",
            (6, true) => "tcp",
            (17, true) => "udp",
            (50, true) => "esp",
            _ => &protocol.to_string(),
        };
        if random.u8(..12) == 0 {
            protocol = 0;
            text += &format!(" ! -p {name}");
        } else {
            text += &format!(" -p {name}");
        }
    }
    let mut modules = String::new();
    for _ in 0..random.u8(1..4) {
        let option = match random.u8(..6) {
            0 => interface(random, asked, about),
            1..3 => addresses(random, about),
            _ => {
                modules += &module(random, asked, about, protocol);
                continue;
            }
        };
        // An option may stand once.
        let word = option.trim_start_matches(" !").split_whitespace().next();
        let is_new = word.is_some_and(|word| !text.contains(&format!("{word} ")));
        // A list goes with no negated address in iptables.
        let is_list = |text: &str| text.contains(',') && text.contains(" ! -");
        if is_new && !is_list(&format!("{text}{option}")) {
            text += &option;
        }
    }
    // Each module once, too.
    let mut known: Vec<&str> = Vec::new();
    for one in modules.split(" -m ").filter(|one| !one.is_empty()) {
        let name = one.split(' ').next().unwrap_or_default();
        if !known.contains(&name) {
            known.push(name);
            text += &format!(" -m {one}");
        }
    }
    (text, protocol)
}

fn not(random: &mut Rng) -> &'static str {
    if random.u8(..5) == 0 { " !" } else { "" }
}

fn interface(random: &mut Rng, asked: &Asked<'_>, about: &Packet) -> String {
    let side = match about.sender {
        Sender::Wire(side) => side,
        Sender::Box => crate::packet::Side::of(about.dst),
    };
    let name = [side.interface(), side.interface(), "eth+", "eth2"][random.usize(..4)];
    let not = not(random);
    if asked.knows_in_port() {
        return format!("{not} -i {name}");
    }
    if asked.knows_out_port() {
        return format!("{not} -o {name}");
    }
    String::new()
}

fn network(random: &mut Rng, address: Ipv4Addr) -> String {
    let bits = [32, 32, 24, 28, 16, 31, 0][random.usize(..7)];
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    let base = Ipv4Addr::from(address.to_bits() & mask);
    match bits {
        32 => address.to_string(),
        24 if random.bool() => format!("{base}/255.255.255.0"),
        _ => format!("{base}/{bits}"),
    }
}

fn addresses(random: &mut Rng, about: &Packet) -> String {
    let (option, address) = if random.bool() {
        ("-s", about.src)
    } else {
        ("-d", about.dst)
    };
    if random.u8(..4) == 0 {
        let other = Ipv4Addr::from(address.to_bits() ^ 1);
        return format!(" {option} {other},{address},192.0.2.7");
    }
    let not = not(random);
    format!("{not} {option} {}", network(random, address))
}

fn ports(random: &mut Rng, port: u16) -> String {
    match random.u8(..5) {
        0 => format!("{}:{port}", port.saturating_sub(20).max(1)),
        1 => format!("{port}:{}", port + 400),
        2 => format!("{port}:"),
        3 => format!(":{port}"),
        _ => port.to_string(),
    }
}

fn module(random: &mut Rng, asked: &Asked<'_>, about: &Packet, protocol: u8) -> String {
    match random.u8(..10) {
        0..4 if protocol != 0 => transport(random, about),
        4 => range(random, about),
        5 if asked.knows_in_port() => {
            let mac = about.mac.map(|byte| format!("{byte:02X}")).join(":");
            format!(" -m mac{} --mac-source {mac}", not(random))
        }
        _ if asked.table == "raw" => range(random, about),
        6 | 7 => mark(random),
        _ => state(random),
    }
}

/// Few bits, so that rules of `mangle` often have set them.
fn mark(random: &mut Rng) -> String {
    let not = not(random);
    let bit = 1 << random.u8(..3);
    match random.u8(..4) {
        0 => format!(" -m mark{not} --mark {}", random.u8(..8)),
        1 => format!(" -m mark{not} --mark {:#x}/0x3", random.u8(..4)),
        2 => format!(" -m mark{not} --mark 0x0/{bit:#x}"),
        _ => format!(" -m mark{not} --mark {bit:#x}/{bit:#x}"),
    }
}

fn state(random: &mut Rng) -> String {
    const STATES: [&str; 7] = [
        "NEW",
        "ESTABLISHED",
        "RELATED,ESTABLISHED",
        "INVALID",
        "UNTRACKED",
        "NEW,INVALID",
        "NEW,ESTABLISHED",
    ];
    let states = STATES[random.usize(..STATES.len())];
    let not = not(random);
    if random.bool() {
        format!(" -m state{not} --state {states}")
    } else {
        format!(" -m conntrack{not} --ctstate {states}")
    }
}

fn range(random: &mut Rng, about: &Packet) -> String {
    let (option, address) = if random.bool() {
        ("--src-range", about.src)
    } else {
        ("--dst-range", about.dst)
    };
    let from = Ipv4Addr::from(address.to_bits() - u32::from(random.u8(..3)));
    let to = Ipv4Addr::from(address.to_bits() + u32::from(random.u8(..3)));
    let not = not(random);
    format!(" -m iprange{not} {option} {from}-{to}")
}

fn transport(random: &mut Rng, about: &Packet) -> String {
    let not = not(random);
    if let Body::Icmp { kind, .. } | Body::Error { kind, .. } = &about.body {
        return icmp(random, *kind, not);
    }
    let Some((sport, dport)) = about.ports() else {
        return String::new();
    };
    let name = if about.protocol() == 6 { "tcp" } else { "udp" };
    match random.u8(..6) {
        0 | 1 => format!(" -m {name}{not} --dport {}", ports(random, dport)),
        2 => format!(" -m {name}{not} --sport {}", ports(random, sport)),
        3 if name == "tcp" => flags(random, about, not),
        3 => format!(
            " -m {name} --sport {} --dport {}",
            ports(random, sport),
            ports(random, dport)
        ),
        _ => multiport(random, (sport, dport), not),
    }
}

fn multiport(random: &mut Rng, (sport, dport): (u16, u16), not: &str) -> String {
    let other = SERVICES[random.usize(..SERVICES.len())];
    let (option, port) = match random.u8(..4) {
        0 => ("--sports", sport),
        1 => ("--ports", [sport, dport][random.usize(..2)]),
        _ => ("--dports", dport),
    };
    let last = port + random.u16(1..9);
    let list = match random.u8(..3) {
        0 => format!("{port}"),
        1 => format!("{other},{port}"),
        _ => format!("{other},{port}:{last},9"),
    };
    format!(" -m multiport{not} {option} {list}")
}

fn flags(random: &mut Rng, about: &Packet, not: &str) -> String {
    const NAMES: [&str; 6] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
    if random.bool() {
        return format!(" -m tcp{not} --syn");
    }
    let Body::Tcp { flags, .. } = about.body else {
        return String::new();
    };
    let mask = random.u8(1..64);
    let set = if random.u8(..4) == 0 {
        random.u8(..64)
    } else {
        flags
    };
    let words = |bits: u8| {
        let named = (0..6).filter(|bit| bits & 1 << bit != 0);
        let words: Vec<&str> = named.map(|bit| NAMES[bit]).collect();
        match words.as_slice() {
            [] => "NONE".to_owned(),
            _ if words.len() == 6 => "ALL".to_owned(),
            _ => words.join(","),
        }
    };
    format!(
        " -m tcp{not} --tcp-flags {} {}",
        words(mask),
        words(set & mask)
    )
}

fn icmp(random: &mut Rng, kind: (u8, u8), not: &str) -> String {
    let name = match kind {
        (0, _) => "echo-reply",
        (3, 1) => "host-unreachable",
        (3, 3) => "port-unreachable",
        (3, _) => "destination-unreachable",
        (8, _) => "echo-request",
        (11, 0) => "ttl-zero-during-transit",
        (12, _) => "parameter-problem",
        (17, _) => "address-mask-request",
        _ => "any",
    };
    match random.u8(..4) {
        0 => format!(" -m icmp{not} --icmp-type {}", kind.0),
        1 => format!(" -m icmp{not} --icmp-type {}/{}", kind.0, kind.1),
        // Nothing is not any.
        _ if name == "any" => " -m icmp --icmp-type any".into(),
        _ => format!(" -m icmp{not} --icmp-type {name}"),
    }
}
