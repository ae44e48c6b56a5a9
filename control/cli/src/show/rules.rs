//! The rules in force.

use std::io::{self, Write};

use protocol::Rules;

use super::{table, text};

/// Prints the rules, chain by chain.
pub(crate) fn rules(out: &mut impl Write, rules: &Rules) -> io::Result<()> {
    writeln!(out, "generation {}", rules.generation)?;
    for rule_table in &rules.tables {
        for chain in &rule_table.chains {
            let policy = chain
                .policy
                .as_ref()
                .map(|policy| format!(" (policy {policy})"));
            let policy = policy.unwrap_or_default();
            writeln!(
                out,
                "\ntable {}, chain {}{policy}",
                rule_table.name, chain.name
            )?;
            let mut list = table(&[">PACKETS", ">BYTES", ">LINE", "RULE"]);
            for rule in &chain.rules {
                list.add_row([
                    &rule.packets.to_string(),
                    &rule.bytes.to_string(),
                    &rule.line.to_string(),
                    &rule.text,
                ]);
            }
            writeln!(out, "{}", text(&list))?;
        }
    }
    if rules.tables.is_empty() {
        writeln!(out, "no rules")?;
    }
    Ok(())
}
