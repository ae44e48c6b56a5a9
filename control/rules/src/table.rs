//! The lines of one table: its chains and their rules.

use std::collections::HashMap;

use policy::Verdict;

use crate::error::{Fault, Parsed, did_you_mean, is_printable, quoted};
use crate::grammar;
use crate::lexer::Word;
use crate::model::{Chain, Counters, Table, TableName};
use crate::place::{Place, Placed};
use crate::rule::Scope;
use crate::targets::Kind;
use crate::{rule, value};

/// A table that has begun and has no COMMIT yet.
pub(crate) struct Open {
    pub(crate) table: Placed<Table>,
    /// Where each chain stands in the table.
    chains: HashMap<String, usize>,
    /// The built-in chains that the text has declared.
    declared: Vec<String>,
}

/// Refuses words at the end of a line.
pub(crate) fn no_more(rest: &[Word], after: &str) -> Parsed<()> {
    rest.first().map_or(Ok(()), |word| {
        Err(Fault::new(
            word.place,
            format!(
                "nothing may follow {}, but here is {}",
                after,
                quoted(&word.text)
            ),
        ))
    })
}

/// What one line has added.
pub(crate) struct Added {
    pub(crate) rules: usize,
    pub(crate) warnings: Vec<Fault>,
}

impl Open {
    /// A table with its built-in chains, which it has whether or not the text declares them.
    pub(crate) fn new(name: TableName, place: Place) -> Self {
        let table_name = name;
        let names = || name.built_in_chains().iter().map(|name| (*name).to_owned());
        let chain = |name: String| {
            let chain = Chain {
                policy: Some(table_name.default_policy(&name)),
                name,
                counters: Counters::default(),
                rules: Vec::new(),
            };
            Placed::new(chain, place)
        };
        let table = Table {
            name,
            chains: names().map(chain).collect(),
        };
        Self {
            table: Placed::new(table, place),
            chains: names().zip(0..).collect(),
            declared: Vec::new(),
        }
    }

    fn chain(&mut self, name: &str) -> Option<&mut Placed<Chain>> {
        self.chains
            .get(name)
            .and_then(|number| self.table.value.chains.get_mut(*number))
    }

    fn is_built_in(&self, name: &str) -> bool {
        self.table.name.built_in_chains().contains(&name)
    }

    /// `:CHAIN POLICY [packets:bytes]`
    pub(crate) fn declare(&mut self, word: &Word, rest: &[Word]) -> Parsed<()> {
        let name = word.text.strip_prefix(':').unwrap_or_default();
        self.check_name(name, word.place)?;
        let mut rest = rest.iter();
        let wants =
            "a chain is declared with its policy, as in :PREROUTING ACCEPT [0:0] or :mine - [0:0]";
        let policy = rest.next().ok_or_else(|| Fault::new(word.place, wants))?;
        let counters = rest
            .next()
            .map(value::counters)
            .transpose()?
            .unwrap_or_default();
        no_more(rest.as_slice(), "the counters of a chain")?;
        if !self.is_built_in(name) {
            if !policy.is("-") {
                let message = format!(
                    "{name} is a chain of the user and has no policy; write :{name} - [0:0]"
                );
                return Err(Fault::new(policy.place, message));
            }
            let chain = Chain {
                name: name.to_owned(),
                policy: None,
                counters,
                rules: Vec::new(),
            };
            self.chains.insert(name.to_owned(), self.table.chains.len());
            self.table.value.chains.push(Placed::new(chain, word.place));
            return Ok(());
        }
        let verdict = match policy.text.as_str() {
            "ACCEPT" => Verdict::Accept,
            "DROP" if self.table.name == TableName::Nat => {
                let message = "table nat does not filter; write ACCEPT here and DROP in *filter";
                return Err(Fault::new(policy.place, message));
            }
            "DROP" => Verdict::Drop,
            other => {
                let near = did_you_mean(other, ["ACCEPT", "DROP"]);
                let message = format!(
                    "the policy of {name} is ACCEPT or DROP, not {}{near}",
                    quoted(other)
                );
                return Err(Fault::new(policy.place, message));
            }
        };
        self.declared.push(name.to_owned());
        if let Some(chain) = self.chain(name) {
            chain.place = word.place;
            chain.value.policy = Some(verdict);
            chain.value.counters = counters;
        }
        Ok(())
    }

    fn no_such_built_in(&self, name: &str) -> String {
        let own = self.table.name.built_in_chains().join(", ");
        format!(
            "table {} has no chain {name}; it has {own}, and chains of the user",
            self.table.name.as_str()
        )
    }

    fn check_name(&mut self, name: &str, place: Place) -> Parsed<()> {
        let built_in = self.is_built_in(name);
        let declared_at = match self.chain(name) {
            Some(chain) if !built_in => Some(chain.place),
            Some(chain) => {
                Some(chain.place).filter(|_| self.declared.iter().any(|known| known == name))
            }
            None => None,
        };
        let message = if let Some(earlier) = declared_at {
            format!(
                "chain {} is declared twice, first in line {}",
                quoted(name),
                earlier.line
            )
        } else if built_in {
            return Ok(());
        } else if grammar::BUILT_IN_CHAINS.contains(&name) {
            self.no_such_built_in(name)
        } else if Kind::of(name).is_some() {
            format!("{name} is a target and cannot be the name of a chain")
        } else if name.is_empty() {
            "the name of the chain is missing, as in :PREROUTING ACCEPT [0:0] or :mine - [0:0]"
                .to_owned()
        } else if name.starts_with(['-', '!'])
            || name.contains(|c: char| c.is_whitespace() || !is_printable(c))
        {
            format!("{} cannot be the name of a chain", quoted(name))
        } else if name.len() > grammar::CHAIN_NAME_BYTES {
            format!(
                "the chain name {} is longer than {} bytes",
                quoted(name),
                grammar::CHAIN_NAME_BYTES
            )
        } else {
            return Ok(());
        };
        Err(Fault::new(place, message))
    }

    /// `[packets:bytes] -A CHAIN ...`
    pub(crate) fn append(&mut self, first: &Word, rest: &[Word]) -> Parsed<Added> {
        let (counters, command, rest) = match rest.split_first() {
            Some((command, rest)) if first.text.starts_with('[') && !first.quoted => {
                (Some(value::counters(first)?), command, rest)
            }
            _ => (None, first, rest),
        };
        if command.quoted || !grammar::APPEND.contains(&command.text.as_str()) {
            return Err(not_append(command));
        }
        let wants = || {
            Fault::new(
                command.place,
                format!("{} needs the name of a chain", quoted(&command.text)),
            )
        };
        let (name, rest) = rest.split_first().ok_or_else(wants)?;
        let declared = |name: &str| self.chains.contains_key(name);
        if !declared(&name.text) {
            let near = did_you_mean(
                &name.text,
                self.table.chains.iter().map(|chain| chain.name.as_str()),
            );
            let shown = quoted(&name.text);
            if grammar::BUILT_IN_CHAINS.contains(&name.text.as_str()) {
                return Err(Fault::new(name.place, self.no_such_built_in(&name.text)));
            }
            let message = format!("chain {shown} is not declared before its first rule{near}");
            let cure = if near.is_empty() {
                format!("; add a line `:{} - [0:0]`", shown.trim_matches('`'))
            } else {
                String::new()
            };
            return Err(Fault::new(name.place, message + &cure));
        }
        let scope = Scope {
            table: self.table.name,
            chain: &name.text,
            is_built_in: self.is_built_in(&name.text),
            place: command.place,
            counters,
        };
        let line = rule::parse(scope, rest, declared)?;
        let added = Added {
            rules: line.rules.len(),
            warnings: line.warnings,
        };
        if let Some(chain) = self.chain(&name.text) {
            chain.value.rules.extend(line.rules);
        }
        Ok(added)
    }
}

fn not_append(command: &Word) -> Fault {
    let text = command.text.as_str();
    let message = if grammar::OTHER_COMMANDS.contains(&text) {
        format!(
            "{} has no place in a ruleset; rules are appended with -A CHAIN",
            quoted(text)
        )
    } else {
        let near = did_you_mean(text, ["COMMIT", "-A", "--append"]);
        format!(
            "{} does not begin a rule, which is written as -A CHAIN ...{near}",
            quoted(text)
        )
    };
    Fault::new(command.place, message)
}
