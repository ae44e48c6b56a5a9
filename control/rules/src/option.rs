//! How options are written, and the options of a line as they were given.

use crate::error::{Fault, Parsed, quoted};
use crate::lexer::Word;
use crate::place::Place;

/// How an option is written.
#[derive(Debug)]
pub(crate) struct OptSpec {
    /// Its names; the first stands for all of them.
    pub(crate) names: &'static [&'static str],
    /// What its value is, for messages.
    pub(crate) wants: &'static str,
    /// Whether `!` may stand with it.
    pub(crate) negatable: bool,
    /// How many words its value has.
    pub(crate) values: usize,
}

/// An option that `!` may stand with.
pub(crate) const fn tested(names: &'static [&'static str], wants: &'static str) -> OptSpec {
    OptSpec {
        names,
        wants,
        negatable: true,
        values: 1,
    }
}

/// An option without `!`.
pub(crate) const fn plain(names: &'static [&'static str], wants: &'static str) -> OptSpec {
    OptSpec {
        negatable: false,
        ..tested(names, wants)
    }
}

/// An option without a value and without `!`.
pub(crate) const fn flag(names: &'static [&'static str]) -> OptSpec {
    OptSpec {
        values: 0,
        ..plain(names, "no value")
    }
}

impl OptSpec {
    /// The same with another number of words in its value.
    pub(crate) const fn of(self, values: usize) -> Self {
        Self { values, ..self }
    }

    /// The name that stands for all of them.
    pub(crate) fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or_default()
    }
}

/// The spec with this name.
pub(crate) fn named(specs: &'static [OptSpec], name: &str) -> Option<&'static OptSpec> {
    specs.iter().find(|spec| spec.names.contains(&name))
}

/// An option that was given, with `!` or without.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given<'a> {
    pub(crate) spec: &'static OptSpec,
    pub(crate) name: &'a Word,
    pub(crate) negated: bool,
    values: &'a [Word],
}

impl<'a> Given<'a> {
    pub(crate) const fn new(
        spec: &'static OptSpec,
        name: &'a Word,
        negated: bool,
        values: &'a [Word],
    ) -> Self {
        Self {
            spec,
            name,
            negated,
            values,
        }
    }

    /// Where its name stands.
    pub(crate) const fn place(&self) -> Place {
        self.name.place
    }

    /// Its value.
    pub(crate) fn value(&self) -> &'a Word {
        self.values.first().unwrap_or(self.name)
    }

    /// The second word of its value.
    pub(crate) fn second(&self) -> &'a Word {
        self.values.get(1).unwrap_or(self.name)
    }
}

/// Options that belong together; each may be given once.
#[derive(Clone, Default, Debug)]
pub(crate) struct Options<'a>(Vec<Given<'a>>);

impl<'a> Options<'a> {
    pub(crate) fn put(&mut self, given: Given<'a>) -> Parsed<()> {
        if self.get(given.spec.name()).is_some() {
            return Err(Fault::new(
                given.place(),
                format!("{} is given twice in this rule", quoted(&given.name.text)),
            ));
        }
        self.0.push(given);
        Ok(())
    }

    /// The option with this name, its first.
    pub(crate) fn get(&self, name: &str) -> Option<Given<'a>> {
        self.0
            .iter()
            .find(|given| given.spec.name() == name)
            .copied()
    }

    /// The first of them that was given.
    pub(crate) fn any_of(&self, names: &[&str]) -> Option<Given<'a>> {
        self.0
            .iter()
            .find(|given| names.contains(&given.spec.name()))
            .copied()
    }

    /// Whether this flag was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Refuses two options that exclude each other.
    pub(crate) fn only_one_of(&self, names: &[&str]) -> Parsed<Option<Given<'a>>> {
        let mut found = self
            .0
            .iter()
            .filter(|given| names.contains(&given.spec.name()));
        let first = found.next().copied();
        match (first, found.next()) {
            (Some(first), Some(second)) => Err(Fault::new(
                second.place(),
                format!(
                    "{} and {} exclude each other; keep one of them",
                    quoted(&first.name.text),
                    quoted(&second.name.text)
                ),
            )),
            _ => Ok(first),
        }
    }
}
