//! The lines of a text to a ruleset: tables, chains, COMMIT.

use std::sync::Arc;

use crate::compile::compile;
use crate::error::{Fault, Parsed, RuleError, Warning, did_you_mean_or, quoted};
use crate::grammar;
use crate::lexer::{Word, words};
use crate::model::{Ruleset, Table, TableName};
use crate::place::Placed;
use crate::table::{Open, no_more};

/// How many rules a text may hold, those that lists of addresses stand for included.
const MAX_RULES: usize = 1 << 20;

impl Ruleset {
    /// Reads a text as iptables-save writes it. All of it is checked: jumps lead to
    /// chains, and no chain calls itself.
    ///
    /// # Errors
    /// The first thing that is wrong with the text.
    pub fn parse(file_name: &str, text: &str) -> Result<(Self, Vec<Warning>), RuleError> {
        let file: Arc<str> = file_name.into();
        let mut parser = Parser::default();
        let tables = parser.text(text).map_err(|fault| fault.error(&file))?;
        let warnings = parser
            .warnings
            .into_iter()
            .map(|fault| fault.warning(&file))
            .collect();
        let ruleset = Self { file, tables };
        compile(&ruleset, &[], 0)?;
        Ok((ruleset, warnings))
    }
}

#[derive(Default)]
struct Parser {
    tables: Vec<Placed<Table>>,
    /// The table that has begun and has no COMMIT yet.
    open: Option<Open>,
    rules: usize,
    warnings: Vec<Fault>,
}

impl Parser {
    fn text(&mut self, text: &str) -> Parsed<Vec<Placed<Table>>> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, line) in (1..).zip(text.split('\n')) {
            let line = line.strip_suffix('\r').unwrap_or(line);
            if !line.trim_start_matches([' ', '\t']).starts_with('#') {
                self.line(&words(line, number)?)?;
            }
        }
        match self.open.take() {
            None => Ok(std::mem::take(&mut self.tables)),
            Some(open) => {
                let message = format!(
                    "table {} has no COMMIT; end it with a line COMMIT",
                    open.table.name.as_str()
                );
                Err(Fault::new(open.table.place, message))
            }
        }
    }

    fn line(&mut self, words: &[Word]) -> Parsed<()> {
        let Some((first, rest)) = words.split_first() else {
            return Ok(());
        };
        let (names_table, names_chain) = (first.text.starts_with('*'), first.text.starts_with(':'));
        match &mut self.open {
            None if names_table && !first.quoted => self.table(first, rest),
            None => Err(outside(first)),
            Some(open) if names_table && !first.quoted => {
                let message = format!(
                    "table {} has no COMMIT yet; end it before the next table",
                    open.table.name.as_str()
                );
                Err(Fault::new(first.place, message))
            }
            Some(open) if names_chain && !first.quoted => {
                let warning = open.declare(first, rest)?;
                self.warnings.extend(warning);
                Ok(())
            }
            Some(_) if first.is("COMMIT") => {
                no_more(rest, "COMMIT")?;
                self.tables.extend(self.open.take().map(|open| open.table));
                Ok(())
            }
            Some(open) => {
                let added = open.append(first, rest)?;
                self.warnings.extend(added.warning);
                self.rules = self.rules.saturating_add(added.rules);
                if self.rules > MAX_RULES {
                    return Err(Fault::new(
                        first.place,
                        format!("the text holds more than {MAX_RULES} rules"),
                    ));
                }
                Ok(())
            }
        }
    }

    fn table(&mut self, word: &Word, rest: &[Word]) -> Parsed<()> {
        let name = word.text.strip_prefix('*').unwrap_or_default();
        let known = TableName::ALL
            .into_iter()
            .find(|table| table.as_str() == name);
        let Some(table) = known else {
            let message = if grammar::LATER_TABLES.contains(&name) {
                format!(
                    "table {} is not supported yet; remove it, nothing of this text is applied",
                    quoted(name)
                )
            } else {
                let names = TableName::ALL
                    .iter()
                    .map(|table| table.as_str())
                    .chain(grammar::LATER_TABLES.iter().copied());
                let cure = did_you_mean_or(name, names, "the table here is *tproxy");
                format!("unknown table {}{cure}", quoted(name))
            };
            return Err(Fault::new(word.place, message));
        };
        if let Some(earlier) = self.tables.iter().find(|earlier| earlier.name == table) {
            let message = format!(
                "table {name} stands twice, first in line {}; merge the two",
                earlier.place.line
            );
            return Err(Fault::new(word.place, message));
        }
        no_more(rest, &format!("*{name}"))?;
        self.open = Some(Open::new(table, word.place));
        Ok(())
    }
}

/// A line that is no table's.
fn outside(first: &Word) -> Fault {
    let message = if first.is("COMMIT") {
        "COMMIT without a table; a table begins with a line such as *tproxy".to_owned()
    } else {
        format!(
            "{} stands outside a table; a table begins with a line such as *tproxy",
            quoted(&first.text)
        )
    };
    Fault::new(first.place, message)
}
