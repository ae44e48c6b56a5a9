//! A text with places for macros, and the texts that come of it.

use std::collections::HashMap;
use std::ops::Range;

/// A text with places for macros.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Template {
    pub(crate) pieces: Vec<Piece>,
    /// Macros in the order in which the text first names them, each once.
    pub(crate) macros: Vec<usize>,
}

/// A piece of a template.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes of the text as they are.
    Literal(Range<usize>),
    /// The word of a macro: its number in [`Template::macros`], and the bytes that name it.
    Mention { slot: usize, at: Range<usize> },
}

/// Whether a character goes on with a word: then what is before it names no macro.
fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

impl Template {
    /// Finds where `text` names macros.
    pub(crate) fn of(text: &str, names: &HashMap<String, usize>) -> Self {
        let mut template = Self::default();
        let mut literal = 0;
        for run in runs(text) {
            let Some(number) = text.get(run.clone()).and_then(|name| names.get(name)) else {
                continue;
            };
            let known = template.macros.iter().position(|have| have == number);
            let slot = known.unwrap_or_else(|| {
                template.macros.push(*number);
                template.macros.len() - 1
            });
            if literal < run.start {
                template.pieces.push(Piece::Literal(literal..run.start));
            }
            literal = run.end;
            template.pieces.push(Piece::Mention { slot, at: run });
        }
        if literal < text.len() {
            template.pieces.push(Piece::Literal(literal..text.len()));
        }
        template
    }

    /// How many texts come of it; none: too many to count. `lengths` says how many words a
    /// macro has.
    pub(crate) fn count(&self, lengths: impl Fn(usize) -> usize) -> Option<usize> {
        // A macro without words leaves nothing, however many the others have.
        if self.macros.iter().any(|number| lengths(*number) == 0) {
            return Some(0);
        }
        self.macros.iter().try_fold(1_usize, |product, number| {
            product.checked_mul(lengths(*number))
        })
    }

    /// Which word each macro has in the `nth` text: the last varies fastest.
    pub(crate) fn choice(&self, nth: usize, lengths: impl Fn(usize) -> usize) -> Vec<usize> {
        let mut rest = nth;
        let mut choice: Vec<usize> = (self.macros.iter().rev())
            .map(|number| {
                let length = lengths(*number).max(1);
                let chosen = rest % length;
                rest /= length;
                chosen
            })
            .collect();
        choice.reverse();
        choice
    }

    /// How many bytes the text has with these words.
    pub(crate) fn length<'a>(
        &self,
        choice: &[usize],
        word: impl Fn(usize, usize) -> &'a str,
    ) -> usize {
        let pieces = self.pieces.iter().map(|piece| match piece {
            Piece::Literal(range) => range.len(),
            Piece::Mention { slot, .. } => match (self.macros.get(*slot), choice.get(*slot)) {
                (Some(number), Some(nth)) => word(*number, *nth).len(),
                _ => 0,
            },
        });
        pieces.fold(0, usize::saturating_add)
    }

    /// Writes the text with these words to `to`.
    pub(crate) fn write<'a>(
        &self,
        text: &str,
        choice: &[usize],
        word: impl Fn(usize, usize) -> &'a str,
        to: &mut String,
    ) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(range) => to.push_str(text.get(range.clone()).unwrap_or_default()),
                Piece::Mention { slot, .. } => {
                    if let (Some(number), Some(nth)) = (self.macros.get(*slot), choice.get(*slot)) {
                        to.push_str(word(*number, *nth));
                    }
                }
            }
        }
    }
}

/// The words of a text that could name a macro: what stands outside of quotes, between
/// characters that end words.
fn runs(text: &str) -> impl Iterator<Item = Range<usize>> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let mut begin = None;
    // One character more ends the last word.
    let characters = text.char_indices().chain([(text.len(), ' ')]);
    characters.filter_map(move |(at, c)| {
        if is_escaped {
            is_escaped = false;
            return None;
        }
        match c {
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ => {}
        }
        if is_of_word(c) && !is_quoted {
            begin.get_or_insert(at);
            return None;
        }
        begin.take().map(|begin| begin..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Vec<&str> {
        let names = HashMap::from([("A".to_owned(), 0), ("B_1".to_owned(), 1)]);
        let template = Template::of(text, &names);
        let mention = |piece: &Piece| match piece {
            Piece::Mention { at, .. } => Some(&text[at.clone()]),
            Piece::Literal(_) => None,
        };
        template.pieces.iter().filter_map(mention).collect()
    }

    #[test]
    fn a_macro_is_a_word_or_stands_between_signs() {
        assert_eq!(named("-s A -d ! B_1"), ["A", "B_1"]);
        assert_eq!(
            named("!A,B_1 A/24 A:80 A+ x=A [A]"),
            ["A", "B_1", "A", "A", "A", "A", "A"]
        );
        assert!(named("AA -A --A A-B A.1 1A _A éA Aé B_1_ b_1").is_empty());
    }

    #[test]
    fn nothing_is_named_in_quotes() {
        assert_eq!(named(r#"A "A \" A" A "" A"#), ["A", "A", "A"]);
        assert_eq!(named(r#"x"A"A"#), ["A"]);
        assert!(named(r#""A \\\" A"#).is_empty());
    }

    #[test]
    fn the_last_varies_fastest() {
        let names = HashMap::from([("A".to_owned(), 0), ("B".to_owned(), 1)]);
        let template = Template::of("B A B", &names);
        let lengths = |number: usize| [2, 3][number];
        assert_eq!(template.count(lengths), Some(6));
        let all: Vec<_> = (0..6).map(|nth| template.choice(nth, lengths)).collect();
        let expected = [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]];
        assert_eq!(all, expected);
        assert_eq!(template.count(|_| usize::MAX), None);
        assert_eq!(template.count(|number| number * usize::MAX), Some(0));
    }
}
