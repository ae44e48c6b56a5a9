//! A ruleset to text, as iptables-save writes it.

use std::fmt;

use policy::{Network, PortRange, RuleId, Verdict};
use wire::Protocol;

use crate::model::{Counters, InterfacePattern, Match, Rule, Ruleset, Table, Target, Test};
use crate::place::Place;

/// A rule as a list shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The table.
    pub table: &'static str,
    /// The chain.
    pub chain: String,
    /// The rule's number in its chain, from 1.
    pub number: usize,
    /// Its number in the policy, under which counters are kept.
    pub id: RuleId,
    /// Where it was written.
    pub place: Place,
    /// What follows `-A CHAIN` in the text; empty for a rule that matches everything and only counts.
    pub text: String,
}

impl Ruleset {
    /// Every rule, in the order of [`RuleId`].
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        self.tables.iter().flat_map(|table| {
            table.rules().map(|(id, chain, number, rule)| Row {
                table: table.name.as_str(),
                chain: chain.name.clone(),
                number,
                id,
                place: rule.place,
                text: rule.value.to_string(),
            })
        })
    }

    /// The text with the counters that `of` knows in place of those that were read.
    pub fn save(&self, of: impl Fn(RuleId) -> Counters) -> String {
        let table = |table: &Table| {
            Save {
                table,
                counters: |id, _: &Rule| Some(of(id)),
            }
            .to_string()
        };
        self.tables.iter().map(|placed| table(placed)).collect()
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tables.iter().try_for_each(|table| {
            Save {
                table,
                counters: |_, rule: &Rule| rule.counters,
            }
            .fmt(f)
        })
    }
}

struct Save<'a, F> {
    table: &'a Table,
    counters: F,
}

impl<F: Fn(RuleId, &Rule) -> Option<Counters>> fmt::Display for Save<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "*{}", self.table.name.as_str())?;
        for chain in &self.table.chains {
            let policy = match chain.policy {
                None => "-",
                Some(Verdict::Accept) => "ACCEPT",
                Some(Verdict::Drop) => "DROP",
            };
            writeln!(f, ":{} {policy} {}", chain.name, chain.counters)?;
        }
        for (id, chain, _, rule) in self.table.rules() {
            if let Some(counters) = (self.counters)(id, rule) {
                write!(f, "{counters} ")?;
            }
            write!(f, "-A {}", chain.name)?;
            let text = rule.value.to_string();
            if text.is_empty() {
                writeln!(f)?
            } else {
                writeln!(f, " {text}")?
            }
        }
        writeln!(f, "COMMIT")
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}:{}]", self.packets, self.bytes)
    }
}

impl fmt::Display for Rule {
    /// Matches and target, without `-A CHAIN`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        let mut ports_begun = false;
        for found in &self.matches {
            f.write_str(between)?;
            between = " ";
            if matches!(found.test, Test::SourcePorts(_) | Test::DestinationPorts(_))
                && !ports_begun
            {
                ports_begun = true;
                write!(f, "-m {} ", self.protocol().unwrap_or(Protocol::TCP))?;
            }
            write!(f, "{}", found.value)?;
        }
        match &self.target {
            Some(target) => write!(f, "{between}-j {}", target.value),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.negated { "! " } else { "" };
        match &self.test {
            Test::Source(network) => write!(f, "{not}-s {}", Cidr(*network)),
            Test::Destination(network) => write!(f, "{not}-d {}", Cidr(*network)),
            Test::InInterface(pattern) => write!(f, "{not}-i {}", Quoted(&pattern.to_string())),
            Test::Protocol(protocol) => write!(f, "{not}-p {protocol}"),
            Test::SourcePorts(range) => write!(f, "{not}--sport {}", Ports(*range)),
            Test::DestinationPorts(range) => write!(f, "{not}--dport {}", Ports(*range)),
            Test::Comment(text) => write!(f, "-m comment --comment {}", Quoted(text)),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("ACCEPT"),
            Self::Drop => f.write_str("DROP"),
            Self::Return => f.write_str("RETURN"),
            Self::Jump(chain) => Quoted(chain).fmt(f),
            Self::Tproxy { on_port, on_ip } => {
                f.write_str("TPROXY")?;
                on_port.map_or(Ok(()), |port| write!(f, " --on-port {port}"))?;
                on_ip.map_or(Ok(()), |addr| write!(f, " --on-ip {addr}"))
            }
        }
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, if self.prefix { "+" } else { "" })
    }
}

struct Cidr(Network);

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.prefix_bits() {
            Some(bits) => write!(f, "{}/{bits}", self.0.addr()),
            None => write!(f, "{}/{}", self.0.addr(), self.0.mask()),
        }
    }
}

struct Ports(PortRange);

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.first(), self.0.last());
        if first == last {
            write!(f, "{first}")
        } else {
            write!(f, "{first}:{last}")
        }
    }
}

/// A word, in quotes if it could be read as anything else.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | ':' | '@');
        if !self.0.is_empty() && !self.0.starts_with('-') && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        f.write_str("\"")?;
        for c in self.0.chars() {
            if matches!(c, '"' | '\'' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        f.write_str("\"")
    }
}
