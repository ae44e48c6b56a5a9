//! Rules and chains as `iptables -vnL` lists them.

use std::fmt::Write as _;

use policy::{Network, RuleId, Verdict};

use crate::calls::callee;
use crate::matches::print::{Masked, mac_text};
use crate::matches::{Limit, Test};
use crate::model::{Counters, Match, Ruleset, TableName};
use crate::place::Placed;
use crate::targets::Target;
use crate::targets::print::{answer, otherwise, span};

/// A rule as a list shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its number in the policy, under which counters are kept.
    pub id: RuleId,
    /// The table.
    pub table: &'static str,
    /// The chain.
    pub chain: String,
    /// The rule's number in its chain, from 1.
    pub number: usize,
    /// The line where it was written.
    pub line: u32,
    /// The counters that the text gives it.
    pub counters: Counters,
    /// What follows `-A CHAIN` in the text; empty for a rule that matches everything and only counts.
    pub text: String,
    /// The target's name, or the chain's; empty if it only counts.
    pub target: String,
    /// The protocol, `!` before it if negated.
    pub prot: String,
    /// `-f`, `!f` or `--`.
    pub opt: String,
    /// The interface that packets come in by; `*` for any.
    pub input: String,
    /// The interface that packets leave by; `*` for any.
    pub output: String,
    /// The source; `0.0.0.0/0` for any.
    pub source: String,
    /// The destination; `0.0.0.0/0` for any.
    pub destination: String,
    /// All other matches, and the target's options.
    pub extra: String,
}

/// A chain as a list shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChainRow {
    /// The table.
    pub table: &'static str,
    /// Its name.
    pub chain: String,
    /// What becomes of packets at its end; none in a user chain.
    pub policy: Option<Verdict>,
    /// The policy's number, under which packets that come to it are counted.
    pub policy_id: Option<RuleId>,
    /// The counters of its declaration.
    pub counters: Counters,
    /// How many rules call it.
    pub references: usize,
}

impl Ruleset {
    /// Every rule, in the order of [`RuleId`].
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        self.rules().map(|(id, table, chain, number, rule)| {
            let columns = Columns::of(&rule.matches, rule.target.as_deref());
            Row {
                id,
                table: table.as_str(),
                chain: chain.name.clone(),
                number,
                line: rule.place.line,
                counters: rule.counters.unwrap_or_default(),
                text: rule.value.to_string(),
                target: rule.target.as_ref().map_or("", |t| t.name()).to_owned(),
                prot: columns.prot,
                opt: columns.opt,
                input: columns.input,
                output: columns.output,
                source: columns.source,
                destination: columns.destination,
                extra: columns.extra.join(" "),
            }
        })
    }

    /// Every chain of every table, in the order of the text.
    pub fn chains(&self) -> impl Iterator<Item = ChainRow> {
        let rules = u32::try_from(self.rule_count()).unwrap_or(u32::MAX);
        let mut policies = (rules..).map(RuleId);
        let references = self.tables.iter().map(|table| {
            let chains = table.chains.iter().flat_map(|chain| &chain.rules);
            let targets = chains.filter_map(|rule| rule.target.as_ref());
            let mut counts = std::collections::HashMap::new();
            for name in targets.filter_map(|target| callee(target)) {
                *counts.entry(name).or_insert(0) += 1;
            }
            (table, counts)
        });
        references
            .flat_map(|(table, counts)| {
                let chains = table.chains.iter();
                chains.map(move |chain| {
                    let references = counts.get(chain.name.as_str()).copied();
                    (table.name, chain, references.unwrap_or(0))
                })
            })
            .map(move |(table, chain, references)| ChainRow {
                table: table.as_str(),
                chain: chain.name.clone(),
                policy: chain.policy,
                policy_id: chain.policy.and_then(|_| policies.next()),
                counters: chain.counters,
                references,
            })
    }

    /// The chains of the text that have a policy, with their tables: the number of each counts on
    /// from the last rule's.
    pub(crate) fn policies(&self) -> impl Iterator<Item = (TableName, &str, Verdict)> {
        self.all_chains()
            .filter_map(|(table, chain)| Some((table, chain.name.as_str(), chain.policy?)))
    }

    /// What the rule with this number writes before a packet in the log, if it is a LOG rule.
    #[must_use]
    pub fn log_prefix(&self, id: RuleId) -> Option<&str> {
        match &self.rule(id)?.2.target.as_ref()?.value {
            Target::Log(log) => Some(&log.prefix),
            _ => None,
        }
    }

    /// What the rule or the policy with this number does, in words of the text: `-j DROP`, or
    /// `policy DROP`. Nothing for a rule that only counts.
    #[must_use]
    pub fn verdict_text(&self, id: RuleId) -> Option<String> {
        if let Some((_, _, rule)) = self.rule(id) {
            return rule.target.as_ref().map(|target| target.value.to_string());
        }
        let number = usize::try_from(id.0).ok()?.checked_sub(self.rule_count())?;
        self.policies()
            .nth(number)
            .map(|(_, _, policy)| match policy {
                Verdict::Accept => "policy ACCEPT".to_owned(),
                Verdict::Drop => "policy DROP".to_owned(),
            })
    }
}

struct Columns {
    prot: String,
    opt: String,
    input: String,
    output: String,
    source: String,
    destination: String,
    extra: Vec<String>,
}

impl Columns {
    fn of(matches: &[Placed<Match>], target: Option<&Target>) -> Self {
        let everywhere = || "0.0.0.0/0".to_owned();
        let mut columns = Self {
            prot: "all".to_owned(),
            opt: "--".to_owned(),
            input: "*".to_owned(),
            output: "*".to_owned(),
            source: everywhere(),
            destination: everywhere(),
            extra: Vec::new(),
        };
        let proto = matches.iter().find_map(|found| match found.test {
            Test::Protocol(protocol) => Some(protocol.to_string()),
            _ => None,
        });
        let proto = proto.unwrap_or_default();
        for found in matches {
            columns.put(found, &proto);
        }
        columns.extra.extend(target.and_then(options));
        columns
    }

    fn put(&mut self, found: &Match, proto: &str) {
        let not = if found.negated { "!" } else { "" };
        match &found.test {
            Test::Source(network) => self.source = format!("{not}{}", listed(*network)),
            Test::Destination(network) => self.destination = format!("{not}{}", listed(*network)),
            Test::InInterface(pattern) => self.input = format!("{not}{pattern}"),
            Test::OutInterface(pattern) => self.output = format!("{not}{pattern}"),
            Test::Protocol(protocol) => self.prot = format!("{not}{protocol}"),
            Test::Fragment => self.opt = if found.negated { "!f" } else { "-f" }.to_owned(),
            test => self.extra.push(words(test, found.negated, proto)),
        }
    }
}

/// A network; a single address without its mask.
fn listed(network: Network) -> String {
    match network.prefix_bits() {
        Some(32) => network.addr().to_string(),
        Some(bits) => format!("{}/{bits}", network.addr()),
        None => format!("{}/{}", network.addr(), network.mask()),
    }
}

/// What a match that has no column asks.
fn words(test: &Test, negated: bool, proto: &str) -> String {
    let (not, not_) = if negated { ("!", "! ") } else { ("", "") };
    match test {
        Test::Source(_)
        | Test::Destination(_)
        | Test::InInterface(_)
        | Test::OutInterface(_)
        | Test::Protocol(_)
        | Test::Fragment => String::new(),
        Test::SourcePorts(range) => format!("{proto} {}", port("sp", *range, not)),
        Test::DestinationPorts(range) => format!("{proto} {}", port("dp", *range, not)),
        Test::TcpFlags { mask, set } => format!("{proto} flags:{not}{mask:#04x}/{set:#04x}"),
        Test::Icmp(kind) => format!("{not_}icmptype {kind}"),
        Test::MultiPorts(ports) => {
            let which = match ports.which {
                policy::Which::Source => "sports",
                policy::Which::Destination => "dports",
                policy::Which::Either => "ports",
            };
            format!("multiport {which} {not_}{}", ports.list())
        }
        Test::SourceRange(first, last) => format!("source IP range {not_}{first}-{last}"),
        Test::DestinationRange(first, last) => format!("destination IP range {not_}{first}-{last}"),
        Test::CtState(_) => format!("{not_}ctstate {}", value_of(test)),
        Test::State(_) => format!("{not_}state {}", value_of(test)),
        Test::Tproxy => "tproxy".to_owned(),
        Test::Mark { value, mask } => format!("mark match {not_}{}", Masked(*value, *mask)),
        Test::Limit(Limit { burst, .. }) => format!("limit: avg {} burst {burst}", rate_of(test)),
        Test::HashLimit(limit) => {
            let way = if limit.above { "above" } else { "up to" };
            let mut text = format!("limit: {way} {} burst {}", limit.limit, limit.limit.burst);
            if !limit.by.is_empty() {
                write!(text, " mode {}", limit.modes().replace(',', "-")).ok();
            }
            text
        }
        Test::Set(set) => format!("{not_}match-set {} {}", set.name, set.ends()),
        Test::Mac(mac) => format!("MAC{not_}{}", mac_text(mac)),
        Test::Comment(text) => format!("/* {text} */"),
        Test::SourceZone(name) => format!("{not_}zone src {name}"),
        Test::DestinationZone(name) => format!("{not_}zone dst {name}"),
        Test::User(who) => format!("{not_}owner UID match {who}"),
        Test::Group(who) => format!("{not_}owner GID match {who}"),
        Test::SocketExists => format!("{not_}owner socket exists"),
    }
}

/// `spt:80`, `dpts:1:9`, `dpt:!22`
fn port(which: &str, range: policy::PortRange, not: &str) -> String {
    let (first, last) = (range.first(), range.last());
    if first == last {
        format!("{which}t:{not}{first}")
    } else {
        format!("{which}ts:{not}{first}:{last}")
    }
}

/// The words of a match behind its option.
fn value_of(test: &Test) -> String {
    let (negated, test) = (false, test.clone());
    let text = Match { negated, test }.to_string();
    text.split_once(' ')
        .map_or("", |(_, value)| value)
        .to_owned()
}

fn rate_of(test: &Test) -> String {
    match test {
        Test::Limit(limit) => limit.to_string(),
        _ => String::new(),
    }
}

/// What a target says besides its name.
fn options(target: &Target) -> Option<String> {
    Some(match target {
        Target::Accept | Target::Drop | Target::Return | Target::Jump(_) => return None,
        Target::Goto(_) => "[goto]".to_owned(),
        Target::Reject(with) => format!("reject-with {}", answer(*with)),
        Target::Log(log) => {
            let mut text = format!("LOG flags {} level {}", log.flags, log.level);
            if !log.prefix.is_empty() {
                write!(text, " prefix \"{}\"", log.prefix).ok();
            }
            text
        }
        Target::Mark { value, mask } => format!("MARK xset {value:#x}/{mask:#x}"),
        Target::NoTrack => "NOTRACK".to_owned(),
        Target::Tproxy {
            on_port,
            on_ip,
            otherwise: what,
            ..
        } => {
            let addr = on_ip.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED);
            let port = on_port.map_or(0, u16::from);
            let mut text = format!("TPROXY redirect {addr}:{port}");
            if *what != policy::NoListener::Reject {
                write!(text, " no-listener {}", otherwise(*what)).ok();
            }
            text
        }
        Target::Snat(range) | Target::Dnat(range) => format!("to:{range}").replace(" --", " "),
        Target::Masquerade(how) => match how.ports {
            Some(ports) => format!("masq ports: {}", span(ports)),
            None => return None,
        },
        Target::Redirect(how) => match how.ports {
            Some(ports) => format!("redir ports {}", span(ports)),
            None => return None,
        },
        Target::Netmap(network) => format!("to:{}", listed(*network)),
    })
}
