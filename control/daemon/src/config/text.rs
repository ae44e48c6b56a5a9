//! The configuration as it is written: keys and types, with the place of every value.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use toml::Spanned;

use super::error::Fault;
use super::{Established, Mode, OnExit, Proto};

const DAY: u64 = 86_400;
/// No flow needs to be idle for longer.
const LONGEST: u64 = 30 * DAY;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    pub runtime_dir: Option<Spanned<String>>,
    pub ruleset: Option<Spanned<String>>,
    pub workers: Option<Spanned<Vec<Spanned<i64>>>>,
    pub busy: bool,
    pub on_exit: OnExit,
    pub host_port: Option<Spanned<String>>,
    pub port: Vec<Spanned<PortTable>>,
    pub zone: BTreeMap<String, ZoneTable>,
    pub service: BTreeMap<String, ServiceTable>,
    pub rules: RulesTable,
    pub management: Vec<Spanned<ManagementTable>>,
    pub grant: Vec<Spanned<GrantTable>>,
    pub limits: LimitsTable,
    pub timeouts: TimeoutsTable,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortTable {
    pub interface: Spanned<String>,
    pub zone: Option<Spanned<String>>,
    #[serde(default)]
    pub mode: Mode,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ZoneTable {
    pub networks: Vec<Spanned<String>>,
    pub interfaces: Vec<Spanned<String>>,
    pub parent: Option<Spanned<String>>,
    pub inbound_services: Option<Vec<Spanned<String>>>,
    pub outbound_services: Option<Vec<Spanned<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceTable {
    pub proxy: Spanned<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RulesTable {
    pub established: Established,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagementTable {
    pub zone: Option<Spanned<String>>,
    pub networks: Option<Spanned<Vec<Spanned<String>>>>,
    pub proto: Proto,
    pub port: Spanned<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantTable {
    pub user: Option<Spanned<NameOrNumber>>,
    pub group: Option<Spanned<NameOrNumber>>,
    pub foreign: Spanned<Vec<Spanned<String>>>,
}

/// A user or group as an administrator writes it.
#[derive(Clone, Debug)]
pub enum NameOrNumber {
    Name(String),
    Number(u32),
}

impl<'de> Deserialize<'de> for NameOrNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = NameOrNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a number")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<NameOrNumber, E> {
                // The greatest of all means "nobody" to the kernel.
                let known = u32::try_from(number).ok().filter(|n| *n != u32::MAX);
                let known = known.ok_or_else(|| {
                    E::custom(format!("{number} is no number of a user or group"))
                })?;
                Ok(NameOrNumber::Number(known))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<NameOrNumber, E> {
                Ok(NameOrNumber::Name(name.to_owned()))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsTable {
    pub flows: Option<Spanned<i64>>,
    pub registrations: Option<Spanned<i64>>,
    pub frames_per_worker: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutsTable {
    pub tcp_established: Option<Idle>,
    pub tcp_handshake: Option<Idle>,
    pub tcp_transitory: Option<Idle>,
    pub tcp_closed: Option<Idle>,
    pub udp: Option<Idle>,
}

/// A time: seconds, or a string with a unit.
#[derive(Clone, Copy, Debug)]
pub struct Idle(pub Duration);

impl<'de> Deserialize<'de> for Idle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Idle;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as 300 (seconds) or \"5m\" (units s m h d)")
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Idle, E> {
                idle(u64::try_from(seconds).ok()).ok_or_else(|| out_of_range(seconds))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Idle, E> {
                let (number, unit) = match text.char_indices().next_back() {
                    Some((at, 's')) => (&text[..at], 1),
                    Some((at, 'm')) => (&text[..at], 60),
                    Some((at, 'h')) => (&text[..at], 3600),
                    Some((at, 'd')) => (&text[..at], DAY),
                    _ => return Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                };
                if number.is_empty() || !number.bytes().all(|digit| digit.is_ascii_digit()) {
                    return Err(E::invalid_value(de::Unexpected::Str(text), &self));
                }
                let seconds = number.parse().ok().and_then(|n: u64| n.checked_mul(unit));
                idle(seconds).ok_or_else(|| out_of_range(text))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

fn idle(seconds: Option<u64>) -> Option<Idle> {
    seconds
        .filter(|seconds| (1..=LONGEST).contains(seconds))
        .map(|seconds| Idle(Duration::from_secs(seconds)))
}

fn out_of_range<E: de::Error>(given: impl fmt::Display) -> E {
    E::custom(format!("{given} is not between 1s and 30d"))
}

/// Reads keys and types.
pub fn parse(text: &str) -> Result<ConfigFile, Fault> {
    toml::from_str(text).map_err(|error| {
        let span = error.span();
        let message = plain(error.message(), key_at(text, span.as_ref()));
        match span {
            Some(span) => Fault::new(span, message),
            None => Fault::nowhere(message),
        }
    })
}

/// The key of the line that a value stands in.
fn key_at<'a>(text: &'a str, span: Option<&Range<usize>>) -> Option<&'a str> {
    let before = text.get(..span?.start)?;
    let line = &before[before.rfind('\n').map_or(0, |newline| newline + 1)..];
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    (!key.is_empty() && !key.starts_with(['#', '['])).then_some(key)
}

/// The parser's message as an administrator would say it.
fn plain(message: &str, key: Option<&str>) -> String {
    if let Some(rest) = message.strip_prefix("unknown field ") {
        return unknown(rest);
    }
    if let Some(field) = message.strip_prefix("missing field ") {
        return format!("{} is missing here", field.trim_matches('`'));
    }
    let said = if let Some(rest) = message.strip_prefix("unknown variant ") {
        rest.replacen(", expected", " is not known; use", 1)
    } else if let Some(rest) = message.strip_prefix("invalid type: ") {
        wrong_type(rest)
    } else if let Some(rest) = message.strip_prefix("invalid value: ") {
        wrong_type(rest)
    } else {
        message.replacen(", expected", "; expected", 1)
    };
    let said = said.replace('`', "'");
    match key {
        Some(key) => format!("{key}: {said}"),
        None => said,
    }
}

/// From "integer `3`, expected a string".
fn wrong_type(rest: &str) -> String {
    let (given, needed) = rest
        .rsplit_once(", expected ")
        .unwrap_or((rest, "something else"));
    match needed {
        "a sequence" if given == "map" => {
            "one table where a list is needed; write its name in two brackets: [[NAME]]".to_owned()
        }
        "a sequence" => format!("{given} where a list [...] is needed"),
        "i64" => {
            let given = given
                .trim_end_matches(" as i128")
                .trim_end_matches(" as u64");
            format!("{given} where a whole number is needed")
        }
        _ if needed.starts_with("struct ") => format!("{given} where a table is needed"),
        _ => format!("{given} where {needed} is needed"),
    }
}

/// From "`naem`, expected one of `name`, `size`".
fn unknown(rest: &str) -> String {
    let (name, known) = rest.rsplit_once(", expected").unwrap_or((rest, ""));
    let name = name.trim_matches('`');
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    let hint = match host::nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("known here: {}", known.join(", ")),
    };
    format!("unknown key {name}; {hint}")
}
