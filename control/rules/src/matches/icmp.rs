//! `-m icmp`: types and codes, by number and by name.

use super::{Test, Tests};
use crate::error::{Fault, Parsed, did_you_mean_or, quoted};
use crate::lexer::Word;
use crate::option::{OptSpec, Options, tested};
use crate::value::number;

pub(super) const TYPE: OptSpec = tested(
    &["--icmp-type"],
    "a type, as in echo-request, 8, 3/4 or any",
);
pub(super) const OPTIONS: &[OptSpec] = &[TYPE];

/// Which ICMP messages are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpType {
    /// All of them.
    Any,
    /// Those of one type, with one code or with any.
    Of {
        /// The type.
        kind: u8,
        /// The code; none for any.
        code: Option<u8>,
    },
}

const NAMES: &[(&str, u8, Option<u8>)] = &[
    ("echo-reply", 0, None),
    ("pong", 0, None),
    ("destination-unreachable", 3, None),
    ("network-unreachable", 3, Some(0)),
    ("host-unreachable", 3, Some(1)),
    ("protocol-unreachable", 3, Some(2)),
    ("port-unreachable", 3, Some(3)),
    ("fragmentation-needed", 3, Some(4)),
    ("source-route-failed", 3, Some(5)),
    ("network-unknown", 3, Some(6)),
    ("host-unknown", 3, Some(7)),
    ("network-prohibited", 3, Some(9)),
    ("host-prohibited", 3, Some(10)),
    ("tos-network-unreachable", 3, Some(11)),
    ("tos-host-unreachable", 3, Some(12)),
    ("communication-prohibited", 3, Some(13)),
    ("host-precedence-violation", 3, Some(14)),
    ("precedence-cutoff", 3, Some(15)),
    ("source-quench", 4, None),
    ("redirect", 5, None),
    ("network-redirect", 5, Some(0)),
    ("host-redirect", 5, Some(1)),
    ("tos-network-redirect", 5, Some(2)),
    ("tos-host-redirect", 5, Some(3)),
    ("echo-request", 8, None),
    ("ping", 8, None),
    ("router-advertisement", 9, None),
    ("router-solicitation", 10, None),
    ("time-exceeded", 11, None),
    ("ttl-exceeded", 11, None),
    ("ttl-zero-during-transit", 11, Some(0)),
    ("ttl-zero-during-reassembly", 11, Some(1)),
    ("parameter-problem", 12, None),
    ("ip-header-bad", 12, Some(0)),
    ("required-option-missing", 12, Some(1)),
    ("timestamp-request", 13, None),
    ("timestamp-reply", 14, None),
    ("address-mask-request", 17, None),
    ("address-mask-reply", 18, None),
];

pub(super) fn tests(options: &Options<'_>, tests: &mut Tests) -> Parsed<()> {
    if let Some(given) = options.get("--icmp-type") {
        tests.put(&given, Test::Icmp(icmp_type(given.value())?));
    }
    Ok(())
}

fn icmp_type(word: &Word) -> Parsed<IcmpType> {
    let text = word.text.to_ascii_lowercase();
    if text == "any" || text == "255" {
        return Ok(IcmpType::Any);
    }
    if let Some((_, kind, code)) = NAMES.iter().find(|(name, ..)| *name == text) {
        return Ok(IcmpType::Of {
            kind: *kind,
            code: *code,
        });
    }
    let numbers = match text.split_once('/') {
        None => number(&text).map(|kind| (kind, None)),
        Some((kind, code)) => number(kind)
            .zip(number(code))
            .map(|(kind, code)| (kind, Some(code))),
    };
    if let Some((kind, code)) = numbers.filter(|(kind, _)| *kind != u8::MAX) {
        return Ok(IcmpType::Of { kind, code });
    }
    let names = NAMES.iter().map(|(name, ..)| *name).chain(["any"]);
    let cure = did_you_mean_or(
        &text,
        names,
        "write a name as in echo-request, a number, or number/code as in 3/4",
    );
    let message = format!("unknown ICMP type {}{cure}", quoted(&word.text));
    Err(Fault::new(word.place, message))
}
