//! Definitions to macros: words that name other macros are replaced.

use std::collections::HashMap;

use crate::definition::{Definition, Word, parse};
use crate::error::{MacroError, Place, Warning, quoted};
use crate::template::Template;
use crate::{MAX_BYTES, MAX_DEPTH, MAX_WORDS};

/// Macros, ready to be used.
#[derive(Debug, Default)]
pub struct Macros {
    pub(crate) file: String,
    pub(crate) names: HashMap<String, usize>,
    pub(crate) macros: Vec<Macro>,
}

/// A macro whose words name no other.
#[derive(Debug)]
pub(crate) struct Macro {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) words: Vec<Word>,
    /// The macros that its definition names.
    pub(crate) uses: Vec<usize>,
    height: usize,
}

impl Macros {
    /// Reads definitions; `file` is what errors call the text.
    ///
    /// # Errors
    /// The first thing that is wrong: no definition, a name twice, a circle, or too many words.
    pub fn parse(file: &str, text: &str) -> Result<Self, MacroError> {
        let definitions = parse(file, text)?;
        let mut names = HashMap::new();
        for (number, definition) in definitions.iter().enumerate() {
            let Some(earlier) = names.insert(definition.name.clone(), number) else {
                continue;
            };
            let first = definitions.get(earlier).map_or(0, |have| have.place.line);
            let message = format!(
                "{} is defined twice, first in line {first}; merge the two",
                quoted(&definition.name)
            );
            return Err(definition.place.error(file, message));
        }
        let mut resolver = Resolver {
            file,
            definitions: &definitions,
            names: &names,
            done: definitions.iter().map(|_| None).collect(),
            words: 0,
            bytes: 0,
        };
        for number in 0..definitions.len() {
            resolver.resolve(number, &mut Vec::new())?;
        }
        let macros = resolver.done.into_iter().flatten().collect();
        let file = file.to_owned();
        Ok(Self {
            file,
            names,
            macros,
        })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.macros.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.macros.is_empty()
    }

    /// Of macros whose name is one of `words`, which mean something by themselves.
    #[must_use]
    pub fn named_as(&self, words: &[&str]) -> Vec<Warning> {
        let named = (self.macros.iter()).filter(|one| words.contains(&one.name.as_str()));
        let warn = |one: &Macro| {
            let message = format!(
                "{} is a word of rules, and each that has it gets the macro's words in its place; \
                 choose another name",
                quoted(&one.name)
            );
            one.place.warning(&self.file, message)
        };
        named.map(warn).collect()
    }

    /// The name that is most like `word`, if one is.
    #[must_use]
    pub fn nearest(&self, word: &str) -> Option<&str> {
        let length = word.chars().count();
        if !(3..=60).contains(&length) {
            return None;
        }
        let names = self.macros.iter().map(|one| one.name.as_str());
        let near = names
            .filter(|name| name.len() <= 60)
            .map(|name| (strsim::damerau_levenshtein(word, name), name))
            .filter(|(distance, _)| (1..=length / 3).contains(distance));
        near.min().map(|(_, name)| name)
    }

    /// The words of macro `number`.
    pub(crate) fn words(&self, number: usize) -> &[Word] {
        self.macros
            .get(number)
            .map_or(&[], |one| one.words.as_slice())
    }

    /// A word of a macro.
    pub(crate) fn word(&self, number: usize, nth: usize) -> &str {
        let word = self.words(number).get(nth);
        word.map_or("", |word| word.text.as_str())
    }

    /// Of macros that no rule needs, when rules name those of `named`.
    pub(crate) fn unused(&self, named: &[bool]) -> Vec<Warning> {
        let mut is_used = named.to_vec();
        is_used.resize(self.macros.len(), false);
        let mut open: Vec<usize> = (0..self.macros.len())
            .filter(|number| is_used.get(*number) == Some(&true))
            .collect();
        while let Some(number) = open.pop() {
            for used in self.macros.get(number).map_or(&[][..], |one| &one.uses) {
                if let Some(is_used @ false) = is_used.get_mut(*used) {
                    *is_used = true;
                    open.push(*used);
                }
            }
        }
        let unused = self.macros.iter().zip(is_used).filter(|(_, used)| !used);
        let warn = |(one, _): (&Macro, bool)| {
            let message = format!("no rule names {}", quoted(&one.name));
            one.place.warning(&self.file, message)
        };
        unused.map(warn).collect()
    }
}

struct Resolver<'a> {
    file: &'a str,
    definitions: &'a [Definition],
    names: &'a HashMap<String, usize>,
    done: Vec<Option<Macro>>,
    words: usize,
    bytes: usize,
}

impl Resolver<'_> {
    /// Resolves a macro and before it those that it names. `way` is how it was come to.
    fn resolve(&mut self, number: usize, way: &mut Vec<usize>) -> Result<(), MacroError> {
        let definitions = self.definitions;
        let Some(definition) = definitions.get(number) else {
            return Ok(());
        };
        if matches!(self.done.get(number), Some(Some(_))) {
            return Ok(());
        }
        if let Some(begin) = way.iter().position(|on_way| *on_way == number) {
            return Err(self.circle(definition, way.get(begin..).unwrap_or_default()));
        }
        way.push(number);
        let mut one = Macro {
            name: definition.name.clone(),
            place: definition.place,
            words: Vec::new(),
            uses: Vec::new(),
            height: 1,
        };
        for word in &definition.words {
            let template = Template::of(&word.text, self.names);
            for used in &template.macros {
                if way.len() >= MAX_DEPTH {
                    return Err(self.too_deep(definition));
                }
                self.resolve(*used, way)?;
                let below = self.done.get(*used).and_then(Option::as_ref);
                one.height = one.height.max(1 + below.map_or(0, |below| below.height));
                if !one.uses.contains(used) {
                    one.uses.push(*used);
                }
            }
            self.put(&mut one, word, &template)?;
        }
        way.pop();
        if one.height > MAX_DEPTH {
            return Err(self.too_deep(definition));
        }
        if let Some(done) = self.done.get_mut(number) {
            *done = Some(one);
        }
        Ok(())
    }

    /// Adds what comes of a word.
    fn put(&mut self, one: &mut Macro, word: &Word, template: &Template) -> Result<(), MacroError> {
        let done = |number: usize| self.done.get(number).and_then(Option::as_ref);
        let length = |number| done(number).map_or(0, |other| other.words.len());
        let part = |number, nth| {
            let word = done(number).and_then(|other| other.words.get(nth));
            word.map_or("", |word: &Word| word.text.as_str())
        };
        let count = template.count(length);
        let count = count.filter(|count| self.words.saturating_add(*count) <= MAX_WORDS);
        let Some(count) = count else {
            let message = format!("with this word, macros stand for more than {MAX_WORDS} words");
            return Err(word.place.error(self.file, message));
        };
        let mut bytes = self.bytes;
        for nth in 0..count {
            let choice = template.choice(nth, length);
            // Asked first: a word may name a long one very often.
            bytes = bytes.saturating_add(template.length(&choice, part));
            if bytes > MAX_BYTES {
                let message =
                    format!("with this word, macros stand for more than {MAX_BYTES} bytes");
                return Err(word.place.error(self.file, message));
            }
            let mut text = String::new();
            template.write(&word.text, &choice, part, &mut text);
            let place = word.place;
            one.words.push(Word { text, place });
        }
        self.words = self.words.saturating_add(count);
        self.bytes = bytes;
        Ok(())
    }

    fn circle(&self, definition: &Definition, way: &[usize]) -> MacroError {
        let name = |number: &usize| self.definitions.get(*number).map(|one| one.name.as_str());
        let mut names: Vec<&str> = way.iter().filter_map(name).collect();
        names.push(&definition.name);
        let message = format!(
            "macros go in a circle: {}; one of them must not name the next",
            names.join(" -> ")
        );
        definition.place.error(self.file, message)
    }

    fn too_deep(&self, definition: &Definition) -> MacroError {
        let message = format!(
            "{} names macros that name macros, more than {MAX_DEPTH} deep",
            quoted(&definition.name)
        );
        definition.place.error(self.file, message)
    }
}
