//! `-m owner`: whose socket a packet of the box itself comes from.

use super::{Test, Tests};
use crate::error::{Fault, Parsed, quoted};
use crate::lexer::Word;
use crate::option::{OptSpec, Options, flag, tested};
use crate::value::number;

pub(super) const OPTIONS: &[OptSpec] = &[
    tested(
        &["--uid-owner"],
        "a user's name or number, or a range as in 1000-1999",
    ),
    tested(
        &["--gid-owner"],
        "a group's name or number, or a range as in 1000-1999",
    ),
    OptSpec {
        negatable: true,
        ..flag(&["--socket-exists"])
    },
];

/// Users or groups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    /// By number, from the first to the last.
    Numbers(u32, u32),
    /// By name.
    Name(String),
}

pub(super) fn tests(options: &Options<'_>, tests: &mut Tests) -> Parsed<()> {
    if let Some(given) = options.get("--uid-owner") {
        tests.put(&given, Test::User(who(given.value(), "user")?));
    }
    if let Some(given) = options.get("--gid-owner") {
        tests.put(&given, Test::Group(who(given.value(), "group")?));
    }
    if let Some(given) = options.get("--socket-exists") {
        tests.put(&given, Test::SocketExists);
    }
    Ok(())
}

fn who(word: &Word, what: &str) -> Parsed<Who> {
    let text = word.text.as_str();
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$' | '@');
        if text.is_empty() || text.starts_with('-') || !text.chars().all(plain) {
            let message = format!("{} is not the name of a {what}", quoted(text));
            return Err(Fault::new(word.place, message));
        }
        return Ok(Who::Name(text.to_owned()));
    }
    let ends = match text.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)),
        None => number(text).map(|only| (only, only)),
    };
    // The kernel keeps the highest number for "none".
    let ends = ends.filter(|(first, last)| first <= last && *last != u32::MAX);
    ends.map(|(first, last)| Who::Numbers(first, last))
        .ok_or_else(|| {
            let message = format!(
                "{} is no {what}; write a name, a number, or a range as in 1000-1999",
                quoted(text)
            );
            Fault::new(word.place, message)
        })
}
