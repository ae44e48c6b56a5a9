//! From a place in what became of a text, back to the text.

use crate::expansion::{Expansion, is_rule};
use crate::resolution::Macros;
use crate::template::{Piece, Template};

/// Where something in an expanded line came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The line in the text that names macros.
    pub line: u32,
    /// The column there, from 1, in characters: at a macro's word, that of its name.
    pub column: u32,
    /// The macro whose word it is, if it is one's.
    pub name: Option<String>,
    /// Whether the line names macros at all.
    pub has_macros: bool,
}

impl Macros {
    /// Where a place of `expansion`, which was made of `text`, came from.
    #[must_use]
    pub fn trace(
        &self,
        text: &str,
        expansion: &Expansion,
        line: u32,
        column: u32,
    ) -> Option<Trace> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let index = usize::try_from(line.checked_sub(1)?).ok()?;
        let origin = *expansion.origins.get(index)?;
        let nth = index - expansion.origins.partition_point(|have| *have < origin);
        let source = text.lines().nth(usize::try_from(origin - 1).ok()?)?;
        let template = if is_rule(source) {
            Template::of(source, &self.names)
        } else {
            Template::of(source, &std::collections::HashMap::new())
        };
        let choice = template.choice(nth, |number| self.words(number).len());
        let wanted = usize::try_from(column.checked_sub(1)?).ok()?;
        let characters = |bytes: &str| bytes.chars().count();
        let mut passed = 0;
        let mut found = (characters(source), None);
        for piece in &template.pieces {
            let (at, name, length) = match piece {
                Piece::Literal(at) => (at, None, characters(source.get(at.clone())?)),
                Piece::Mention { slot, at } => {
                    let number = *template.macros.get(*slot)?;
                    let word = self.word(number, *choice.get(*slot)?);
                    let name = self.macros.get(number).map(|one| one.name.clone());
                    (at, name, characters(word))
                }
            };
            if wanted < passed + length {
                let begin = characters(source.get(..at.start)?);
                let inside = if name.is_none() { wanted - passed } else { 0 };
                found = (begin + inside, name);
                break;
            }
            passed += length;
        }
        Some(Trace {
            line: origin,
            column: u32::try_from(found.0).ok()?.saturating_add(1),
            name: found.1,
            has_macros: !template.macros.is_empty(),
        })
    }
}
