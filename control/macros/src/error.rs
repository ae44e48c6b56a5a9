//! What is wrong with definitions or with a text, and where.

use std::fmt;

/// Why a text was refused: one line that names the place and what would be right.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct MacroError {
    /// The name of the text.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1, in characters.
    pub column: u32,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Something that is accepted but probably not meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// The name of the text.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1, in characters.
    pub column: u32,
    /// What was understood.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            message,
        } = self;
        write!(f, "{file}:{line}:{column}: {message}")
    }
}

/// A line and a column, both from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl Place {
    pub(crate) fn error(self, file: &str, message: impl Into<String>) -> MacroError {
        MacroError {
            file: file.to_owned(),
            line: self.line,
            column: self.column,
            message: message.into(),
        }
    }

    pub(crate) fn warning(self, file: &str, message: impl Into<String>) -> Warning {
        Warning {
            file: file.to_owned(),
            line: self.line,
            column: self.column,
            message: message.into(),
        }
    }
}

/// A word of the text inside a message: short, and without what could move a terminal's cursor.
pub(crate) fn quoted(word: &str) -> String {
    const LONGEST: usize = 60;
    let hides = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let shown = word.chars().take(LONGEST);
    let shown: String = shown
        .map(|c| {
            if hides(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect();
    let ellipsis = if word.chars().nth(LONGEST).is_some() {
        "..."
    } else {
        ""
    };
    format!("`{shown}{ellipsis}`")
}
