//! The targets of table nat.

use std::net::Ipv4Addr;

use wire::Protocol;

use super::{Kind, Target, needs};
use crate::error::{Fault, Parsed, quoted};
use crate::lexer::Word;
use crate::option::{OptSpec, Options, flag, plain};
use crate::place::Place;
use crate::value;

const RANDOM: OptSpec = flag(&["--random"]);
const FULLY: OptSpec = flag(&["--random-fully"]);
const PERSISTENT: OptSpec = flag(&["--persistent"]);
const TO_PORTS: OptSpec = plain(
    &["--to-ports", "--to-port"],
    "a port or a range, as in 8000-8080",
);

pub(super) const SNAT: &[OptSpec] = &[
    plain(
        &["--to-source", "--to"],
        "an address, as in 203.0.113.1, 203.0.113.1-203.0.113.9 or 203.0.113.1:1024-65535",
    ),
    RANDOM,
    FULLY,
    PERSISTENT,
];
pub(super) const DNAT: &[OptSpec] = &[
    plain(
        &["--to-destination", "--to"],
        "an address, as in 10.0.0.1, 10.0.0.1-10.0.0.9 or 10.0.0.1:80",
    ),
    RANDOM,
    PERSISTENT,
];
pub(super) const MASQUERADE: &[OptSpec] = &[TO_PORTS, RANDOM, FULLY];
pub(super) const REDIRECT: &[OptSpec] = &[TO_PORTS, RANDOM];
pub(super) const NETMAP: &[OptSpec] = &[plain(&["--to"], "a network, as in 10.0.0.0/24")];

/// Where SNAT and DNAT translate to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NatRange {
    /// The addresses, from the first to the last; none keeps the packet's.
    pub addrs: Option<(Ipv4Addr, Ipv4Addr)>,
    /// The ports, from the first to the last; none keeps the packet's where it can.
    pub ports: Option<(u16, u16)>,
    /// The port that the first of `ports` stands for.
    pub base: Option<u16>,
    /// `--random`
    pub random: bool,
    /// `--random-fully`
    pub fully: bool,
    /// `--persistent`
    pub persistent: bool,
}

/// How MASQUERADE and REDIRECT choose a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Masquerade {
    /// The ports, from the first to the last; none keeps the packet's where it can.
    pub ports: Option<(u16, u16)>,
    /// `--random`
    pub random: bool,
    /// `--random-fully`
    pub fully: bool,
}

pub(super) fn snat(
    options: &Options<'_>,
    place: Place,
    protocol: Option<Protocol>,
) -> Parsed<Target> {
    let given = options.get("--to-source").ok_or_else(|| {
        let what = "an address, as in --to-source 203.0.113.1";
        needs(Kind::Snat, place, what)
    })?;
    let range = range(given.value(), options, protocol, false)?;
    Ok(Target::Snat(range))
}

pub(super) fn dnat(
    options: &Options<'_>,
    place: Place,
    protocol: Option<Protocol>,
) -> Parsed<Target> {
    let given = options.get("--to-destination").ok_or_else(|| {
        let what = "an address, as in --to-destination 10.0.0.1";
        needs(Kind::Dnat, place, what)
    })?;
    let range = range(given.value(), options, protocol, true)?;
    Ok(Target::Dnat(range))
}

/// `[address[-address]][:port[-port[/base]]]`; only a destination may have a base.
fn range(
    word: &Word,
    options: &Options<'_>,
    protocol: Option<Protocol>,
    has_base: bool,
) -> Parsed<NatRange> {
    let text = word.text.as_str();
    let (addrs, ports) = match text.split_once(':') {
        Some((addrs, ports)) => (addrs, Some(ports)),
        None => (text, None),
    };
    let addrs = if addrs.is_empty() && ports.is_some() {
        None
    } else {
        Some(value::address_range(addrs, word.place)?)
    };
    let (ports, base) = match ports.and_then(|ports| ports.split_once('/')) {
        Some((ports, base)) if has_base && ports.contains('-') => {
            (Some(ports), Some(value::port(base, word.place)?))
        }
        _ => (ports, None),
    };
    let ports = ports
        .map(|ports| port_range(ports, word.place, protocol))
        .transpose()?;
    Ok(NatRange {
        addrs,
        ports,
        base,
        random: options.has("--random"),
        fully: options.has("--random-fully"),
        persistent: options.has("--persistent"),
    })
}

pub(super) fn to_ports(options: &Options<'_>, protocol: Option<Protocol>) -> Parsed<Masquerade> {
    let given = options.get("--to-ports");
    let ports = given.map(|given| {
        let word = given.value();
        port_range(&word.text, word.place, protocol)
    });
    Ok(Masquerade {
        ports: ports.transpose()?,
        random: options.has("--random"),
        fully: options.has("--random-fully"),
    })
}

fn port_range(text: &str, place: Place, protocol: Option<Protocol>) -> Parsed<(u16, u16)> {
    if !matches!(protocol, Some(Protocol::TCP | Protocol::UDP)) {
        let message = "a port needs -p tcp or -p udp in the same rule";
        return Err(Fault::new(place, message));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (value::port(first, place)?, value::port(last, place)?);
    let message = if first > last {
        format!(
            "the range {} runs backwards; write {last}-{first}",
            quoted(text)
        )
    } else if first == 0 {
        "port 0 is no port to translate to; write 1 to 65535".to_owned()
    } else {
        return Ok((first, last));
    };
    Err(Fault::new(place, message))
}

pub(super) fn netmap(options: &Options<'_>, place: Place) -> Parsed<Target> {
    let given = options
        .get("--to")
        .ok_or_else(|| needs(Kind::Netmap, place, "a network, as in --to 10.0.0.0/24"))?;
    let word = given.value();
    let network = value::network(&word.text, word.place)?;
    if network.prefix_bits().is_none() {
        let message = format!(
            "{} is no network of neighbours; write a mask without gaps",
            quoted(&word.text)
        );
        return Err(Fault::new(word.place, message));
    }
    Ok(Target::Netmap(network))
}
