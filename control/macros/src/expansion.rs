//! A text that names macros to one that does not.

use crate::error::{MacroError, Place, Warning, quoted};
use crate::resolution::Macros;
use crate::template::{Piece, Template};
use crate::{MAX_BYTES, MAX_LINES};

/// A text without macros.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The text: lines, each with its newline.
    pub text: String,
    /// For each of its lines the line, from 1, that it came of.
    pub origins: Vec<u32>,
    /// What is accepted but probably not meant.
    pub warnings: Vec<Warning>,
}

impl Macros {
    /// Replaces macros in a ruleset; `file` is what errors call the text.
    ///
    /// # Errors
    /// When more lines or bytes would come of it than are allowed.
    pub fn expand(&self, file: &str, text: &str) -> Result<Expansion, MacroError> {
        let mut expansion = Expansion::default();
        let mut named = vec![false; self.macros.len()];
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, line) in (1..).zip(text.lines()) {
            let at = Line { file, number, line };
            if !is_rule(line) {
                if is_misplaced(line) {
                    let place = at.place(0);
                    let message = "a definition here is a comment; it belongs into the file of \
                                   macros";
                    expansion.warnings.push(place.warning(file, message));
                }
                expansion.put(&at, line.len(), |to| to.push_str(line))?;
                continue;
            }
            let template = Template::of(line, &self.names);
            for number in &template.macros {
                if let Some(named) = named.get_mut(*number) {
                    *named = true;
                }
            }
            self.warn(&at, &template, &mut expansion.warnings);
            self.lines(&at, &template, &mut expansion)?;
        }
        expansion.warnings.extend(self.unused(&named));
        Ok(expansion)
    }

    /// All lines that come of one.
    fn lines(
        &self,
        at: &Line<'_>,
        template: &Template,
        expansion: &mut Expansion,
    ) -> Result<(), MacroError> {
        let lengths = |number| self.words(number).len();
        let count = template.count(lengths);
        let left = MAX_LINES.saturating_sub(expansion.origins.len());
        let Some(count) = count.filter(|count| *count <= left) else {
            let factors: Vec<String> = (template.macros.iter())
                .filter_map(|number| self.macros.get(*number))
                .map(|one| format!("{} words of {}", one.words.len(), quoted(&one.name)))
                .collect();
            let count = count.map_or_else(|| "too many".to_owned(), |count| count.to_string());
            let message = format!(
                "this rule becomes {count} rules ({}), and a text may have {MAX_LINES} lines; \
                 name fewer words, or use a set",
                factors.join(", ")
            );
            return Err(at.place(0).error(at.file, message));
        };
        for nth in 0..count {
            let choice = template.choice(nth, lengths);
            let word = |number, nth| self.word(number, nth);
            let length = template.length(&choice, word);
            expansion.put(at, length, |to| template.write(at.line, &choice, word, to))?;
        }
        Ok(())
    }

    /// What a rule's macros do that is probably not meant.
    fn warn(&self, at: &Line<'_>, template: &Template, warnings: &mut Vec<Warning>) {
        for piece in &template.pieces {
            let Piece::Mention { slot, at: bytes } = piece else {
                continue;
            };
            let Some(one) = (template.macros.get(*slot)).and_then(|at| self.macros.get(*at)) else {
                continue;
            };
            let name = quoted(&one.name);
            let message = match one.words.len() {
                0 => format!("{name} has no words: no rule comes of this one"),
                1 => continue,
                _ if is_negated(at.line.get(..bytes.start).unwrap_or_default()) => format!(
                    "'!' before {name} makes one rule for each word, and what one of them leaves \
                     out another takes in; use a set, or RETURN for each word first"
                ),
                _ => continue,
            };
            warnings.push(at.place(bytes.start).warning(at.file, message));
        }
    }
}

impl Expansion {
    /// Adds a line of `length` bytes, if it is not too much.
    fn put(
        &mut self,
        at: &Line<'_>,
        length: usize,
        write: impl FnOnce(&mut String),
    ) -> Result<(), MacroError> {
        let what = if self.origins.len() >= MAX_LINES {
            format!("{MAX_LINES} lines")
        } else if self.text.len().saturating_add(length) >= MAX_BYTES {
            format!("{MAX_BYTES} bytes")
        } else {
            write(&mut self.text);
            self.text.push('\n');
            self.origins.push(at.number);
            return Ok(());
        };
        let message = format!("with this line, the text becomes longer than {what}");
        Err(at.place(0).error(at.file, message))
    }
}

/// A line of the text that is being expanded.
struct Line<'a> {
    file: &'a str,
    number: u32,
    line: &'a str,
}

impl Line<'_> {
    /// Where a byte of it stands.
    fn place(&self, byte: usize) -> Place {
        let before = self.line.get(..byte).unwrap_or_default().chars().count();
        let column = u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1);
        let line = self.number;
        Place { line, column }
    }
}

/// Whether macros are replaced in a line: it is neither blank nor a comment, table, chain or COMMIT.
pub(crate) fn is_rule(line: &str) -> bool {
    let line = line.trim();
    !(line.is_empty() || line.starts_with(['#', '*', ':']) || line == "COMMIT")
}

fn is_misplaced(line: &str) -> bool {
    let after = line.trim_start().strip_prefix("#define");
    after.is_some_and(|after| after.starts_with(char::is_whitespace))
}

/// Whether what follows `before` is negated: `! -s X`, `-s ! X`, `-s !X`.
fn is_negated(before: &str) -> bool {
    let before = before.trim_end();
    if before.ends_with('!') {
        return true;
    }
    let mut words = before.split_whitespace().rev();
    let is_option = words.next().is_some_and(|word| word.starts_with('-'));
    is_option && words.next() == Some("!")
}
