//! What is wrong with a ruleset, and where.

use std::fmt;
use std::sync::Arc;

use crate::place::Place;

/// Why a ruleset was refused: one line that names the place and what would be right.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct RuleError {
    /// The name of the text.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1, in characters.
    pub column: u32,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Something in a ruleset that is accepted but probably not meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// The name of the text.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1, in characters.
    pub column: u32,
    /// What was understood, and how to say it clearly.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.file, self.line, self.column, self.message
        )
    }
}

/// An error or a warning before it knows its file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    pub(crate) place: Place,
    pub(crate) message: String,
}

/// The result of parsing a part of a text.
pub(crate) type Parsed<T> = Result<T, Fault>;

impl Fault {
    pub(crate) fn new(place: Place, message: impl Into<String>) -> Self {
        Self {
            place,
            message: message.into(),
        }
    }

    pub(crate) fn error(self, file: &Arc<str>) -> RuleError {
        let Self {
            place: Place { line, column },
            message,
        } = self;
        RuleError {
            file: Arc::clone(file),
            line,
            column,
            message,
        }
    }

    pub(crate) fn warning(self, file: &Arc<str>) -> Warning {
        let Self {
            place: Place { line, column },
            message,
        } = self;
        Warning {
            file: Arc::clone(file),
            line,
            column,
            message,
        }
    }
}

/// A word of the text inside a message: short, and without what could move a terminal's cursor.
pub(crate) fn quoted(word: &str) -> String {
    const LONGEST: usize = 60;
    let shown: String = word.chars().take(LONGEST).collect();
    let ellipsis = if shown.len() < word.len() { "..." } else { "" };
    let shown: String = shown
        .chars()
        .map(|c| {
            if is_printable(c) {
                c
            } else {
                char::REPLACEMENT_CHARACTER
            }
        })
        .collect();
    format!("`{shown}{ellipsis}`")
}

/// No control, and none of the format characters that reorder or hide text.
pub(crate) fn is_printable(c: char) -> bool {
    let hides = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !c.is_control() && !hides
}

/// `; did you mean ...?` with the nearest of the known words, or nothing if none is near.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    const LONGEST: usize = 40;
    if word.len() > LONGEST {
        return String::new();
    }
    let lower = word.to_lowercase();
    let near = known
        .into_iter()
        .filter(|k| k.len() <= LONGEST)
        .map(|k| (strsim::damerau_levenshtein(&lower, &k.to_lowercase()), k))
        .filter(|(distance, k)| {
            *distance <= (k.chars().count() / 3).max(1) && *distance < k.chars().count()
        })
        .min();
    near.map(|(_, k)| format!("; did you mean {}?", quoted(k)))
        .unwrap_or_default()
}

/// The nearest of the known words, or else `; ` and another cure.
pub(crate) fn did_you_mean_or<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
    cure: &str,
) -> String {
    let near = did_you_mean(word, known);
    if near.is_empty() {
        format!("; {cure}")
    } else {
        near
    }
}
