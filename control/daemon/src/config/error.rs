//! Errors of a configuration: one line with the place.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What is wrong with a configuration, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}:{}{message}", .path.display(), Place(*.place))]
pub struct ConfigError {
    path: PathBuf,
    /// Line and column, from 1.
    place: Option<(usize, usize)>,
    message: String,
}

impl ConfigError {
    /// An error of the file as a whole.
    pub fn whole(path: &Path, message: impl AsRef<str>) -> Self {
        Self {
            path: path.to_owned(),
            place: None,
            message: one_line(message.as_ref()),
        }
    }
}

/// `LINE:COLUMN: `, or nothing but the space.
struct Place(Option<(usize, usize)>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((line, column)) => write!(f, "{line}:{column}: "),
            None => f.write_str(" "),
        }
    }
}

/// What is wrong at some bytes of the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    span: Option<Range<usize>>,
    message: String,
}

impl Fault {
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            span: Some(span),
            message: message.into(),
        }
    }

    pub fn nowhere(message: impl Into<String>) -> Self {
        Self {
            span: None,
            message: message.into(),
        }
    }

    /// The error of the file that has this text.
    pub fn at(self, path: &Path, text: &str) -> ConfigError {
        ConfigError {
            path: path.to_owned(),
            place: self.span.map(|span| place(text, span.start)),
            message: one_line(&self.message),
        }
    }
}

/// The bytes as text, or the place where they are none.
pub fn text<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a str, ConfigError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let (good, _) = bytes.split_at(error.valid_up_to());
        let good = String::from_utf8_lossy(good);
        Fault::new(good.len()..good.len(), "this is not UTF-8 text").at(path, &good)
    })
}

/// Line and column of a byte, from 1; a column is a character.
fn place(text: &str, byte: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(byte)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

/// Names come from the file: whatever would end the line or steer a terminal is written out.
fn one_line(message: &str) -> String {
    message
        .chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}
