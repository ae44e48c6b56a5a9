//! A ruleset to text, as iptables-save writes it.

use std::fmt;

use policy::{Network, PortRange, RuleId, Verdict};

use crate::matches::{is_same_mention, module_of};
use crate::model::{Chain, Counters, InterfacePattern, Rule, Ruleset};
use crate::place::Placed;

impl Ruleset {
    /// The text with the counters that `counters` knows, packets and bytes, in place of those that
    /// were read. It is asked for the chains' policies too, by the numbers that they have in
    /// [`Ruleset::chains`].
    pub fn save(&self, counters: impl Fn(RuleId) -> (u64, u64)) -> String {
        let of = |id: RuleId| {
            let (packets, bytes) = counters(id);
            Counters { packets, bytes }
        };
        let save = Save {
            ruleset: self,
            rule: |id, _: &Rule| Some(of(id)),
            chain: |id: Option<RuleId>, _: &Chain| id.map_or_else(Counters::default, of),
        };
        save.to_string()
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let save = Save {
            ruleset: self,
            rule: |_, rule: &Rule| rule.counters,
            chain: |_, chain: &Chain| chain.counters,
        };
        save.fmt(f)
    }
}

struct Save<'a, R, C> {
    ruleset: &'a Ruleset,
    rule: R,
    chain: C,
}

impl<R, C> fmt::Display for Save<'_, R, C>
where
    R: Fn(RuleId, &Rule) -> Option<Counters>,
    C: Fn(Option<RuleId>, &Chain) -> Counters,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chains = self.ruleset.chains();
        let mut ids = (0..).map(RuleId);
        for table in &self.ruleset.tables {
            writeln!(f, "*{}", table.name.as_str())?;
            for (chain, shown) in table.chains.iter().zip(&mut chains) {
                let policy = match chain.policy {
                    None => "-",
                    Some(Verdict::Accept) => "ACCEPT",
                    Some(Verdict::Drop) => "DROP",
                };
                let counters = (self.chain)(shown.policy_id, chain);
                writeln!(f, ":{} {policy} {counters}", chain.name)?;
            }
            for chain in &table.chains {
                self.rules(f, chain, &mut ids)?;
            }
            writeln!(f, "COMMIT")?;
        }
        Ok(())
    }
}

impl<R: Fn(RuleId, &Rule) -> Option<Counters>, C> Save<'_, R, C> {
    fn rules(
        &self,
        f: &mut fmt::Formatter<'_>,
        chain: &Placed<Chain>,
        ids: &mut impl Iterator<Item = RuleId>,
    ) -> fmt::Result {
        for (rule, id) in chain.rules.iter().zip(ids) {
            if let Some(counters) = (self.rule)(id, rule) {
                write!(f, "{counters} ")?;
            }
            write!(f, "-A {}", chain.name)?;
            if !rule.matches.is_empty() || rule.target.is_some() {
                f.write_str(" ")?;
            }
            writeln!(f, "{}", rule.value)?;
        }
        Ok(())
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
        let mut before = None;
        for found in &self.matches {
            f.write_str(between)?;
            between = " ";
            let place = module_of(&found.test, self.protocol());
            if let Some(this) = place.filter(|this| !is_same_mention(before, *this)) {
                write!(f, "-m {}", this.0.name())?;
                if !this.0.options().is_empty() {
                    f.write_str(" ")?;
                }
            }
            before = place;
            write!(f, "{}", found.value)?;
        }
        match &self.target {
            Some(target) => write!(f, "{between}{}", target.value),
            None => Ok(()),
        }
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, if self.prefix { "+" } else { "" })
    }
}

/// A network with its mask.
pub(crate) struct Cidr(pub(crate) Network);

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.prefix_bits() {
            Some(bits) => write!(f, "{}/{bits}", self.0.addr()),
            None => write!(f, "{}/{}", self.0.addr(), self.0.mask()),
        }
    }
}

/// A port, or two with a colon.
pub(crate) struct Ports(pub(crate) PortRange);

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
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

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
