//! One `-A` line: its words sorted to options, matches and a target.

use crate::error::{Fault, Parsed, did_you_mean_or, quoted};
use crate::grammar;
use crate::lexer::Word;
use crate::matches::{self, Mention, Module};
use crate::model::{Counters, Rule, TableName};
use crate::option::{Given, OptSpec, Options, named};
use crate::place::{Place, Placed};
use crate::targets::{self, Kind};

/// The rules of one line, and what is odd about it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) rules: Vec<Placed<Rule>>,
    pub(crate) warnings: Vec<Fault>,
}

/// Where a line stands.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) table: TableName,
    pub(crate) chain: &'a str,
    pub(crate) is_built_in: bool,
    /// Where the line begins.
    pub(crate) place: Place,
    pub(crate) counters: Option<Counters>,
}

/// Where `-j` or `-g` leads.
#[derive(Debug)]
pub(crate) enum Way<'a> {
    Target(Kind, Options<'a>),
    Jump(&'a str),
    Goto(&'a str),
}

/// The options of a line, before they are held against each other.
#[derive(Default, Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) general: Options<'a>,
    pub(crate) mentions: Vec<Mention<'a>>,
    pub(crate) way: Option<(Place, Way<'a>)>,
}

/// Reads what follows `-A CHAIN`. `declared` tells a chain from a target.
pub(crate) fn parse(
    scope: Scope<'_>,
    mut words: &[Word],
    declared: impl Fn(&str) -> bool,
) -> Parsed<Line> {
    let mut draft = Draft::default();
    while let Some((first, rest)) = words.split_first() {
        words = draft.option(first, rest, &declared)?;
    }
    draft.finish(scope)
}

/// Whose an option is.
enum Owner {
    General,
    Mention(usize),
    Implied,
    Target,
}

impl<'a> Draft<'a> {
    /// Takes one option with its value; the words behind it.
    fn option(
        &mut self,
        first: &'a Word,
        rest: &'a [Word],
        declared: impl Fn(&str) -> bool,
    ) -> Parsed<&'a [Word]> {
        let (before, name, rest) = if first.is("!") {
            let message = "`!` must stand before an option, as in `! -d 192.168.1.1`";
            let (name, rest) = rest
                .split_first()
                .ok_or_else(|| Fault::new(first.place, message))?;
            (true, name, rest)
        } else {
            (false, first, rest)
        };
        let (spec, owner) = self.spec(name).ok_or_else(|| self.unknown(name))?;
        if before && !spec.negatable {
            return Err(Fault::new(
                first.place,
                format!("{} cannot be negated; remove the `!`", quoted(&name.text)),
            ));
        }
        let wanted = || {
            let message = format!("{} needs {}", quoted(&name.text), spec.wants);
            Fault::new(name.place, message)
        };
        let (after, rest) = match rest.split_first() {
            Some((word, behind)) if spec.negatable && spec.values > 0 && word.is("!") => {
                if before {
                    let message =
                        "`!` stands both before and after the option; write it once, before";
                    return Err(Fault::new(word.place, message));
                }
                (true, behind)
            }
            _ => (false, rest),
        };
        let (values, rest) = rest.split_at_checked(spec.values).ok_or_else(wanted)?;
        if values.iter().any(|value| self.is_option(value)) {
            return Err(wanted());
        }
        let given = Given::new(spec, name, before || after, values);
        if spec.name() == "-m" && given.value().is("addrtype") {
            return Err(no_addrtype(given.value(), rest));
        }
        self.take(owner, given, declared)?;
        Ok(rest)
    }

    /// Whether a word is no value, but the next option.
    fn is_option(&self, word: &Word) -> bool {
        !word.quoted && (word.text == "!" || self.spec(word).is_some())
    }

    fn spec(&self, name: &Word) -> Option<(&'static OptSpec, Owner)> {
        let text = name.text.as_str();
        if name.quoted {
            return None;
        }
        // `--src` after `-m zone` is the zone's; `-s` and `--source` are always addresses.
        if let Some(mention) = self.mentions.last()
            && mention.module == Module::Zone
            && let Some(spec) = named(Module::Zone.options(), text)
        {
            return Some((spec, Owner::Mention(self.mentions.len() - 1)));
        }
        if let Some(spec) = named(grammar::GENERAL, text) {
            return Some((spec, Owner::General));
        }
        for (index, mention) in self.mentions.iter().enumerate().rev() {
            if let Some(spec) = named(mention.module.options(), text) {
                return Some((spec, Owner::Mention(index)));
            }
        }
        if let Some((_, Way::Target(kind, _))) = &self.way
            && let Some(spec) = named(kind.options(), text)
        {
            return Some((spec, Owner::Target));
        }
        named(Module::Implied.options(), text).map(|spec| (spec, Owner::Implied))
    }

    fn take(
        &mut self,
        owner: Owner,
        given: Given<'a>,
        declared: impl Fn(&str) -> bool,
    ) -> Parsed<()> {
        match owner {
            Owner::General => match given.spec.name() {
                "-m" => {
                    let module = matches::module(given.value())?;
                    self.mention(module, given.place());
                    Ok(())
                }
                "-j" | "-g" => self.way(given, declared),
                _ => self.general.put(given),
            },
            Owner::Mention(index) => self
                .mentions
                .get_mut(index)
                .map_or(Ok(()), |mention| mention.options.put(given)),
            Owner::Implied => {
                self.mention(Module::Implied, given.place());
                self.mentions
                    .last_mut()
                    .map_or(Ok(()), |mention| mention.options.put(given))
            }
            Owner::Target => match &mut self.way {
                Some((_, Way::Target(_, options))) => options.put(given),
                _ => Ok(()),
            },
        }
    }

    fn mention(&mut self, module: Module, place: Place) {
        let options = Options::default();
        self.mentions.push(Mention {
            module,
            place,
            options,
        });
    }

    /// A target or a chain. Chains may be declared later; whether this one is shows at COMMIT.
    fn way(&mut self, given: Given<'a>, declared: impl Fn(&str) -> bool) -> Parsed<()> {
        let (name, word) = (given.value().text.as_str(), given.value());
        if self.way.is_some() {
            let message = format!("{} is given twice in this rule", quoted(&given.name.text));
            return Err(Fault::new(given.place(), message));
        }
        let kind = Kind::of(name);
        let way = if given.spec.name() == "-g" {
            if kind.is_some() {
                let message = format!("`-g` leads to a chain; for the target write -j {name}");
                return Err(Fault::new(word.place, message));
            }
            Way::Goto(name)
        } else if let Some(kind) = kind {
            Way::Target(kind, Options::default())
        } else {
            Way::Jump(name)
        };
        if let Some(cure) =
            grammar::cure(grammar::NOT_HAD_TARGETS, name).filter(|_| !declared(name))
        {
            let message = format!("target {} is not had here; {cure}", quoted(name));
            return Err(Fault::new(word.place, message));
        }
        // What is wrong with a target shows at its own name.
        self.way = Some((word.place, way));
        Ok(())
    }

    /// What is wrong with a word that should be an option.
    fn unknown(&self, word: &Word) -> Fault {
        let text = word.text.as_str();
        let message = if word.quoted || !text.starts_with('-') {
            misplaced(word)
        } else if let Some(cure) = grammar::cure(grammar::NOT_HAD_OPTIONS, text) {
            format!("option {} is not had here; {cure}", quoted(text))
        } else if grammar::OTHER_COMMANDS.contains(&text) || grammar::APPEND.contains(&text) {
            format!(
                "{} cannot stand inside a rule; each line appends one rule with -A CHAIN",
                quoted(text)
            )
        } else if let Some(module) = module_with(text) {
            format!(
                "{} belongs to -m {module}; write that before it",
                quoted(text)
            )
        } else if let Some(target) = targets::owner_of(text) {
            self.of_another_target(text, target)
        } else {
            let bare = text.split('=').next().unwrap_or(text);
            let cure = "see the list of options in the documentation of rulesets";
            let cure = did_you_mean_or(bare, self.known(), cure);
            format!("unknown option {}{cure}", quoted(text))
        };
        Fault::new(word.place, message)
    }

    fn of_another_target(&self, text: &str, target: &str) -> String {
        let shown = quoted(text);
        match &self.way {
            Some((_, Way::Target(kind, _))) => {
                format!(
                    "{shown} belongs to -j {target}, not to {}; remove it",
                    kind.name()
                )
            }
            Some(_) => format!("{shown} belongs to -j {target}, not to a jump; remove it"),
            None => format!("{shown} belongs to -j {target}; write that before it"),
        }
    }

    /// All options, those that could stand here first.
    fn known(&self) -> impl Iterator<Item = &'static str> {
        let modules = Module::NAMED.iter().map(|(_, module)| module.options());
        let targets = Kind::NAMED.iter().map(|(_, kind)| kind.options());
        let all = [grammar::GENERAL].into_iter().chain(modules).chain(targets);
        let had = all.flatten().flat_map(|spec| spec.names.iter().copied());
        had.chain(grammar::NOT_HAD_OPTIONS.iter().map(|(name, _)| *name))
    }
}

/// `-m addrtype` is not had; what to write instead depends on the words behind it.
fn no_addrtype(name: &Word, rest: &[Word]) -> Fault {
    let negated = rest.iter().take(2).any(|word| word.is("!"));
    let mut words = rest.iter().filter(|word| !word.is("!"));
    let (option, kind) = (words.next(), words.next());
    let cure = option.zip(kind).and_then(|(option, kind)| {
        grammar::addrtype_cure(&option.text, negated, &kind.text.to_ascii_uppercase())
    });
    let usual = || grammar::cure(grammar::NOT_HAD_MODULES, "addrtype").map(str::to_owned);
    let cure = cure.or_else(usual).unwrap_or_default();
    let message = format!("match {} is not had here; {cure}", quoted(&name.text));
    Fault::new(name.place, message)
}

/// The module that has this option.
fn module_with(option: &str) -> Option<&'static str> {
    let has = |module: Module| named(module.options(), option).is_some();
    let found = Module::NAMED.iter().find(|(_, module)| has(*module));
    found.map(|(name, _)| *name)
}

fn misplaced(word: &Word) -> String {
    if word.is("!") {
        "`!` stands twice; write it once, before the option".to_owned()
    } else if !word.quoted && word.text.starts_with('#') {
        "a comment must begin its line; after a rule write -m comment --comment \"...\"".to_owned()
    } else {
        format!(
            "{} stands where an option should be, such as -p, -s, -d, --dport or -j",
            quoted(&word.text)
        )
    }
}
