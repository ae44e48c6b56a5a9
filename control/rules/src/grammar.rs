//! The words of the language: what is understood, and what is known to be iptables'
//! but not understood yet, so that a message can tell the two from a typing error.

/// An option of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opt {
    Source,
    Destination,
    InInterface,
    Protocol,
    SourcePorts,
    DestinationPorts,
    Module,
    Comment,
    Jump,
    OnPort,
    OnIp,
}

/// How an option is written.
#[derive(Debug)]
pub(crate) struct OptSpec {
    pub(crate) opt: Opt,
    pub(crate) names: &'static [&'static str],
    /// What its value is, for messages.
    pub(crate) wants: &'static str,
    /// Whether `!` may stand with it.
    pub(crate) negatable: bool,
}

const fn tested(opt: Opt, names: &'static [&'static str], wants: &'static str) -> OptSpec {
    OptSpec {
        opt,
        names,
        wants,
        negatable: true,
    }
}

const fn plain(opt: Opt, names: &'static [&'static str], wants: &'static str) -> OptSpec {
    OptSpec {
        opt,
        names,
        wants,
        negatable: false,
    }
}

pub(crate) const OPTIONS: &[OptSpec] = &[
    tested(
        Opt::Source,
        &["-s", "--source", "--src"],
        "an address or network, as in 192.168.1.0/24",
    ),
    tested(
        Opt::Destination,
        &["-d", "--destination", "--dst"],
        "an address or network, as in 192.168.1.0/24",
    ),
    tested(
        Opt::InInterface,
        &["-i", "--in-interface"],
        "an interface name, as in eth1 or eth+",
    ),
    tested(
        Opt::Protocol,
        &["-p", "--protocol", "--proto"],
        "tcp, udp, icmp, all or a number",
    ),
    tested(
        Opt::SourcePorts,
        &["--sport", "--source-port"],
        "a port or a range, as in 1024:65535",
    ),
    tested(
        Opt::DestinationPorts,
        &["--dport", "--destination-port"],
        "a port or a range, as in 80 or 8000:8080",
    ),
    plain(Opt::Module, &["-m", "--match"], "tcp, udp or comment"),
    plain(Opt::Comment, &["--comment"], "a text in double quotes"),
    plain(Opt::Jump, &["-j", "--jump"], "a target or a chain"),
    plain(Opt::OnPort, &["--on-port"], "the proxy's port, as in 50080"),
    plain(Opt::OnIp, &["--on-ip"], "an address of this machine"),
];

/// Options of iptables that are not read yet.
pub(crate) const LATER_OPTIONS: &[&str] = &[
    "-o",
    "--out-interface",
    "-f",
    "--fragment",
    "-g",
    "--goto",
    "-c",
    "--set-counters",
    "-4",
    "--ipv4",
    "-6",
    "--ipv6",
    "--tproxy-mark",
    "--icmp-type",
    "--tcp-flags",
    "--syn",
    "--tcp-option",
    "--sports",
    "--dports",
    "--ports",
    "--ctstate",
    "--state",
    "--mark",
    "--limit",
    "--limit-burst",
    "--mac-source",
    "--to-destination",
    "--to-source",
    "--to-ports",
    "--reject-with",
    "--log-prefix",
    "--set-mark",
    "--src-range",
    "--dst-range",
    "--match-set",
];

/// A module of `-m`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Module {
    Tcp,
    Udp,
    Comment,
}

pub(crate) const MODULES: &[(&str, Module)] = &[
    ("tcp", Module::Tcp),
    ("udp", Module::Udp),
    ("comment", Module::Comment),
];

pub(crate) const LATER_MODULES: &[&str] = &[
    "addrtype",
    "connbytes",
    "connlimit",
    "connmark",
    "conntrack",
    "dscp",
    "hashlimit",
    "helper",
    "icmp",
    "iprange",
    "length",
    "limit",
    "mac",
    "mark",
    "multiport",
    "owner",
    "physdev",
    "pkttype",
    "recent",
    "set",
    "socket",
    "state",
    "statistic",
    "string",
    "tcpmss",
    "time",
    "tos",
    "tproxy",
    "ttl",
    "u32",
];

/// Targets that are built in; none may be the name of a chain.
pub(crate) const TARGETS: &[&str] = &["ACCEPT", "DROP", "RETURN", "TPROXY"];

pub(crate) const LATER_TARGETS: &[&str] = &[
    "CLASSIFY",
    "CONNMARK",
    "CT",
    "DNAT",
    "DSCP",
    "LOG",
    "MARK",
    "MASQUERADE",
    "NETMAP",
    "NFLOG",
    "NFQUEUE",
    "NOTRACK",
    "QUEUE",
    "REDIRECT",
    "REJECT",
    "SAME",
    "SET",
    "SNAT",
    "TCPMSS",
    "TOS",
    "TRACE",
    "TTL",
    "ULOG",
];

pub(crate) const LATER_TABLES: &[&str] = &["filter", "nat", "mangle", "raw", "security"];

/// Chains that other tables have built in; no chain of the user may take their place.
pub(crate) const BUILT_IN_CHAINS: &[&str] =
    &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// The ways to write the one command of a rule line.
pub(crate) const APPEND: &[&str] = &["-A", "--append"];

/// Commands of iptables that a ruleset has no use for.
pub(crate) const OTHER_COMMANDS: &[&str] = &[
    "-I",
    "--insert",
    "-D",
    "--delete",
    "-R",
    "--replace",
    "-C",
    "--check",
    "-N",
    "--new-chain",
    "-X",
    "--delete-chain",
    "-F",
    "--flush",
    "-P",
    "--policy",
    "-E",
    "--rename-chain",
    "-Z",
    "--zero",
    "-L",
    "--list",
    "-S",
    "--list-rules",
    "-t",
    "--table",
];

/// Protocol names besides those that have a name in `wire`.
pub(crate) const PROTOCOLS: &[(&str, u8)] = &[
    ("all", 0),
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("sctp", 132),
    ("udplite", 136),
];

/// The longest name of a chain, in bytes, as in iptables.
pub(crate) const CHAIN_NAME_BYTES: usize = 28;
/// The longest name of an interface, in bytes (`IFNAMSIZ` - 1).
pub(crate) const INTERFACE_NAME_BYTES: usize = 15;
/// The longest comment, in bytes, as in iptables.
pub(crate) const COMMENT_BYTES: usize = 255;

pub(crate) fn option(word: &str) -> Option<&'static OptSpec> {
    OPTIONS.iter().find(|spec| spec.names.contains(&word))
}
