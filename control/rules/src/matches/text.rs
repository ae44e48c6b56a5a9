//! `-m comment` and `-m zone`: matches whose value is a name or a text.

use super::{Test, Tests};
use crate::error::{Fault, Parsed, is_printable, quoted};
use crate::grammar;
use crate::lexer::Word;
use crate::option::{OptSpec, Options, plain, tested};

pub(super) const COMMENT: &[OptSpec] = &[plain(&["--comment"], "a text in double quotes")];
pub(super) const ZONE: &[OptSpec] = &[
    tested(&["--src"], "the name of a zone"),
    tested(&["--dst"], "the name of a zone"),
];

pub(super) fn comment(options: &Options<'_>, tests: &mut Tests) -> Parsed<()> {
    let Some(given) = options.get("--comment") else {
        return Ok(());
    };
    let text = &given.value().text;
    if text.len() > grammar::COMMENT_BYTES {
        let message = format!(
            "this comment is longer than {} bytes; shorten it",
            grammar::COMMENT_BYTES
        );
        return Err(Fault::new(given.value().place, message));
    }
    tests.put(&given, Test::Comment(text.clone()));
    Ok(())
}

pub(super) fn zones(options: &Options<'_>, tests: &mut Tests) -> Parsed<()> {
    if let Some(given) = options.get("--src") {
        tests.put(&given, Test::SourceZone(zone(given.value())?));
    }
    if let Some(given) = options.get("--dst") {
        tests.put(&given, Test::DestinationZone(zone(given.value())?));
    }
    Ok(())
}

fn zone(word: &Word) -> Parsed<String> {
    let odd = |c: char| c.is_whitespace() || !is_printable(c);
    if word.text.is_empty() || word.text.contains(odd) {
        let message = format!("{} is not the name of a zone", quoted(&word.text));
        return Err(Fault::new(word.place, message));
    }
    Ok(word.text.clone())
}
