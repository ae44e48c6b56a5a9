//! The companion file of sets: the text that `ipset save` writes.

use std::collections::HashMap;
use std::sync::Arc;

use policy::SetEntries;

use crate::error::{Fault, Parsed, RuleError, did_you_mean, did_you_mean_or, quoted};
use crate::lexer::{Word, words};
use crate::place::Place;
use crate::value::{self, number};

mod entry;

/// How many entries all sets of a file may hold, those that ranges stand for included.
const MAX_ENTRIES: usize = 1 << 20;

/// Sets of addresses, networks and ports, by their names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sets {
    sets: HashMap<String, SetEntries>,
}

impl Sets {
    /// Reads a text as `ipset save` writes it.
    ///
    /// # Errors
    /// The first thing that is wrong with the text.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, RuleError> {
        let file: Arc<str> = file_name.into();
        let mut reader = Reader::default();
        reader.text(text).map_err(|fault| fault.error(&file))?;
        Ok(Self { sets: reader.sets })
    }

    /// The set with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&SetEntries> {
        self.sets.get(name)
    }

    /// Their names, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sets.keys().map(String::as_str)
    }
}

#[derive(Default)]
struct Reader {
    sets: HashMap<String, SetEntries>,
    created: HashMap<String, u32>,
    /// The ranges of sets of ports that have one.
    ranges: HashMap<String, (u16, u16)>,
    entries: usize,
}

/// The kinds of sets that are had.
const KINDS: [&str; 5] = [
    "hash:ip",
    "hash:net",
    "hash:ip,port",
    "hash:net,port",
    "bitmap:port",
];

/// ipset's kinds that are not.
const NOT_HAD_KINDS: [&str; 10] = [
    "bitmap:ip",
    "bitmap:ip,mac",
    "hash:mac",
    "hash:ip,mac",
    "hash:ip,mark",
    "hash:net,net",
    "hash:ip,port,ip",
    "hash:ip,port,net",
    "hash:net,iface",
    "list:set",
];

const COMMANDS: [&str; 2] = ["create", "add"];

/// ipset's commands that a file of sets has no use for.
const OTHER_COMMANDS: [&str; 9] = [
    "del", "test", "destroy", "flush", "list", "save", "restore", "rename", "swap",
];

impl Reader {
    fn text(&mut self, text: &str) -> Parsed<()> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, line) in (1..).zip(text.split('\n')) {
            let line = line.strip_suffix('\r').unwrap_or(line);
            if !line.trim_start_matches([' ', '\t']).starts_with('#') {
                self.line(&words(line, number)?)?;
            }
        }
        Ok(())
    }

    fn line(&mut self, words: &[Word]) -> Parsed<()> {
        let Some((command, rest)) = words.split_first() else {
            return Ok(());
        };
        match command.text.as_str() {
            "create" | "-N" | "--create" => self.create(command.place, rest),
            "add" | "-A" | "--add" => self.add(command.place, rest),
            other => {
                let message = if OTHER_COMMANDS.contains(&other) {
                    format!(
                        "{} has no place in a file of sets; it has lines of create and add",
                        quoted(other)
                    )
                } else {
                    let cure = "a line begins with create or add";
                    let cure = did_you_mean_or(other, COMMANDS, cure);
                    format!("unknown command {}{cure}", quoted(other))
                };
                Err(Fault::new(command.place, message))
            }
        }
    }

    /// `create NAME KIND options`
    fn create(&mut self, place: Place, words: &[Word]) -> Parsed<()> {
        let [name, kind, options @ ..] = words else {
            let message = "a set is created with a name and a kind, as in create clients hash:ip";
            return Err(Fault::new(place, message));
        };
        let set = value::set_name(name)?;
        let mut entries = empty(kind)?;
        let range = create_options(&mut entries, options)?;
        if let Some(earlier) = self.created.insert(set.clone(), name.place.line) {
            let message = format!(
                "set {} is created twice, first in line {earlier}",
                quoted(&set)
            );
            return Err(Fault::new(name.place, message));
        }
        self.ranges.extend(range.map(|range| (set.clone(), range)));
        self.sets.insert(set, entries);
        Ok(())
    }

    /// `add NAME ENTRY options`
    fn add(&mut self, place: Place, words: &[Word]) -> Parsed<()> {
        let [name, entry, options @ ..] = words else {
            let message = "an entry is added with the set's name, as in add clients 10.0.0.1";
            return Err(Fault::new(place, message));
        };
        let nomatch = add_options(options)?;
        let Some(entries) = self.sets.get_mut(&name.text) else {
            let near = did_you_mean(&name.text, self.sets.keys().map(String::as_str));
            let message = format!(
                "set {} is not created before its first entry{near}",
                quoted(&name.text)
            );
            return Err(Fault::new(name.place, message));
        };
        if nomatch
            && !matches!(
                entries,
                SetEntries::Networks(_) | SetEntries::NetworkPorts(_)
            )
        {
            let message = "nomatch is for sets of networks; remove it";
            return Err(Fault::new(place, message));
        }
        let bounds = self.ranges.get(&name.text).copied();
        let added = entry::add(entries, bounds.unwrap_or((0, u16::MAX)), entry, nomatch)?;
        self.entries = self.entries.saturating_add(added);
        if self.entries > MAX_ENTRIES {
            let message = format!("the sets hold more than {MAX_ENTRIES} entries; use networks");
            return Err(Fault::new(entry.place, message));
        }
        Ok(())
    }
}

fn empty(kind: &Word) -> Parsed<SetEntries> {
    Ok(match kind.text.as_str() {
        "hash:ip" => SetEntries::Addresses {
            bits: 32,
            entries: Vec::new(),
        },
        "hash:net" => SetEntries::Networks(Vec::new()),
        "hash:ip,port" => SetEntries::AddressPorts(Vec::new()),
        "hash:net,port" => SetEntries::NetworkPorts(Vec::new()),
        "bitmap:port" => SetEntries::Ports(Vec::new()),
        other => {
            let list = KINDS.join(", ");
            let message = if NOT_HAD_KINDS.contains(&other) {
                format!(
                    "sets of kind {} are not had here; there are {list}",
                    quoted(other)
                )
            } else {
                let cure = did_you_mean_or(other, KINDS, &format!("there are {list}"));
                format!("unknown kind of set {}{cure}", quoted(other))
            };
            return Err(Fault::new(kind.place, message));
        }
    })
}

fn value<'a>(name: &Word, words: &mut impl Iterator<Item = &'a Word>) -> Parsed<&'a Word> {
    words.next().ok_or_else(|| {
        let message = format!("{} needs a value", quoted(&name.text));
        Fault::new(name.place, message)
    })
}

fn whole(name: &Word, word: &Word) -> Parsed<u64> {
    let hex = word.text.strip_prefix("0x");
    let whole = match hex {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => number(&word.text),
    };
    whole.ok_or_else(|| {
        let message = format!(
            "{} needs a number, not {}",
            quoted(&name.text),
            quoted(&word.text)
        );
        Fault::new(word.place, message)
    })
}

/// A time after which entries go: none, since here they would stay for ever.
fn timeout(name: &Word, word: &Word, cure: &str) -> Parsed<()> {
    if whole(name, word)? == 0 {
        return Ok(());
    }
    let message = format!(
        "timeout {} is not had here: an entry stays until the sets are loaded again; {cure}",
        quoted(&word.text)
    );
    Err(Fault::new(word.place, message))
}

/// The range of a set of ports, if it has one.
fn create_options(entries: &mut SetEntries, options: &[Word]) -> Parsed<Option<(u16, u16)>> {
    let known = [
        "family",
        "hashsize",
        "maxelem",
        "bucketsize",
        "initval",
        "timeout",
        "comment",
        "counters",
        "skbinfo",
        "forceadd",
        "netmask",
        "range",
    ];
    let mut range = None;
    let mut words = options.iter();
    while let Some(name) = words.next() {
        match name.text.as_str() {
            "comment" | "counters" | "skbinfo" | "forceadd" => {}
            "hashsize" | "maxelem" | "bucketsize" | "initval" => {
                whole(name, value(name, &mut words)?)?;
            }
            "timeout" => {
                let cure = "write timeout 0, and leave out entries that are to go";
                timeout(name, value(name, &mut words)?, cure)?;
            }
            "family" => {
                let family = value(name, &mut words)?;
                if family.text != "inet" && family.text != "ipv4" {
                    let message = format!(
                        "family {} is not had here; sets are for IPv4, write family inet",
                        quoted(&family.text)
                    );
                    return Err(Fault::new(family.place, message));
                }
            }
            "netmask" => netmask(entries, name, value(name, &mut words)?)?,
            "range" if matches!(entries, SetEntries::Ports(_)) => {
                range = Some(entry::ports(value(name, &mut words)?)?);
            }
            other => {
                let cure = did_you_mean_or(other, known, "remove it");
                let message = format!("unknown option {}{cure}", quoted(other));
                return Err(Fault::new(name.place, message));
            }
        }
    }
    Ok(range)
}

fn netmask(entries: &mut SetEntries, name: &Word, mask: &Word) -> Parsed<()> {
    let SetEntries::Addresses { bits, .. } = entries else {
        let message = "netmask is for sets of kind hash:ip; remove it";
        return Err(Fault::new(name.place, message));
    };
    *bits = number(&mask.text)
        .filter(|bits| (1..=32).contains(bits))
        .ok_or_else(|| {
            let message = format!(
                "{} is not a netmask; write 1 to 32 bits",
                quoted(&mask.text)
            );
            Fault::new(mask.place, message)
        })?;
    Ok(())
}

/// Whether the entry is an exception.
fn add_options(options: &[Word]) -> Parsed<bool> {
    let known = [
        "timeout", "comment", "nomatch", "packets", "bytes", "skbmark", "skbprio", "skbqueue",
        "-exist",
    ];
    let mut nomatch = false;
    let mut words = options.iter();
    while let Some(name) = words.next() {
        match name.text.as_str() {
            "nomatch" => nomatch = true,
            "-exist" | "-!" => {}
            "packets" | "bytes" => {
                whole(name, value(name, &mut words)?)?;
            }
            "timeout" => {
                let cure = "leave such entries out, or write timeout 0 for one that is to stay";
                timeout(name, value(name, &mut words)?, cure)?;
            }
            "comment" | "skbmark" | "skbprio" | "skbqueue" => {
                value(name, &mut words)?;
            }
            other => {
                let cure = did_you_mean_or(other, known, "remove it");
                let message = format!("unknown option {}{cure}", quoted(other));
                return Err(Fault::new(name.place, message));
            }
        }
    }
    Ok(nomatch)
}
