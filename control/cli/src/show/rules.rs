//! The rules in force, as iptables and iptables-save show them.

use std::io::{self, Write};

use protocol::{Explanation, RuleChain, RuleRow, Rules};

use super::{table, text};

/// Prints the rules, chain by chain, in the columns of `iptables -vnL`.
pub(crate) fn rules(
    out: &mut impl Write,
    rules: &Rules,
    has_numbers: bool,
    is_exact: bool,
) -> io::Result<()> {
    let listing = Listing {
        has_numbers,
        is_exact,
    };
    writeln!(out, "generation {}", rules.generation)?;
    for rule_table in &rules.tables {
        writeln!(out, "\ntable {}", rule_table.name)?;
        for (at, chain) in rule_table.chains.iter().enumerate() {
            if at > 0 {
                writeln!(out)?;
            }
            listing.chain(out, chain)?;
        }
    }
    if rules.tables.is_empty() {
        writeln!(out, "no rules")?;
    }
    Ok(())
}

struct Listing {
    has_numbers: bool,
    is_exact: bool,
}

impl Listing {
    fn chain(&self, out: &mut impl Write, chain: &RuleChain) -> io::Result<()> {
        let name = &chain.name;
        match &chain.policy {
            Some(policy) => {
                let (packets, bytes) = (self.count(chain.packets), self.count(chain.bytes));
                writeln!(
                    out,
                    "Chain {name} (policy {policy} {packets} packets, {bytes} bytes)"
                )?;
            }
            None => writeln!(out, "Chain {name} ({} references)", chain.references)?,
        }
        self.row(
            out,
            [
                "num", "line", "pkts", "bytes", "target", "prot", "opt", "in", "out",
            ],
            ["source", "destination", ""],
        )?;
        for (number, rule) in (1..).zip(&chain.rules) {
            self.rule(out, number, rule)?;
        }
        Ok(())
    }

    fn rule(&self, out: &mut impl Write, number: u32, rule: &RuleRow) -> io::Result<()> {
        let (number, line) = (number.to_string(), rule.line.to_string());
        let (packets, bytes) = (self.count(rule.packets), self.count(rule.bytes));
        self.row(
            out,
            [
                &number,
                &line,
                &packets,
                &bytes,
                &rule.target,
                &rule.prot,
                &rule.opt,
                &rule.in_interface,
                &rule.out_interface,
            ],
            [&rule.source, &rule.destination, &rule.extra],
        )
    }

    fn row(&self, out: &mut impl Write, first: [&str; 9], last: [&str; 3]) -> io::Result<()> {
        let [
            number,
            line,
            packets,
            bytes,
            target,
            prot,
            opt,
            inward,
            outward,
        ] = first;
        let [source, destination, extra] = last;
        let mut row = String::new();
        if self.has_numbers {
            row = format!("{number:<4} {line:<5} ");
        }
        row += &if self.is_exact {
            format!("{packets:>8} {bytes:>10} ")
        } else {
            format!("{packets:>5} {bytes:>5} ")
        };
        row += &format!("{target:<10} {prot:<4} {opt:<3} {inward:<6} {outward:<6} ");
        row += &format!("{source:<20} {destination:<20} {extra}");
        writeln!(out, "{}", row.trim_end())
    }

    /// A counter, rounded as iptables rounds it.
    fn count(&self, number: u64) -> String {
        const ROUNDED_FROM: u64 = 100_000;
        const MOST: u64 = 10_000;
        if self.is_exact || number < ROUNDED_FROM {
            return number.to_string();
        }
        let mut rounded = number;
        for unit in ["K", "M", "G", "T"] {
            rounded = rounded.saturating_add(500) / 1000;
            if rounded < MOST || unit == "T" {
                return format!("{rounded}{unit}");
            }
        }
        number.to_string()
    }
}

/// Prints the rules as `iptables-save -c` writes them.
pub(crate) fn save(out: &mut impl Write, rules: &Rules) -> io::Result<()> {
    writeln!(out, "# xtproxy rules save: generation {}", rules.generation)?;
    for table in &rules.tables {
        writeln!(out, "*{}", table.name)?;
        for chain in &table.chains {
            let policy = chain.policy.as_deref().unwrap_or("-");
            let (packets, bytes) = (chain.packets, chain.bytes);
            writeln!(out, ":{} {policy} [{packets}:{bytes}]", chain.name)?;
        }
        for chain in &table.chains {
            for rule in &chain.rules {
                let (packets, bytes) = (rule.packets, rule.bytes);
                let (name, text) = (&chain.name, &rule.text);
                let line = format!("[{packets}:{bytes}] -A {name} {text}");
                writeln!(out, "{}", line.trim_end())?;
            }
        }
        writeln!(out, "COMMIT")?;
    }
    Ok(())
}

/// Prints a packet's way through the rules.
pub(crate) fn explanation(out: &mut impl Write, explanation: &Explanation) -> io::Result<()> {
    if explanation.steps.is_empty() {
        writeln!(out, "no rule was asked")?;
    } else {
        let mut list = table(&["TABLE", "CHAIN", ">LINE", "RULE", "DOES"]);
        for step in &explanation.steps {
            let line = step
                .line
                .map_or_else(|| "-".into(), |line| line.to_string());
            let rule = if step.line.is_none() && step.text.is_empty() {
                "(policy)"
            } else {
                &step.text
            };
            list.add_row([&step.table, &step.chain, &line, rule, &step.action]);
        }
        writeln!(out, "{}", text(&list))?;
    }
    match &explanation.proxy {
        Some(proxy) => writeln!(out, "\n{}, to the proxy at {proxy}", explanation.verdict)?,
        None => writeln!(out, "\n{}", explanation.verdict)?,
    }
    if let Some(note) = &explanation.note {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_rounded_as_iptables_does() {
        let listing = |is_exact| Listing {
            has_numbers: false,
            is_exact,
        };
        for (number, words) in [
            (0, "0"),
            (99_999, "99999"),
            (100_000, "100K"),
            (100_499, "100K"),
            (100_500, "101K"),
            (9_999_499, "9999K"),
            (9_999_500, "10M"),
            (1_234_567_890_123, "1235G"),
            (u64::MAX, "18446744T"),
        ] {
            assert_eq!(listing(false).count(number), words);
            assert_eq!(listing(true).count(number), number.to_string());
        }
    }
}
