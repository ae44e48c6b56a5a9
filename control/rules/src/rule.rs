//! One `-A` line to rules. A line with lists of addresses stands for one rule per
//! combination, as in iptables.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use policy::{Network, PortRange};
use wire::Protocol;

use crate::error::{Fault, Parsed, did_you_mean, did_you_mean_or, quoted};
use crate::grammar::{self, Module, Opt, OptSpec};
use crate::lexer::Word;
use crate::model::{Counters, InterfacePattern, Rule};
use crate::place::{Place, Placed};
use crate::value;

/// The rules of one line, and what is odd about it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) rules: Vec<Placed<Rule>>,
    pub(crate) warning: Option<Fault>,
}

/// An option that was given, with `!` or without.
#[derive(Clone, Debug)]
pub(crate) struct Given<T> {
    pub(crate) value: T,
    pub(crate) negated: bool,
    /// Where its name stands.
    pub(crate) place: Place,
}

/// The options of a line, before they are held against each other.
#[derive(Default, Debug)]
pub(crate) struct Draft {
    pub(crate) sources: Option<Given<Vec<Placed<Network>>>>,
    pub(crate) destinations: Option<Given<Vec<Placed<Network>>>>,
    pub(crate) in_interface: Option<Given<InterfacePattern>>,
    pub(crate) protocol: Option<Given<Option<Protocol>>>,
    pub(crate) source_ports: Option<Given<PortRange>>,
    pub(crate) destination_ports: Option<Given<PortRange>>,
    pub(crate) modules: Vec<Placed<Module>>,
    pub(crate) comments: Vec<Placed<String>>,
    pub(crate) jump: Option<Given<String>>,
    pub(crate) on_port: Option<Given<Option<NonZeroU16>>>,
    pub(crate) on_ip: Option<Given<Option<Ipv4Addr>>>,
}

/// Reads what follows `-A CHAIN`. `declared` tells a chain from a target.
pub(crate) fn parse(
    place: Place,
    counters: Option<Counters>,
    words: &[Word],
    declared: impl Fn(&str) -> bool,
) -> Parsed<Line> {
    let mut draft = Draft::default();
    let mut words = words.iter();
    while let Some(first) = words.next() {
        let (before, name) = if first.is("!") {
            let message = "`!` must stand before an option, as in `! -d 192.168.1.1`";
            (
                true,
                words
                    .next()
                    .ok_or_else(|| Fault::new(first.place, message))?,
            )
        } else {
            (false, first)
        };
        let spec = option(name)?;
        if before && !spec.negatable {
            return Err(Fault::new(
                first.place,
                format!("{} cannot be negated; remove the `!`", quoted(&name.text)),
            ));
        }
        let wanted = || {
            Fault::new(
                name.place,
                format!("{} needs {}", quoted(&name.text), spec.wants),
            )
        };
        let mut value = words.next().ok_or_else(wanted)?;
        let after = spec.negatable && value.is("!");
        if after {
            if before {
                return Err(Fault::new(
                    value.place,
                    "`!` stands both before and after the option; write it once, before",
                ));
            }
            value = words.next().ok_or_else(wanted)?;
        }
        if !value.quoted && (value.text == "!" || grammar::option(&value.text).is_some()) {
            return Err(wanted());
        }
        draft.take(spec, name, value, before || after, &declared)?;
    }
    draft.finish(place, counters)
}

fn option(word: &Word) -> Parsed<&'static OptSpec> {
    let text = word.text.as_str();
    if let Some(spec) = grammar::option(text).filter(|_| !word.quoted) {
        return Ok(spec);
    }
    let message = if grammar::LATER_OPTIONS.contains(&text) {
        format!("option {} is not supported yet; remove it", quoted(text))
    } else if grammar::OTHER_COMMANDS.contains(&text) || grammar::APPEND.contains(&text) {
        format!(
            "{} cannot stand inside a rule; each line appends one rule with -A CHAIN",
            quoted(text)
        )
    } else if text.starts_with('-') {
        let known = grammar::OPTIONS
            .iter()
            .flat_map(|spec| spec.names.iter().copied());
        let bare = text.split('=').next().unwrap_or(text);
        format!(
            "unknown option {}{}",
            quoted(text),
            did_you_mean(bare, known)
        )
    } else if word.is("!") {
        "`!` stands twice; write it once, before the option".to_owned()
    } else if text.starts_with('#') {
        "a comment must begin its line; after a rule write -m comment --comment \"...\"".to_owned()
    } else {
        format!(
            "{} stands where an option should be, such as -p, -s, -d, --dport or -j",
            quoted(text)
        )
    };
    Err(Fault::new(word.place, message))
}

/// Fills a slot of the draft, once.
fn put<T>(slot: &mut Option<Given<T>>, name: &Word, negated: bool, value: T) -> Parsed<()> {
    if slot.is_some() {
        return Err(Fault::new(
            name.place,
            format!("{} is given twice in this rule", quoted(&name.text)),
        ));
    }
    *slot = Some(Given {
        value,
        negated,
        place: name.place,
    });
    Ok(())
}

impl Draft {
    fn take(
        &mut self,
        spec: &OptSpec,
        name: &Word,
        value: &Word,
        negated: bool,
        declared: impl Fn(&str) -> bool,
    ) -> Parsed<()> {
        match spec.opt {
            Opt::Source => put(&mut self.sources, name, negated, networks(value, negated)?),
            Opt::Destination => put(
                &mut self.destinations,
                name,
                negated,
                networks(value, negated)?,
            ),
            Opt::InInterface => put(
                &mut self.in_interface,
                name,
                negated,
                value::interface(value)?,
            ),
            Opt::Protocol => {
                let protocol = value::protocol(value)?;
                if negated && protocol.is_none() {
                    return Err(Fault::new(
                        value.place,
                        "a rule for no protocol at all never matches; remove it",
                    ));
                }
                put(&mut self.protocol, name, negated, protocol)
            }
            Opt::SourcePorts => put(&mut self.source_ports, name, negated, value::ports(value)?),
            Opt::DestinationPorts => put(
                &mut self.destination_ports,
                name,
                negated,
                value::ports(value)?,
            ),
            Opt::OnPort => put(&mut self.on_port, name, negated, value::on_port(value)?),
            Opt::OnIp => put(&mut self.on_ip, name, negated, value::on_ip(value)?),
            Opt::Jump => {
                put(&mut self.jump, name, negated, target(value, declared)?)?;
                // What is wrong with a target shows at its own name.
                self.jump
                    .iter_mut()
                    .for_each(|given| given.place = value.place);
                Ok(())
            }
            Opt::Module => {
                self.modules.push(Placed::new(module(value)?, name.place));
                Ok(())
            }
            Opt::Comment => {
                self.comments
                    .push(Placed::new(comment(value)?, value.place));
                Ok(())
            }
        }
    }
}

fn networks(word: &Word, negated: bool) -> Parsed<Vec<Placed<Network>>> {
    let list = value::networks(word)?;
    if negated && list.len() > 1 {
        let message = "`!` takes one address or network, not a list; write a chain with one RETURN rule for each";
        return Err(Fault::new(word.place, message));
    }
    Ok(list)
}

fn module(word: &Word) -> Parsed<Module> {
    let text = word.text.as_str();
    if let Some((_, module)) = grammar::MODULES.iter().find(|(name, _)| *name == text) {
        return Ok(*module);
    }
    let message = if grammar::LATER_MODULES.contains(&text) {
        format!("match {} is not supported yet; remove it", quoted(text))
    } else {
        let names = grammar::MODULES.iter().map(|(name, _)| *name);
        let cure = did_you_mean_or(text, names, "tcp, udp and comment are known");
        format!("unknown match {}{cure}", quoted(text))
    };
    Err(Fault::new(word.place, message))
}

fn comment(word: &Word) -> Parsed<String> {
    if word.text.len() > grammar::COMMENT_BYTES {
        let message = format!(
            "this comment is longer than {} bytes; shorten it",
            grammar::COMMENT_BYTES
        );
        return Err(Fault::new(word.place, message));
    }
    Ok(word.text.clone())
}

/// A target's or chain's name. Chains may be declared later; whether this one is shows at COMMIT.
fn target(word: &Word, declared: impl Fn(&str) -> bool) -> Parsed<String> {
    if grammar::LATER_TARGETS.contains(&word.text.as_str()) && !declared(&word.text) {
        return Err(Fault::new(
            word.place,
            format!(
                "target {} is not supported yet; remove it",
                quoted(&word.text)
            ),
        ));
    }
    Ok(word.text.clone())
}
