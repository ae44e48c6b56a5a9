//! The words of the language that are no module's: general options, and what is known to be
//! iptables' but is not had here, so that a message can tell it from a typing error.

use crate::option::{OptSpec, flag, plain, tested};

/// Options that need no module.
pub(crate) const GENERAL: &[OptSpec] = &[
    tested(
        &["-s", "--source", "--src"],
        "an address or network, as in 192.168.1.0/24",
    ),
    tested(
        &["-d", "--destination", "--dst"],
        "an address or network, as in 192.168.1.0/24",
    ),
    tested(
        &["-i", "--in-interface"],
        "an interface name, as in eth1 or eth+",
    ),
    tested(
        &["-o", "--out-interface"],
        "an interface name, as in eth1 or eth+",
    ),
    tested(
        &["-p", "--protocol", "--proto"],
        "tcp, udp, icmp, all or a number",
    ),
    OptSpec {
        negatable: true,
        ..flag(&["-f", "--fragment", "--fragments"])
    },
    plain(&["-m", "--match"], "the name of a match, as in conntrack"),
    plain(&["-j", "--jump"], "a target or a chain"),
    plain(&["-g", "--goto"], "a chain"),
    plain(
        &["-c", "--set-counters"],
        "two numbers, packets and bytes, as in -c 0 0",
    )
    .of(2),
    flag(&["-4", "--ipv4"]),
];

/// Options of iptables that are not had, and what to do about each.
pub(crate) const NOT_HAD_OPTIONS: &[(&str, &str)] = &[
    ("-6", "rules here are for IPv4; remove it"),
    ("--ipv6", "rules here are for IPv4; remove it"),
    ("--tcp-option", "remove it, or match --tcp-flags"),
    ("--ctproto", "write -p"),
    ("--ctorigsrc", "write -s"),
    (
        "--ctorigdst",
        "write -d in the chain that sees the original address",
    ),
    ("--ctreplsrc", "write -s"),
    ("--ctrepldst", "write -d"),
    ("--ctstatus", "write --ctstate"),
    ("--ctexpire", "remove it"),
    ("--ctdir", "match --ctstate NEW for the first direction"),
    ("--return-nomatch", "remove it"),
    ("--update-counters", "remove it with its `!`"),
    ("--update-subcounters", "remove it with its `!`"),
    ("--packets-eq", "remove it"),
    ("--packets-lt", "remove it"),
    ("--packets-gt", "remove it"),
    ("--bytes-eq", "remove it"),
    ("--bytes-lt", "remove it"),
    ("--bytes-gt", "remove it"),
    ("--suppl-groups", "remove it"),
    ("--hashlimit-rate-match", "remove it"),
    ("--hashlimit-rate-interval", "remove it"),
    (
        "--connlimit-above",
        "use -m hashlimit, or [limits] of the configuration",
    ),
    (
        "--connlimit-upto",
        "use -m hashlimit, or [limits] of the configuration",
    ),
    ("--helper", "a proxy reads the protocol here; remove it"),
    ("--timeout", "set [timeouts] in the configuration"),
    ("--ctevents", "remove it"),
    ("--expevents", "remove it"),
    ("--zone-orig", "remove it"),
    ("--zone-reply", "remove it"),
    ("--nfmask", "write --set-xmark VALUE/MASK"),
];

/// Matches of iptables that are not had, and what to do about each.
pub(crate) const NOT_HAD_MODULES: &[(&str, &str)] = &[
    ("addrtype", "name the addresses with -s or -d"),
    ("ah", REMOVE),
    ("bpf", REMOVE),
    ("cgroup", "write -m owner in OUTPUT"),
    ("cluster", REMOVE),
    ("connbytes", REMOVE),
    ("connlabel", "mark with -j MARK, match with -m mark"),
    (
        "connlimit",
        "use -m hashlimit for new connections per time, or [limits] of the configuration for flows at once",
    ),
    ("connmark", "mark with -j MARK, match with -m mark"),
    ("cpu", REMOVE),
    ("dccp", "match -p dccp without ports"),
    ("devgroup", "name the interfaces with -i"),
    ("dscp", REMOVE),
    ("ecn", REMOVE),
    ("esp", "match -p esp"),
    (
        "helper",
        "a proxy reads the protocol here; redirect to it with -j TPROXY",
    ),
    ("ipcomp", REMOVE),
    ("ipvs", REMOVE),
    ("length", REMOVE),
    ("nfacct", "each rule counts; see rules show"),
    ("osf", REMOVE),
    ("physdev", "name the interfaces with -i"),
    ("pkttype", "name the addresses with -d"),
    ("policy", REMOVE),
    ("quota", REMOVE),
    ("rateest", "use -m limit or -m hashlimit"),
    ("realm", REMOVE),
    ("recent", "use -m hashlimit"),
    ("rpfilter", "name the networks of an interface with -s"),
    ("sctp", "match -p sctp without ports"),
    ("socket", "write -m tproxy"),
    ("statistic", REMOVE),
    (
        "string",
        "a proxy reads contents; redirect to it with -j TPROXY",
    ),
    ("tcpmss", REMOVE),
    ("time", "load another ruleset at that time"),
    ("tos", REMOVE),
    ("ttl", REMOVE),
    ("u32", REMOVE),
    ("udplite", "match -p udplite without ports"),
];

/// What to write instead of `-m addrtype` with one option and one type.
pub(crate) fn addrtype_cure(option: &str, negated: bool, kind: &str) -> Option<String> {
    let not = if negated { "! " } else { "" };
    let (end, hook) = match option {
        "--dst-type" => ("-d", if negated { "FORWARD" } else { "INPUT" }),
        "--src-type" if negated => ("-s", "INPUT or FORWARD"),
        "--src-type" => ("-s", "OUTPUT"),
        _ => return None,
    };
    Some(match kind {
        "LOCAL" => format!(
            "write the rule without it in {hook}, or name the box's addresses with {not}{end}"
        ),
        "MULTICAST" => format!("write {not}{end} 224.0.0.0/4"),
        "BROADCAST" => format!(
            "write {not}{end} 255.255.255.255, and the same for the last address of each network of the box"
        ),
        "UNICAST" if negated => format!("write {end} 224.0.0.0/3"),
        "UNICAST" => format!("write ! {end} 224.0.0.0/3"),
        _ => return None,
    })
}

/// Targets of iptables that are not had, and what to do about each.
pub(crate) const NOT_HAD_TARGETS: &[(&str, &str)] = &[
    ("AUDIT", "write -j LOG"),
    ("CHECKSUM", REMOVE),
    ("CLASSIFY", REMOVE),
    ("CLUSTERIP", REMOVE),
    ("CONNMARK", "write -j MARK"),
    ("CONNSECMARK", REMOVE),
    ("DSCP", REMOVE),
    ("ECN", REMOVE),
    ("HMARK", REMOVE),
    ("IDLETIMER", REMOVE),
    ("LED", REMOVE),
    ("MIRROR", REMOVE),
    ("NFLOG", "write -j LOG"),
    ("NFQUEUE", "redirect to a proxy with -j TPROXY"),
    ("QUEUE", "redirect to a proxy with -j TPROXY"),
    ("RATEEST", REMOVE),
    ("SAME", "write -j SNAT"),
    ("SECMARK", REMOVE),
    ("SET", "change the sets file instead"),
    (
        "SYNPROXY",
        "a proxy's own listener answers SYNs; write -j TPROXY",
    ),
    ("TCPMSS", REMOVE),
    ("TCPOPTSTRIP", REMOVE),
    ("TEE", REMOVE),
    ("TOS", REMOVE),
    ("TRACE", "ask `xtproxy rules explain` instead"),
    ("TTL", REMOVE),
    ("ULOG", "write -j LOG"),
];

const REMOVE: &str = "remove it";

/// Tables of iptables that are not had.
pub(crate) const NOT_HAD_TABLES: &[&str] = &["security"];

/// What to do about a word that is not had.
pub(crate) fn cure(words: &[(&str, &'static str)], word: &str) -> Option<&'static str> {
    words
        .iter()
        .find(|(known, _)| *known == word)
        .map(|(_, cure)| *cure)
}

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

/// The longest name of a chain, in bytes, as in iptables.
pub(crate) const CHAIN_NAME_BYTES: usize = 28;
/// The longest name of an interface, in bytes (`IFNAMSIZ` - 1).
pub(crate) const INTERFACE_NAME_BYTES: usize = 15;
/// The longest comment, in bytes, as in iptables.
pub(crate) const COMMENT_BYTES: usize = 255;
