//! The lines of a text to a ruleset: tables, chains, COMMIT.

use std::sync::Arc;

use crate::calls;
use crate::error::{Fault, Parsed, RuleError, Warning, did_you_mean_or, quoted};
use crate::grammar;
use crate::lexer::{Word, words};
use crate::model::{Ruleset, Table, TableName};
use crate::place::Placed;
use crate::table::{Open, no_more};

/// How many rules a text may hold, those that lists of addresses stand for included.
const MAX_RULES: usize = 1 << 20;

/// After how many lines the caller hears how far it has got.
const STRIDE: usize = 1024;

impl Ruleset {
    /// Reads a text as iptables-save writes it. All of it is checked: jumps lead to
    /// chains, no chain calls itself, and every match and target can stand where packets
    /// meet it.
    ///
    /// # Errors
    /// The first thing that is wrong with the text.
    pub fn parse(file_name: &str, text: &str) -> Result<(Self, Vec<Warning>), RuleError> {
        Self::parse_with(file_name, text, &mut |_, _| {})
    }

    /// The same, and tells now and then how many lines of how many are done.
    ///
    /// # Errors
    /// The first thing that is wrong with the text.
    pub fn parse_with(
        file_name: &str,
        text: &str,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Self, Vec<Warning>), RuleError> {
        let file: Arc<str> = file_name.into();
        let mut parser = Parser::default();
        let tables = parser
            .text(text, progress)
            .map_err(|fault| fault.error(&file))?;
        let warnings = parser
            .warnings
            .into_iter()
            .map(|fault| fault.warning(&file))
            .collect();
        Ok((Self { file, tables }, warnings))
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
    fn text(
        &mut self,
        text: &str,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Parsed<Vec<Placed<Table>>> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let total = text.split('\n').count();
        let far = |lines: usize| u64::try_from(lines).unwrap_or(u64::MAX);
        for (done, (number, line)) in (1..).zip(text.split('\n')).enumerate() {
            if done % STRIDE == 0 {
                progress(far(done), far(total));
            }
            let line = line.strip_suffix('\r').unwrap_or(line);
            if !line.trim_start_matches([' ', '\t']).starts_with('#') {
                self.line(&words(line, number)?)?;
            }
        }
        progress(far(total), far(total));
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
            Some(open) if names_chain && !first.quoted => open.declare(first, rest),
            Some(_) if first.is("COMMIT") => {
                no_more(rest, "COMMIT")?;
                if let Some(open) = self.open.take() {
                    calls::check(&open.table)?;
                    self.tables.push(open.table);
                }
                Ok(())
            }
            Some(open) => {
                let added = open.append(first, rest)?;
                self.warnings.extend(added.warnings);
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
            let message = if grammar::NOT_HAD_TABLES.contains(&name) {
                format!("table {} is not had here; remove it", quoted(name))
            } else {
                let names = TableName::ALL.iter().map(|table| table.as_str());
                let cure = did_you_mean_or(
                    name,
                    names,
                    "there are *raw, *mangle, *tproxy, *nat and *filter",
                );
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
