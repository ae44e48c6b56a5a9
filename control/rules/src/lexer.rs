//! A line to words, as iptables-restore cuts it: blanks part words, double quotes hold
//! them together, a backslash inside quotes keeps the next character.

use crate::error::{Fault, Parsed};
use crate::place::Place;

/// A word of a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) place: Place,
    /// Whether any part of it stood in quotes: then it is a value, never `!` or an option.
    pub(crate) quoted: bool,
}

impl Word {
    /// Whether it is this bare word.
    pub(crate) fn is(&self, bare: &str) -> bool {
        !self.quoted && self.text == bare
    }
}

pub(crate) fn words(line: &str, number: u32) -> Parsed<Vec<Word>> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut open: Option<Place> = None;
    let mut escaped = false;
    for (column, c) in (1..).zip(line.chars()) {
        let place = Place {
            line: number,
            column,
        };
        if open.is_none() && matches!(c, ' ' | '\t') {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_with(|| Word {
            text: String::new(),
            place,
            quoted: false,
        });
        match c {
            _ if escaped => {
                word.text.push(c);
                escaped = false;
            }
            '\\' if open.is_some() => escaped = true,
            '"' => {
                word.quoted = true;
                open = if open.is_some() { None } else { Some(place) };
            }
            _ => word.text.push(c),
        }
    }
    if let Some(place) = open {
        return Err(Fault::new(
            place,
            "this quote is not closed; end it with `\"` on the same line",
        ));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Vec<(String, u32, bool)> {
        words(line, 1)
            .unwrap()
            .into_iter()
            .map(|w| (w.text, w.place.column, w.quoted))
            .collect()
    }

    #[test]
    fn words_keep_their_columns_and_quotes() {
        let expected = [
            ("-A", 1, false),
            ("é", 5, false),
            ("a \" \\ b", 7, true),
            ("", 19, true),
            ("xy z", 22, true),
        ];
        let expected: Vec<_> = expected.map(|(t, c, q)| (t.to_owned(), c, q)).into();
        assert_eq!(texts("-A\t é \"a \\\" \\\\ b\" \"\" x\"y z\""), expected);
        assert!(texts(" \t ").is_empty());
    }

    #[test]
    fn an_open_quote_is_an_error_at_the_quote() {
        let fault = words("a \"b c", 3).unwrap_err();
        assert_eq!(fault.place, Place { line: 3, column: 3 });
    }
}
