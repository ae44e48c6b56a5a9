//! The arguments of the commands about rules, zones and logs.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use protocol::{Probe, proto_number};

/// Makes, tries, commits and shows rulesets.
#[derive(Subcommand)]
#[command(after_help = "\
The way of a change, in /etc/xtproxy or the folder that --dir names:
  edit iptables.conf.in (rules) or iptables.conf.var (macros)
  xtproxy rules gen                       makes iptables.conf.new of them, and shows what changes
  xtproxy rules test                      tries it for 15 seconds; k keeps it
  xtproxy rules commit                    makes it iptables.conf, and puts it in force

Others:
  xtproxy rules check                     would the daemon take iptables.conf.new?
  xtproxy rules show --table filter       what is in force, with counters
  xtproxy rules save > rules.txt          the same as iptables-save writes it
  xtproxy rules explain --in eth1 --src 192.168.1.9:40000 --dst 1.2.3.4:80 --proto tcp")]
pub(crate) enum Rules {
    Gen(Gen),
    Test(Test),
    Commit(Commit),
    Check(Check),
    Show(Show),
    Save(Save),
    Explain(Box<Explain>),
}

/// Where rulesets are.
#[derive(Args)]
pub(crate) struct Dir {
    /// The folder of iptables.conf, its .in, .var and .new, and ipset.conf.
    #[arg(long, value_name = "DIR", default_value = "/etc/xtproxy")]
    pub(crate) dir: PathBuf,
}

/// Makes iptables.conf.new of iptables.conf.in and the macros of iptables.conf.var.
#[derive(Args)]
#[command(after_help = "\
No daemon is needed. Nothing is written if anything is wrong.

Macros: a line '#define NAME word word ...' in iptables.conf.var; it goes on in the next line after
a backslash. A rule that names macros becomes one rule for each combination of their words, the
last one varying fastest; a macro that stands twice in a rule has the same word in both places. A
macro is named by a whole word, or a part between , : / ! = + and brackets, outside of quotes.

Example:
  iptables.conf.var     #define SSH_PERMITTED 1.2.3.4 1.2.3.5
  iptables.conf.in      -A LOintra -p tcp -s SSH_PERMITTED --dport 22 -j ACCEPT
  iptables.conf.new     -A LOintra -p tcp -s 1.2.3.4 --dport 22 -j ACCEPT
                        -A LOintra -p tcp -s 1.2.3.5 --dport 22 -j ACCEPT")]
pub(crate) struct Gen {
    #[command(flatten)]
    pub(crate) dir: Dir,
}

/// Tries iptables.conf.new: the former rules come back unless the new ones are kept.
#[derive(Args)]
#[command(after_help = "\
While the countdown runs, k keeps the new rules; q, Ctrl-C or the end of the terminal brings the
former ones back at once. No answer brings them back when the time is over, and so does the daemon
alone if this command, the terminal or the connection dies. What is kept is in force until the
daemon ends; 'xtproxy rules commit' makes it iptables.conf.

Exit codes: 0 kept, 1 not kept.

Examples:
  xtproxy rules test
  xtproxy rules test --timeout 1m
  xtproxy rules test --keep               without asking, as scripts do")]
pub(crate) struct Test {
    #[command(flatten)]
    pub(crate) dir: Dir,
    /// How long to wait for an answer: 15, 15s, 1m.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = time)]
    pub(crate) timeout: Duration,
    /// Keep the new rules as soon as they are in force, without asking.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Puts iptables.conf.new in force and makes it iptables.conf.
#[derive(Args)]
#[command(after_help = "\
The daemon reads iptables.conf.new, puts it in force as a whole or not at all, and then replaces
iptables.conf in one step.

Example:
  xtproxy rules test && xtproxy rules commit")]
pub(crate) struct Commit {
    #[command(flatten)]
    pub(crate) dir: Dir,
}

/// Asks the daemon whether it would take a ruleset; nothing changes.
#[derive(Args)]
#[command(after_help = "\
Unlike gen, the daemon knows interfaces, zones, sets, users and groups.

Examples:
  xtproxy rules check
  xtproxy rules check /tmp/iptables.conf")]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) dir: Dir,
    /// The ruleset; by default iptables.conf.new.
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// Shows the rules in force with their counters, as 'iptables -vnL' does.
#[derive(Args)]
#[command(after_help = "\
Counters are of packets that the rules were asked about: of a flow its first, and the first answer.

Examples:
  xtproxy rules show --table tproxy
  xtproxy rules show --line-numbers --exact
  xtproxy --json rules show | jq '.tables[].chains[].rules[] | select(.packets == 0) | .text'")]
pub(crate) struct Show {
    /// Only this table.
    #[arg(long, short, value_parser = TABLES)]
    pub(crate) table: Option<String>,
    /// Number the rules of a chain, and name their lines in the ruleset's file.
    #[arg(long)]
    pub(crate) line_numbers: bool,
    /// Do not round counters.
    #[arg(long, short = 'x')]
    pub(crate) exact: bool,
}

/// Prints the rules in force with their counters, as 'iptables-save -c' does.
#[derive(Args)]
#[command(after_help = "\
What this prints can be loaded again, and means the same.

Example:
  xtproxy rules save --table filter")]
pub(crate) struct Save {
    /// Only this table.
    #[arg(long, short, value_parser = TABLES)]
    pub(crate) table: Option<String>,
}

const TABLES: [&str; 5] = ["raw", "mangle", "tproxy", "nat", "filter"];

/// Walks a packet through the rules in force, without sending anything.
#[derive(Args)]
#[command(after_help = "\
Without --in, the box itself sends the packet. No counter moves, and no limit is drawn on.

Examples:
  xtproxy rules explain --in eth1 --src 192.168.1.9:40000 --dst 1.2.3.4:80 --proto tcp
  xtproxy rules explain --in eth2 --src 1.2.3.4 --dst 203.0.113.1 --proto icmp --icmp-type 8/0
  xtproxy rules explain --src 203.0.113.1:40000 --dst 1.2.3.4:443 --proto tcp --uid proxy")]
pub(crate) struct Explain {
    /// The interface that the packet comes in by.
    #[arg(long = "in", value_name = "INTERFACE")]
    in_interface: Option<String>,
    /// The interface that it goes out by.
    #[arg(long = "out", value_name = "INTERFACE")]
    out_interface: Option<String>,
    /// Where it comes from.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = end)]
    src: String,
    /// Where it goes.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = end)]
    dst: String,
    /// The protocol: a name, like tcp or gre, or a number.
    #[arg(long, value_parser = proto)]
    proto: String,
    /// The state.
    #[arg(long, value_parser = ["new", "established", "related", "invalid", "untracked"], ignore_case = true)]
    state: Option<String>,
    /// The mark: a number, 0x for hexadecimal.
    #[arg(long, value_parser = mark)]
    mark: Option<u32>,
    /// The type of ICMP: a name, or TYPE/CODE.
    #[arg(long, value_name = "TYPE")]
    icmp_type: Option<String>,
    /// The flags of TCP: SYN,ACK
    #[arg(long, value_name = "FLAGS")]
    tcp_flags: Option<String>,
    /// The sender's MAC address.
    #[arg(long)]
    mac: Option<String>,
    /// The user whose socket sends it.
    #[arg(long, value_name = "USER", conflicts_with = "in_interface")]
    uid: Option<String>,
    /// The group.
    #[arg(long, value_name = "GROUP", conflicts_with = "in_interface")]
    gid: Option<String>,
}

impl Explain {
    /// The packet in the words of the daemon.
    pub(crate) fn probe(&self) -> Probe {
        Probe {
            in_interface: self.in_interface.clone(),
            out_interface: self.out_interface.clone(),
            src: self.src.clone(),
            dst: self.dst.clone(),
            proto: self.proto.clone(),
            state: self.state.as_ref().map(|state| state.to_lowercase()),
            mark: self.mark,
            icmp_type: self.icmp_type.clone(),
            tcp_flags: self.tcp_flags.clone(),
            mac: self.mac.clone(),
            uid: self.uid.clone(),
            gid: self.gid.clone(),
        }
    }

    /// The end that lacks a port although the protocol has ports.
    pub(crate) fn without_port(&self) -> Option<&'static str> {
        let has_ports = matches!(proto_number(&self.proto), Some(6 | 17));
        let ends = [("--src", &self.src), ("--dst", &self.dst)];
        let lacking = ends.into_iter().find(|(_, end)| !end.contains(':'));
        lacking.filter(|_| has_ports).map(|(option, _)| option)
    }
}

/// Shows zones and services, and who may reach whom with what.
#[derive(Args)]
#[command(after_help = "\
Rows are the clients' zones, columns the servers'. A cell lists the services that a proxied
connection may belong to; * is all of them, - none.

Example:
  xtproxy --json zones | jq '.reach[] | select(.from == \"intra\")'")]
pub(crate) struct Zones {}

/// Shows what LOG rules, zones and drops had to say.
#[derive(Args)]
#[command(after_help = "\
Lines are like those of the kernel's LOG target. Entries are limited in rate, and the daemon keeps
only the latest.

Examples:
  xtproxy log --tail 100
  xtproxy log --follow                    until Ctrl-C
  xtproxy --json log --follow | jq 'select(.kind == \"zone\")'")]
pub(crate) struct Log {
    /// How many of the latest entries.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    pub(crate) tail: u32,
    /// Then what comes, until Ctrl-C.
    #[arg(long, short)]
    pub(crate) follow: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "wanted: a time from 1 second to 1 hour, like 15, 15s or 1m".to_owned();
    let time = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text).map_err(|_| wrong())?,
    };
    let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
    bounds.contains(&time).then_some(time).ok_or_else(wrong)
}

fn end(text: &str) -> Result<String, String> {
    let is_end = text.parse::<Ipv4Addr>().is_ok() || text.parse::<SocketAddrV4>().is_ok();
    let wrong = "wanted: an IPv4 address, with or without a port, like 192.168.1.9:40000";
    is_end.then(|| text.to_owned()).ok_or(wrong.into())
}

fn proto(text: &str) -> Result<String, String> {
    let known = proto_number(text).map(protocol::proto_name);
    let is_name = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    // Which names there are the daemon knows.
    known
        .or_else(|| is_name.then(|| text.to_lowercase()))
        .ok_or_else(|| "a name, like tcp or gre, or a number up to 255".into())
}

fn mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "wanted: a number of 32 bits, like 16 or 0x10".into())
}
