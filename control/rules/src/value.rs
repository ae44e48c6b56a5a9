//! The values of options that several modules share.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use policy::{Network, PortRange, WIDEST};
use wire::Protocol;

use crate::error::{Fault, Parsed, did_you_mean_or, is_printable, quoted};
use crate::grammar;
use crate::lexer::Word;
use crate::model::{Counters, InterfacePattern};
use crate::names;
use crate::place::{Place, Placed};

/// Digits only: no sign, no spaces, and no leading zero, which some programs read as octal.
pub(crate) fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let plain =
        text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

pub(crate) fn address(text: &str, place: Place) -> Parsed<Ipv4Addr> {
    dotted(text)
        .and_then(|(addr, octets)| (octets == 4).then_some(addr))
        .ok_or_else(|| not_an_address(text, place))
}

/// One to four octets; missing ones are 0.
fn dotted(text: &str) -> Option<(Ipv4Addr, usize)> {
    let mut octets = [0u8; 4];
    let mut count = 0;
    for part in text.split('.') {
        *octets.get_mut(count)? = number(part)?;
        count += 1;
    }
    Some((octets.into(), count))
}

fn not_an_address(text: &str, place: Place) -> Fault {
    let message = if text.is_empty() {
        "an address is missing here, as in 192.168.1.1".to_owned()
    } else if text.contains(':') {
        format!(
            "{} is an IPv6 address; rules here are for IPv4",
            quoted(text)
        )
    } else if text.contains(|c: char| c.is_ascii_alphabetic()) {
        format!(
            "{} is not an IPv4 address; names are not looked up, write the number as in 192.168.1.1",
            quoted(text)
        )
    } else {
        format!(
            "{} is not an IPv4 address; write four numbers of 0 to 255, as in 192.168.1.1",
            quoted(text)
        )
    };
    Fault::new(place, message)
}

pub(crate) fn network(text: &str, place: Place) -> Parsed<Network> {
    let Some((addr, mask)) = text.split_once('/') else {
        return address(text, place).map(|addr| Network::new(addr, Ipv4Addr::BROADCAST));
    };
    let (base, _) = dotted(addr).ok_or_else(|| not_an_address(addr, place))?;
    let bad_mask = || {
        let column = place
            .column
            .saturating_add(u32::try_from(addr.chars().count() + 1).unwrap_or(u32::MAX));
        let place = Place { column, ..place };
        Fault::new(
            place,
            format!(
                "{} is not a mask; write 0 to 32 bits, or four numbers as in 255.255.255.0",
                quoted(mask)
            ),
        )
    };
    let mask = match number::<u32>(mask) {
        Some(bits @ 0..=32) => Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - bits).unwrap_or(0)),
        Some(_) => return Err(bad_mask()),
        None => {
            dotted(mask)
                .filter(|(_, octets)| *octets == 4)
                .ok_or_else(bad_mask)?
                .0
        }
    };
    Ok(Network::new(base, mask))
}

/// Networks parted by commas, each with its own place.
pub(crate) fn networks(word: &Word) -> Parsed<Vec<Placed<Network>>> {
    let mut column = word.place.column;
    word.text
        .split(',')
        .map(|text| {
            let place = Place {
                column,
                ..word.place
            };
            column =
                column.saturating_add(u32::try_from(text.chars().count() + 1).unwrap_or(u32::MAX));
            network(text, place).map(|network| Placed::new(network, place))
        })
        .collect()
}

pub(crate) fn port(text: &str, place: Place) -> Parsed<u16> {
    number(text)
        .or_else(|| names::service(text))
        .ok_or_else(|| {
            let message = if text.contains(',') {
                format!(
                    "{} is a list; write -m multiport --dports for it, or one rule for each port",
                    quoted(text)
                )
            } else if text.starts_with(|c: char| c.is_ascii_alphabetic()) {
                format!(
                    "{} is no service that is known here; write the port's number",
                    quoted(text)
                )
            } else if text.contains('-') {
                format!(
                    "{} is not a port; a range is written with a colon, as in 8000:8080",
                    quoted(text)
                )
            } else {
                format!(
                    "{} is not a port; write a number of 0 to 65535, or a range as in 8000:8080",
                    quoted(text)
                )
            };
            Fault::new(place, message)
        })
}

pub(crate) fn ports(word: &Word) -> Parsed<PortRange> {
    port_range(&word.text, word.place)
}

fn port_range(text: &str, place: Place) -> Parsed<PortRange> {
    let Some((first, last)) = text.split_once(':') else {
        return port(text, place).map(|port| PortRange::new(port, port));
    };
    let end = |text: &str, open: u16| {
        if text.is_empty() {
            Ok(open)
        } else {
            port(text, place)
        }
    };
    let (first, last) = (end(first, WIDEST.first())?, end(last, WIDEST.last())?);
    if first > last {
        let message = format!(
            "the range {} runs backwards; write {last}:{first}",
            quoted(text)
        );
        return Err(Fault::new(place, message));
    }
    Ok(PortRange::new(first, last))
}

/// The protocol; none for all of them.
pub(crate) fn protocol(word: &Word) -> Parsed<Option<Protocol>> {
    let name = word.text.to_ascii_lowercase();
    let named = names::protocol(&name);
    let number = named.or_else(|| number(&name)).ok_or_else(|| {
        let cure = did_you_mean_or(
            &name,
            names::COMMON_PROTOCOLS,
            "write tcp, udp, icmp, all or a number of 0 to 255",
        );
        Fault::new(
            word.place,
            format!("unknown protocol {}{cure}", quoted(&word.text)),
        )
    })?;
    Ok((number != 0).then_some(Protocol(number)))
}

pub(crate) fn interface(word: &Word) -> Parsed<InterfacePattern> {
    let (name, prefix) = match word.text.strip_suffix('+') {
        Some(name) => (name, true),
        None => (word.text.as_str(), false),
    };
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '!');
    let message = if word.text.is_empty() {
        "an interface name must not be empty".to_owned()
    } else if name.contains(odd) {
        format!("{} is not an interface name", quoted(name))
    } else if name.len() > grammar::INTERFACE_NAME_BYTES {
        format!(
            "the interface name {} is longer than {} characters",
            quoted(name),
            grammar::INTERFACE_NAME_BYTES
        )
    } else {
        return Ok(InterfacePattern {
            name: name.to_owned(),
            prefix,
        });
    };
    Err(Fault::new(word.place, message))
}

/// The port of a proxy; none for 0, which keeps the packet's.
pub(crate) fn on_port(word: &Word) -> Parsed<Option<NonZeroU16>> {
    if word.text.contains(':') {
        let message = format!(
            "--on-port takes one port, not the range {}",
            quoted(&word.text)
        );
        return Err(Fault::new(word.place, message));
    }
    port(&word.text, word.place).map(NonZeroU16::new)
}

/// The address of a proxy; none for 0.0.0.0, which stands for the ingress interface's.
pub(crate) fn on_ip(word: &Word) -> Parsed<Option<Ipv4Addr>> {
    let addr = address(&word.text, word.place)?;
    let message = if addr.is_multicast()
        || addr.is_broadcast()
        || (addr.to_bits() >> 24 == 0 && !addr.is_unspecified())
    {
        format!(
            "--on-ip {addr} is no address that a proxy can listen on; use one of this machine's interfaces"
        )
    } else {
        return Ok((!addr.is_unspecified()).then_some(addr));
    };
    Err(Fault::new(word.place, message))
}

/// One address, or two with a dash.
pub(crate) fn address_range(text: &str, place: Place) -> Parsed<(Ipv4Addr, Ipv4Addr)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (address(first, place)?, address(last, place)?);
    if first > last {
        let message = format!(
            "the range {} runs backwards; write {last}-{first}",
            quoted(text)
        );
        return Err(Fault::new(place, message));
    }
    Ok((first, last))
}

/// The most ports of a list, as in iptables; a range counts as two.
const MOST_PORTS: usize = 15;

/// Ports and ranges parted by commas.
pub(crate) fn port_list(word: &Word) -> Parsed<Vec<PortRange>> {
    let mut ranges = Vec::new();
    let mut count = 0;
    for text in word.text.split(',') {
        let range = port_range(text, word.place)?;
        count += if range.first() == range.last() { 1 } else { 2 };
        ranges.push(range);
    }
    if count > MOST_PORTS {
        let message = format!(
            "a list has at most {MOST_PORTS} ports, and a range counts as two; write another rule for the rest"
        );
        return Err(Fault::new(word.place, message));
    }
    Ok(ranges)
}

/// A number of 32 bits, decimal or after `0x`.
fn wide(text: &str) -> Option<u32> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match hex {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None => number(text),
    }
}

/// Bits of a mark.
pub(crate) fn bits(word: &Word) -> Parsed<u32> {
    wide(&word.text).ok_or_else(|| not_a_mark(word))
}

/// A mark, and the mask behind a slash or a full one.
pub(crate) fn masked(word: &Word) -> Parsed<(u32, u32)> {
    let both = match word.text.split_once('/') {
        None => wide(&word.text).map(|value| (value, u32::MAX)),
        Some((value, mask)) => wide(value).zip(wide(mask)),
    };
    both.ok_or_else(|| not_a_mark(word))
}

fn not_a_mark(word: &Word) -> Fault {
    let message = format!(
        "{} is not a mark; write a number as in 1 or 0x1, and perhaps a mask as in 0x1/0xff",
        quoted(&word.text)
    );
    Fault::new(word.place, message)
}

/// The longest name of a set, in bytes, as in ipset.
const SET_NAME_BYTES: usize = 31;

/// The name of a set.
pub(crate) fn set_name(word: &Word) -> Parsed<String> {
    let odd = |c: char| c.is_whitespace() || !is_printable(c);
    let message = if word.text.is_empty() || word.text.contains(odd) {
        format!("{} cannot be the name of a set", quoted(&word.text))
    } else if word.text.len() > SET_NAME_BYTES {
        format!(
            "the name of the set {} is longer than {SET_NAME_BYTES} bytes",
            quoted(&word.text)
        )
    } else {
        return Ok(word.text.clone());
    };
    Err(Fault::new(word.place, message))
}

/// `[packets:bytes]`
pub(crate) fn counters(word: &Word) -> Parsed<Counters> {
    let inner = word
        .text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let both = inner
        .and_then(|text| text.split_once(':'))
        .and_then(|(p, b)| Some((number(p)?, number(b)?)));
    both.map(|(packets, bytes)| Counters { packets, bytes })
        .ok_or_else(|| {
            let message = format!(
                "{} is not a pair of counters; write [packets:bytes], as in [0:0]",
                quoted(&word.text)
            );
            Fault::new(word.place, message)
        })
}
