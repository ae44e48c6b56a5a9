//! Rulesets made up at random, about packets that will be sent.

use std::fmt::Write as _;

use fastrand::Rng;

use crate::packet::Packet;
use crate::quality::{Asked, quality};
use crate::traffic::Ways;

/// The tables and their built-in chains.
pub const TABLES: [(&str, &[&str]); 4] = [
    ("raw", &["PREROUTING", "OUTPUT"]),
    (
        "mangle",
        &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
    ),
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
];

/// What must pass unasked, so that one answer of the kernel's does not count as a packet of the
/// test: answers to what is refused, on their way out and over the loopback; and what a nat
/// target has taken, so that it comes out and shows which one it was.
fn passes(table: &str, chain: &str) -> String {
    let mut lines: Vec<&str> = match chain {
        "PREROUTING" | "INPUT" => vec!["-i lo"],
        "FORWARD" => vec![],
        _ => vec![
            "-o lo",
            "-p tcp --tcp-flags RST RST",
            "-p icmp --icmp-type 3",
            "-p icmp --icmp-type 14",
        ],
    };
    let comes_after_nat = match chain {
        "INPUT" | "FORWARD" | "POSTROUTING" => true,
        _ => (table, chain) == ("filter", "OUTPUT"),
    };
    lines.extend(comes_after_nat.then_some("-m conntrack --ctstate DNAT"));
    lines.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "-A {chain} {line} -j ACCEPT");
        text
    })
}

/// A chain that is being made up.
struct Chain {
    name: String,
    /// The built-in chains from which it may be reached.
    roots: Vec<&'static str>,
}

/// Makes up one ruleset.
struct Author<'a> {
    random: &'a mut Rng,
    packets: &'a [Packet],
    ways: Ways,
    rules: u16,
}

/// A ruleset about `packets`: each rule has a comment of its own, `r1` and so on.
pub fn ruleset(random: &mut Rng, packets: &[Packet], ways: Ways) -> String {
    let mut author = Author {
        random,
        packets,
        ways,
        rules: 0,
    };
    let mut text = String::new();
    for (table, chains) in TABLES {
        let likely = match table {
            "filter" => 100,
            "nat" => 50,
            "mangle" => 60,
            _ => 25,
        };
        if author.random.u8(..100) < likely {
            text += &author.table(table, chains);
        }
    }
    text
}

impl Author<'_> {
    fn table(&mut self, table: &str, built_in: &'static [&'static str]) -> String {
        let mut chains: Vec<Chain> = Vec::new();
        for name in built_in {
            chains.push(Chain {
                name: (*name).to_owned(),
                roots: vec![name],
            });
        }
        for number in 0..self.random.u8(..4) {
            let shared = table == "filter" && self.random.bool();
            let at = self.random.usize(..built_in.len());
            let more = shared.then(|| self.random.usize(..built_in.len()));
            let mut roots = vec![built_in[at]];
            roots.extend(more.filter(|more| *more != at).map(|more| built_in[more]));
            let name = format!("user{number}");
            chains.push(Chain { name, roots });
        }
        let mut text = format!("*{table}\n");
        for chain in &chains {
            let policy = self.policy(table, chain);
            let _ = writeln!(text, ":{} {policy} [0:0]", chain.name);
        }
        for (at, chain) in chains.iter().enumerate() {
            if at < built_in.len() {
                text += &passes(table, &chain.name);
            }
            let later = chains.get(at.max(built_in.len() - 1) + 1..);
            let later: Vec<&Chain> = later
                .unwrap_or_default()
                .iter()
                .filter(|to| chain.roots.iter().all(|root| to.roots.contains(root)))
                .collect();
            for _ in 0..self.random.u8(0..5) {
                text += &self.rule(table, chain, &later);
            }
        }
        text + "COMMIT\n"
    }

    fn policy(&mut self, table: &str, chain: &Chain) -> &'static str {
        if chain.name.starts_with("user") {
            return "-";
        }
        let drops = match table {
            "filter" => 50,
            "nat" => 0,
            _ => 5,
        };
        if self.random.u8(..100) < drops {
            "DROP"
        } else {
            "ACCEPT"
        }
    }

    fn rule(&mut self, table: &str, chain: &Chain, later: &[&Chain]) -> String {
        self.rules += 1;
        let about = &self.packets[self.random.usize(..self.packets.len())];
        let asked = Asked {
            table,
            roots: &chain.roots,
            ways: self.ways,
        };
        let (mut text, protocol) = quality(self.random, &asked, about);
        let target = self.target(table, chain, later, protocol);
        let number = self.rules;
        text = format!("-A {}{text} -m comment --comment r{number}", chain.name);
        text + &target + "\n"
    }

    fn target(&mut self, table: &str, chain: &Chain, later: &[&Chain], protocol: u8) -> String {
        let to = match self.random.u8(..10) {
            0 => return String::new(),
            1 if chain.name.starts_with("user") => return " -j RETURN".into(),
            1..4 if !later.is_empty() => {
                let to = &later[self.random.usize(..later.len())].name;
                let how = ["-j", "-j", "-g"][self.random.usize(..3)];
                return format!(" {how} {to}");
            }
            4 => "ACCEPT".into(),
            _ => match table {
                "filter" => self.filter_target(protocol),
                "nat" => self.nat_target(chain.roots[0], protocol),
                "mangle" => self.mangle_target(),
                _ => ["NOTRACK", "CT --notrack", "DROP"][self.random.usize(..3)].to_owned(),
            },
        };
        format!(" -j {to}")
    }

    fn filter_target(&mut self, protocol: u8) -> String {
        const KINDS: [&str; 8] = [
            "icmp-port-unreachable",
            "icmp-net-unreachable",
            "icmp-host-unreachable",
            "icmp-proto-unreachable",
            "icmp-net-prohibited",
            "icmp-host-prohibited",
            "icmp-admin-prohibited",
            "tcp-reset",
        ];
        match self.random.u8(..6) {
            0..2 => "ACCEPT".into(),
            2..4 => "DROP".into(),
            4 => "REJECT".into(),
            _ => {
                let kinds = if protocol == 6 {
                    &KINDS[..]
                } else {
                    &KINDS[..7]
                };
                let kind = kinds[self.random.usize(..kinds.len())];
                format!("REJECT --reject-with {kind}")
            }
        }
    }

    fn mangle_target(&mut self) -> String {
        let mark = self.random.u8(..8);
        let mask = [0xff, 0x7, 0xffff_ffff_u32][self.random.usize(..3)];
        match self.random.u8(..7) {
            0 => "DROP".into(),
            1 => format!("MARK --and-mark {mark:#x}"),
            2 => format!("MARK --or-mark {mark:#x}"),
            3 => format!("MARK --xor-mark {mark:#x}"),
            4 => format!("MARK --set-xmark {mark:#x}/{mask:#x}"),
            5 => format!("MARK --set-mark {mark:#x}/{mask:#x}"),
            _ => format!("MARK --set-mark {mark}"),
        }
    }

    /// The rule's number shows in what the target makes of the packet.
    fn nat_target(&mut self, root: &str, protocol: u8) -> String {
        use crate::outcome::{NAT_PORTS, NAT_PORTS_EACH, nat_address};
        let number = self.rules;
        let first = NAT_PORTS + number * NAT_PORTS_EACH;
        let last = first + NAT_PORTS_EACH - 1;
        let has_ports = matches!(protocol, 6 | 17);
        let is_source = matches!(root, "INPUT" | "POSTROUTING");
        let address = nat_address(number, is_source);
        let [a, b, c, _] = address.octets();
        match (is_source, self.random.u8(..4)) {
            (false, 0) if has_ports => format!("REDIRECT --to-ports {first}"),
            (false, 1) if has_ports => format!("DNAT --to-destination {address}:8080"),
            (true, 0) if has_ports && root == "POSTROUTING" => {
                format!("MASQUERADE --to-ports {first}-{last}")
            }
            (_, 2) if root != "INPUT" => format!("NETMAP --to {a}.{b}.{c}.0/24"),
            (false, _) => format!("DNAT --to-destination {address}"),
            (true, _) => format!("SNAT --to-source {address}"),
        }
    }
}
