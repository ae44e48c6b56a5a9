//! The rules in force, and what is done with rulesets.

use serde::{Deserialize, Serialize};

/// The rules in force, or a page of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Their generation.
    pub generation: u32,
    /// The tables, in the order of the text.
    pub tables: Vec<RuleTable>,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleTable {
    /// Its name, without the star.
    pub name: String,
    /// Its chains, in the order of the text.
    pub chains: Vec<RuleChain>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleChain {
    /// Its name.
    pub name: String,
    /// What becomes of what no rule takes; none for a user's chain.
    pub policy: Option<String>,
    /// Packets that the policy judged.
    #[serde(default)]
    pub packets: u64,
    /// Their bytes.
    #[serde(default)]
    pub bytes: u64,
    /// How many rules jump or go to a user's chain.
    #[serde(default)]
    pub references: u64,
    /// Its rules in order.
    pub rules: Vec<RuleRow>,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Its line in the ruleset's file.
    pub line: u32,
    /// Packets that matched: of a flow those that the rules are asked about.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The rule in canonical words, without the chain: `-p tcp --dport 80 -j TPROXY --on-port 3128`.
    pub text: String,
    /// `iptables -vnL`'s column: what is done, or the chain that is asked.
    #[serde(default)]
    pub target: String,
    /// The same listing's protocol.
    #[serde(default)]
    pub prot: String,
    /// Its `opt`: `--`, `-f` or `!f`.
    #[serde(default)]
    pub opt: String,
    /// Its `in`.
    #[serde(default)]
    pub in_interface: String,
    /// Its `out`.
    #[serde(default)]
    pub out_interface: String,
    /// Its `source`.
    #[serde(default)]
    pub source: String,
    /// Its `destination`.
    #[serde(default)]
    pub destination: String,
    /// What follows the columns: other matches, and the target's options.
    #[serde(default)]
    pub extra: String,
}

impl Rules {
    /// The rules in pages of at most `most` rules or empty chains; at least one page. A
    /// table or chain that goes on in the next page is named there again.
    #[must_use]
    pub fn pages(self, most: usize) -> Vec<Self> {
        let most = most.max(1);
        let generation = self.generation;
        let page = || Self {
            generation,
            tables: Vec::new(),
        };
        let (mut pages, mut last, mut held) = (Vec::new(), page(), 0);
        for table in self.tables {
            last.open_table(&table.name);
            for mut chain in table.chains {
                let rules = std::mem::take(&mut chain.rules);
                if held >= most {
                    pages.push(std::mem::replace(&mut last, page()));
                    held = 0;
                }
                last.open_table(&table.name).chains.push(chain.clone());
                held += usize::from(rules.is_empty());
                for rule in rules {
                    if held >= most {
                        pages.push(std::mem::replace(&mut last, page()));
                        held = 0;
                        last.open_table(&table.name).chains.push(chain.clone());
                    }
                    if let Some(open) = last.open_table(&table.name).chains.last_mut() {
                        open.rules.push(rule);
                    }
                    held += 1;
                }
            }
        }
        pages.push(last);
        pages
    }

    /// Takes the page that follows: a table or chain that this ended with goes on.
    pub fn append(&mut self, next: Self) {
        for mut table in next.tables {
            let Some(open) = (self.tables.last_mut()).filter(|open| open.name == table.name) else {
                self.tables.push(table);
                continue;
            };
            for mut chain in table.chains.drain(..) {
                match open.chains.last_mut() {
                    Some(same) if same.name == chain.name => same.rules.append(&mut chain.rules),
                    _ => open.chains.push(chain),
                }
            }
        }
    }

    fn open_table(&mut self, name: &str) -> &mut RuleTable {
        if self.tables.last().is_none_or(|table| table.name != name) {
            self.tables.push(RuleTable {
                name: name.to_owned(),
                chains: Vec::new(),
            });
        }
        let last = self.tables.len() - 1;
        &mut self.tables[last]
    }
}

/// What came of loading a ruleset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesLoaded {
    /// The generation that is in force now.
    pub generation: u32,
    /// How many rules it has.
    pub rules: u64,
    /// What the administrator should know, each with its place.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// How many more warnings there are than fit the line.
    #[serde(default)]
    pub warnings_left: u64,
    /// Names the trial, if it is one: for `rules_keep` and `rules_revert`.
    #[serde(default)]
    pub ticket: Option<u64>,
    /// How many flows stood when the rules changed, to be asked about again.
    #[serde(default)]
    pub flows: u64,
}

/// What came of checking a ruleset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesChecked {
    /// How many rules it has.
    pub rules: u64,
    /// What the administrator should know, each with its place.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// How many more warnings there are than fit the line.
    #[serde(default)]
    pub warnings_left: u64,
}

/// A trial: rules that go again unless they are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesPending {
    /// Its name.
    pub ticket: u64,
    /// The file that is tried.
    pub ruleset: String,
    /// Its generation.
    pub generation: u32,
    /// Nanoseconds until the former rules come back.
    pub left_ns: u64,
}

/// A packet to be walked through the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The interface that it comes in by; without: the box itself sends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_interface: Option<String>,
    /// The interface that it goes out by, where that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_interface: Option<String>,
    /// Where it comes from: `192.168.1.9:40000`, or an address alone.
    pub src: String,
    /// Where it goes: `1.2.3.4:80`, or an address alone.
    pub dst: String,
    /// Its protocol: a name or a number.
    pub proto: String,
    /// Its state: `new` (the default), `established`, `related`, `invalid`, `untracked`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Its mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// The type of ICMP: a name, or `TYPE/CODE`; by default an echo request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<String>,
    /// The flags of TCP, commas between them: `SYN,ACK`; by default those that the state suggests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<String>,
    /// The sender's MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The user whose socket sends it, where the box itself does: a name or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The group, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<String>,
}

/// A packet's way through the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Each rule that matched and each policy that was asked, in order.
    pub steps: Vec<ExplainStep>,
    /// What becomes of the packet, in one or two words: `accepted`, `redirected`, `dropped`.
    pub verdict: String,
    /// Where it is redirected to.
    #[serde(default)]
    pub proxy: Option<String>,
    /// What else there is to say: zones, what was assumed.
    #[serde(default)]
    pub note: Option<String>,
}

/// One rule or policy on a packet's way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainStep {
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule's line in the ruleset's file; none for a policy.
    #[serde(default)]
    pub line: Option<u32>,
    /// The rule in canonical words; empty for a policy.
    #[serde(default)]
    pub text: String,
    /// What it does: `jump PRintra`, `redirect to 10.0.0.1:50080`, `drop`, `policy ACCEPT`.
    pub action: String,
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
