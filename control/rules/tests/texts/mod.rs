//! Random texts of the rule language, made from small pools so that rules and packets meet.
//!
//! A text is made from dice; 0 is the simplest choice everywhere, so that a failing text shrinks.

#![allow(
    dead_code,
    reason = "each test that includes this asks for other texts"
)]

use proptest::prelude::*;

/// Which texts are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// Everything that the language has.
    Ours,
    /// What iptables has too: no table or match of our own, `!` only before the option.
    Common,
}

struct Dice {
    throws: std::vec::IntoIter<u16>,
    style: Style,
}

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        usize::from(self.throws.next().unwrap_or(0)) % n.max(1)
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// An option with a value, `!` before, behind or not at all.
    fn tested(&mut self, options: &[&str], values: &[&str]) -> String {
        let (option, value) = (self.pick(options), self.pick(values));
        match self.below(6) {
            1 => format!(" ! {option} {value}"),
            2 if self.style == Style::Ours => format!(" {option} ! {value}"),
            _ => format!(" {option} {value}"),
        }
    }

    fn sometimes(&mut self, options: &[&str], values: &[&str]) -> String {
        if self.below(3) == 1 {
            self.tested(options, values)
        } else {
            String::new()
        }
    }
}

pub const TABLES: [(&str, &[&str]); 5] = [
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ("tproxy", &["PREROUTING", "OUTPUT"]),
    ("raw", &["PREROUTING", "OUTPUT"]),
    (
        "mangle",
        &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
    ),
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
];
const USERS: [&str; 4] = ["first", "second", "third", "fourth"];

const NETWORKS: &[&str] = &[
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.2/31",
    "10.0.0.0/8",
    "192.168.1.7/255.255.255.0",
    "10.9.9.1/255.0.0.255",
    "0/0",
    "192.168.1.1/32",
];
const LISTS: &[&str] = &[
    " -s 10.0.0.1,192.168.1.1",
    " -d 10.0.0.1,10.0.0.2",
    " -d 10.0.0.2,0/0",
];
const INTERFACES: &[&str] = &["eth0", "eth1", "eth+", "dmz0", "none9", "+"];
const PORTS: &[&str] = &["80", "79:81", ":80", "81:", "0", "65535", "8080", ":"];
const RANGES: &[&str] = &["10.0.0.1-10.0.0.2", "10.0.0.0-10.255.255.255", "8.8.8.8"];

/// What a rule can be where packets come by at this hook.
struct Spot<'a> {
    table: &'a str,
    hook: &'a str,
}

impl Spot<'_> {
    fn is_connect(&self) -> bool {
        self.table == "tproxy" && self.hook == "OUTPUT"
    }
}

fn addresses(d: &mut Dice, spot: &Spot<'_>) -> String {
    if d.below(6) == 5 && !spot.is_connect() {
        return d.pick(LISTS).to_owned();
    }
    let source = if spot.is_connect() {
        String::new()
    } else {
        d.sometimes(&["-s", "--source"], NETWORKS)
    };
    source + &d.sometimes(&["-d", "--dst"], NETWORKS)
}

fn interfaces(d: &mut Dice, spot: &Spot<'_>) -> String {
    let mut text = String::new();
    if matches!(spot.hook, "PREROUTING" | "INPUT" | "FORWARD") {
        text += &d.sometimes(&["-i", "--in-interface"], INTERFACES);
    }
    if matches!(spot.hook, "FORWARD" | "OUTPUT" | "POSTROUTING") && !spot.is_connect() {
        text += &d.sometimes(&["-o", "--out-interface"], INTERFACES);
    }
    text
}

/// The protocol's options, and which protocol it is.
fn protocol(d: &mut Dice, spot: &Spot<'_>) -> (String, &'static str) {
    let ports = |d: &mut Dice, text: &str| {
        let source = if spot.is_connect() {
            String::new()
        } else {
            d.sometimes(&["--sport", "--source-port"], PORTS)
        };
        let destination = d.sometimes(&["--dport", "--destination-port"], PORTS);
        format!("{text}{source}{destination}")
    };
    let kinds = if spot.is_connect() { 3 } else { 8 };
    match d.below(kinds) {
        1 => {
            let p = d.pick(&[" -p tcp", " --protocol 6", " -p tcp -m tcp"]);
            let mut text = ports(d, p);
            if !spot.is_connect() && d.below(3) == 1 {
                text += &d.tested(
                    &["--tcp-flags"],
                    &["SYN,ACK SYN", "ALL NONE", "FIN,RST FIN,RST", "SYN NONE"],
                );
            } else if !spot.is_connect() && d.below(3) == 1 {
                text += d.pick(&[" --syn", " ! --syn"]);
            }
            (text, "tcp")
        }
        2 if spot.is_connect() || d.below(2) == 1 => {
            let lists = ["80", "22,80,8000:8010", "1:9,50080"];
            let options: &[&str] = if spot.is_connect() {
                &["--dports"]
            } else {
                &["--dports", "--sports", "--ports", "--destination-ports"]
            };
            (
                format!(" -p tcp -m multiport{}", d.tested(options, &lists)),
                "tcp",
            )
        }
        2 | 3 => {
            let p = d.pick(&[" -p udp", " -p udp -m udp", " -p 17"]);
            (ports(d, p), "udp")
        }
        4 => {
            let types = ["8", "echo-request", "3/4", "port-unreachable", "any", "0"];
            let text = d.sometimes(&["--icmp-type"], &types);
            (format!(" -p icmp{text}"), "icmp")
        }
        5 => (
            d.pick(&[" -p all", " ! -p tcp", " -p 47", " ! -p udp"])
                .to_owned(),
            "",
        ),
        6 if spot.table == "tproxy" && d.style == Style::Ours => {
            let text = d.pick(&[
                " -m udp --dport 53",
                " --dport 80",
                " -m multiport --ports 80",
            ]);
            (
                text.to_owned(),
                if text.contains("udp") { "udp" } else { "tcp" },
            )
        }
        _ => (String::new(), ""),
    }
}

/// One more match, if one comes up.
fn matched(d: &mut Dice, spot: &Spot<'_>) -> String {
    let ours = d.style == Style::Ours;
    let at_connect = spot.is_connect();
    let comes_in = matches!(spot.hook, "PREROUTING" | "INPUT" | "FORWARD");
    let states = ["NEW", "ESTABLISHED,RELATED", "INVALID", "NEW,UNTRACKED"];
    match d.below(16) {
        1 => d.pick(&[
            " -m comment --comment \"it's \\\"so\\\" \\\\\"",
            " -m comment --comment plain",
        ]).to_owned(),
        2 => format!(" -m iprange{}", d.tested(&["--dst-range"], RANGES)),
        3 if !at_connect => format!(
            " -m iprange{}{}",
            d.tested(&["--src-range"], RANGES),
            d.sometimes(&["--dst-range"], RANGES)
        ),
        4 if !at_connect => format!(" -m state{}", d.tested(&["--state"], &states)),
        5 if !at_connect => {
            let states = ["NEW", "ESTABLISHED", "INVALID", "NEW,SNAT", "DNAT,RELATED"];
            format!(" -m conntrack{}", d.tested(&["--ctstate"], &states))
        }
        6 => {
            let marks = ["1", "0x1/0x1", "0x2/0xff", "0"];
            format!(" -m mark{}", d.tested(&["--mark"], &marks))
        }
        7 if !at_connect => d.pick(&[
            " -m limit",
            " -m limit --limit 10/min",
            " -m limit --limit 5/second --limit-burst 20",
        ]).to_owned(),
        8 if !at_connect => d.pick(&[
            " -m hashlimit --hashlimit-upto 5/sec --hashlimit-name one",
            " -m hashlimit --hashlimit-above 10/min --hashlimit-burst 7 --hashlimit-mode srcip,dstport --hashlimit-name two --hashlimit-srcmask 24 --hashlimit-htable-expire 60000",
        ]).to_owned(),
        9 if comes_in => format!(" -m mac{}", d.tested(&["--mac-source"], &["02:00:00:00:00:01"])),
        10 if !comes_in && !at_connect => {
            let who = ["0", "1000-1999", "7"];
            format!(" -m owner{}", d.tested(&["--uid-owner"], &who))
        }
        11 if at_connect && ours => {
            let gid = d.sometimes(&["--gid-owner"], &["0", "staff"]);
            format!(" -m owner{}{gid}", d.tested(&["--uid-owner"], &["0", "proxy"]))
        }
        12 if ours && at_connect => {
            let sets = ["nets dst", "pairs dst,dst", "addrs dst"];
            format!(" -m set{}", d.tested(&["--match-set"], &sets))
        }
        12 if ours => {
            let sets = ["nets src", "nets dst", "addrs src", "pairs dst,dst", "ports dst"];
            format!(" -m set{}", d.tested(&["--match-set"], &sets))
        }
        13 if ours => {
            let zones = ["inside", "servers", "world"];
            let source = if at_connect { String::new() } else { d.sometimes(&["--src"], &zones) };
            format!(" -m zone{source}{}", d.tested(&["--dst"], &zones))
        }
        14 if ours && !at_connect => " -m tproxy".to_owned(),
        15 if !at_connect => d.pick(&[" -f", " ! -f"]).to_owned(),
        _ => String::new(),
    }
}

fn target(d: &mut Dice, spot: &Spot<'_>, protocol: &str, below: &[&str]) -> String {
    let has_ports = matches!(protocol, "tcp" | "udp");
    if !below.is_empty() && d.below(3) == 1 {
        let (option, chain) = (d.pick(&["-j", "-j", "--jump", "-g"]), d.pick(below));
        return format!(" {option} {chain}");
    }
    let nothing = |d: &mut Dice| d.pick(&["", " -j ACCEPT", " -j RETURN"]).to_owned();
    match (spot.table, d.below(5)) {
        (_, 0) => nothing(d),
        (table, 1) if table != "nat" => " -j DROP".to_owned(),
        ("tproxy", _) if has_ports => {
            let port = d.pick(&["", " --on-port 0", " --on-port 50080", " --on-port 80"]);
            let ip = d.pick(&[
                "",
                "",
                " --on-ip 10.0.0.1",
                " --on-ip 10.0.0.77",
                " --on-ip 0.0.0.0",
            ]);
            let otherwise = d.pick(&["", "", " --on-no-listener drop", " --on-no-listener accept"]);
            format!(" -j TPROXY{port}{ip}{otherwise}")
        }
        ("tproxy", _) => nothing(d),
        (_, 2) => d
            .pick(&[
                " -j LOG",
                " -j LOG --log-prefix \"a b: \" --log-level info --log-tcp-options",
                " -j LOG --log-level 7 --log-uid",
            ])
            .to_owned(),
        ("filter", _) if protocol == "tcp" && d.below(2) == 1 => {
            " -j REJECT --reject-with tcp-reset".to_owned()
        }
        ("filter", _) => d
            .pick(&[
                " -j REJECT",
                " -j REJECT --reject-with icmp-host-prohibited",
                " -j REJECT --reject-with admin-prohib",
            ])
            .to_owned(),
        ("mangle", _) => d
            .pick(&[
                " -j MARK --set-mark 1",
                " -j MARK --set-xmark 0x2/0xff",
                " -j MARK --or-mark 0x4",
                " -j MARK --and-mark 0xfe",
                " -j MARK --xor-mark 3",
            ])
            .to_owned(),
        ("raw", _) => d.pick(&[" -j CT --notrack", " -j NOTRACK"]).to_owned(),
        ("nat", _) => translation(d, spot, has_ports),
        _ => nothing(d),
    }
}

fn translation(d: &mut Dice, spot: &Spot<'_>, has_ports: bool) -> String {
    let to = match spot.hook {
        "PREROUTING" | "OUTPUT" if has_ports => d.pick(&[
            " -j DNAT --to-destination 10.0.0.9:8080",
            " -j DNAT --to-destination :80-90",
            " -j DNAT --to-destination 10.0.0.9:80-80/8080",
            " -j REDIRECT --to-ports 8080",
            " -j REDIRECT --to-ports 8000-8010 --random",
        ]),
        "PREROUTING" | "OUTPUT" => d.pick(&[
            " -j DNAT --to-destination 10.0.0.9",
            " -j DNAT --to-destination 10.0.0.9-10.0.0.12 --persistent",
            " -j REDIRECT",
            " -j NETMAP --to 10.1.0.0/16",
        ]),
        "POSTROUTING" if has_ports => d.pick(&[
            " -j SNAT --to-source 203.0.113.1:1024-65535 --random-fully",
            " -j MASQUERADE --to-ports 2000-3000 --random",
        ]),
        "POSTROUTING" => d.pick(&[
            " -j SNAT --to-source 203.0.113.1-203.0.113.5 --persistent",
            " -j MASQUERADE",
            " -j MASQUERADE --random-fully",
            " -j NETMAP --to 10.1.0.0/16",
        ]),
        _ => d.pick(&[" -j SNAT --to-source 203.0.113.1"]),
    };
    to.to_owned()
}

fn rule(d: &mut Dice, spot: &Spot<'_>, chain: &str, below: &[&str]) -> String {
    let counters = d.pick(&["", "", "[3:180] "]);
    let addresses = addresses(d, spot);
    let interfaces = interfaces(d, spot);
    let (transport, protocol) = protocol(d, spot);
    let mut matches = String::new();
    for _ in 0..d.below(3) {
        let one = matched(d, spot);
        // -f may be given once.
        if !(one.contains("-f") && matches.contains(" -f")) {
            matches += &one;
        }
    }
    let target = target(d, spot, protocol, below);
    format!("{counters}-A {chain}{addresses}{interfaces}{transport}{matches}{target}\n")
}

fn table(d: &mut Dice, (name, hooks): (&str, &[&str])) -> String {
    let mut text = format!("*{name}\n");
    for hook in hooks {
        let policy = if name == "nat" {
            "ACCEPT"
        } else {
            d.pick(&["ACCEPT", "ACCEPT", "DROP"])
        };
        text += &format!(":{hook} {policy} [7:9]\n");
    }
    for user in USERS {
        text += &format!(":{user} - [0:0]\n");
    }
    // All chains of the user are called from one hook, so that what stands in them fits there.
    let root = hooks[d.below(hooks.len())];
    text += "# rules\n\n";
    for _ in 0..d.below(10) {
        let chain = d.below(hooks.len() + USERS.len());
        if chain < hooks.len() {
            let hook = hooks[chain];
            let below: &[&str] = if hook == root { &USERS } else { &[] };
            text += &rule(d, &Spot { table: name, hook }, hook, below);
        } else {
            let number = chain - hooks.len();
            let spot = Spot {
                table: name,
                hook: root,
            };
            text += &rule(d, &spot, USERS[number], &USERS[number + 1..]);
        }
    }
    text + "COMMIT\n"
}

fn text(throws: Vec<u16>, style: Style) -> String {
    let mut d = Dice {
        throws: throws.into_iter(),
        style,
    };
    let tables = TABLES
        .iter()
        .filter(|(name, _)| style == Style::Ours || *name != "tproxy");
    let mut text = String::new();
    for found in tables {
        if d.below(3) != 0 {
            text += &table(&mut d, *found);
        }
    }
    text
}

/// A whole text that parses.
pub fn ruleset(style: Style) -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<u16>(), 0..600).prop_map(move |throws| text(throws, style))
}

/// A text of table tproxy alone whose rules stand in PREROUTING.
pub fn tproxy() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<u16>(), 0..300).prop_map(|throws| {
        let mut d = Dice {
            throws: throws.into_iter(),
            style: Style::Ours,
        };
        table(&mut d, ("tproxy", &["PREROUTING"]))
    })
}
