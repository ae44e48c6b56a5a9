//! One entry of a set: addresses, networks, protocols and ports.

use std::net::Ipv4Addr;

use policy::{NetworkEntry, PortEntry, SetEntries};
use wire::Protocol;

use crate::error::{Fault, Parsed, quoted};
use crate::lexer::Word;
use crate::names;
use crate::place::Place;
use crate::value::{self, number};

/// How many addresses one entry of a set of addresses may stand for.
const MAX_ADDRESSES: u64 = 1 << 16;

/// Adds what the word stands for; how much that was. A port must lie within the bounds.
pub(super) fn add(
    entries: &mut SetEntries,
    bounds: (u16, u16),
    word: &Word,
    nomatch: bool,
) -> Parsed<usize> {
    let (text, place) = (word.text.as_str(), word.place);
    match entries {
        SetEntries::Addresses { entries, .. } => {
            let (first, last) = bounded(text, place, 1)?;
            let before = entries.len();
            entries.extend((first..=last).map(Ipv4Addr::from_bits));
            Ok(entries.len() - before)
        }
        SetEntries::Networks(entries) => {
            let before = entries.len();
            entries.extend(networks(text, place, nomatch)?);
            Ok(entries.len() - before)
        }
        SetEntries::AddressPorts(entries) => {
            let (addrs, port) = parts(word)?;
            let ports = port_entries(port, place)?;
            let (first, last) = bounded(addrs, place, ports.len())?;
            let before = entries.len();
            for addr in (first..=last).map(Ipv4Addr::from_bits) {
                entries.extend(ports.iter().map(|port| (addr, *port)));
            }
            Ok(entries.len() - before)
        }
        SetEntries::NetworkPorts(entries) => {
            let (addrs, port) = parts(word)?;
            let ports = port_entries(port, place)?;
            let before = entries.len();
            for network in networks(addrs, place, nomatch)? {
                entries.extend(ports.iter().map(|port| (network, *port)));
            }
            Ok(entries.len() - before)
        }
        SetEntries::Ports(entries) => {
            // `ipset` takes a protocol here, and leaves it out of account.
            let (first, last) = ports(word)?;
            if first < bounds.0 || last > bounds.1 {
                let message = format!(
                    "{} is outside the set's range {}-{}; widen that, or leave the entry out",
                    quoted(text),
                    bounds.0,
                    bounds.1
                );
                return Err(Fault::new(place, message));
            }
            let before = entries.len();
            entries.extend(first..=last);
            Ok(entries.len() - before)
        }
    }
}

fn parts(word: &Word) -> Parsed<(&str, &str)> {
    word.text.split_once(',').ok_or_else(|| {
        let message = format!(
            "{} has one part; entries of this set have two, as in 10.0.0.1,tcp:80",
            quoted(&word.text)
        );
        Fault::new(word.place, message)
    })
}

/// The first and the last address of `a`, `a-b` or `a/bits`.
fn span(text: &str, place: Place) -> Parsed<(u32, u32)> {
    if text.contains('-') {
        let (first, last) = value::address_range(text, place)?;
        return Ok((first.to_bits(), last.to_bits()));
    }
    let network = value::network(text, place)?;
    if network.prefix_bits().is_none() {
        let message = format!("{} has a mask with gaps; sets have none", quoted(text));
        return Err(Fault::new(place, message));
    }
    let first = network.addr().to_bits();
    Ok((first, first | !network.mask().to_bits()))
}

/// The same, if not too many; each address counts so many times.
fn bounded(text: &str, place: Place, times: usize) -> Parsed<(u32, u32)> {
    let (first, last) = span(text, place)?;
    let count = (u64::from(last - first) + 1).saturating_mul(u64::try_from(times).unwrap_or(0));
    if count > MAX_ADDRESSES {
        let message = format!(
            "{} stands for more than {MAX_ADDRESSES} entries; use a set of networks",
            quoted(text)
        );
        return Err(Fault::new(place, message));
    }
    Ok((first, last))
}

/// The networks that make up `a`, `a/bits` or `a-b`, as few as there can be.
fn networks(text: &str, place: Place, nomatch: bool) -> Parsed<Vec<NetworkEntry>> {
    let (first, last) = span(text, place)?;
    let (mut next, end) = (u64::from(first), u64::from(last) + 1);
    let mut found = Vec::new();
    while next < end {
        // The largest power of two that `next` is aligned to and that does not go beyond the end.
        let aligned = next.trailing_zeros().min(32);
        let fits = (end - next).ilog2();
        let host = aligned.min(fits);
        found.push(NetworkEntry {
            addr: Ipv4Addr::from_bits(u32::try_from(next).unwrap_or(u32::MAX)),
            bits: u8::try_from(32 - host).unwrap_or(32),
            nomatch,
        });
        next += 1 << host;
    }
    Ok(found)
}

/// `port`, `first-last`, and perhaps a protocol and a colon before it.
fn port_entries(text: &str, place: Place) -> Parsed<Vec<PortEntry>> {
    let (proto, rest) = match text.split_once(':') {
        None => (Protocol::TCP, text),
        Some((proto, rest)) => (protocol(proto, place)?, rest),
    };
    if proto == Protocol::ICMP {
        return icmp(rest, place).map(|port| vec![PortEntry { proto, port }]);
    }
    let (first, last) = port_range(rest, place)?;
    Ok((first..=last)
        .map(|port| PortEntry { proto, port })
        .collect())
}

fn protocol(text: &str, place: Place) -> Parsed<Protocol> {
    let word = Word {
        text: text.to_owned(),
        place,
        quoted: false,
    };
    value::protocol(&word)?.ok_or_else(|| {
        let message = "an entry is of one protocol; write tcp, udp, icmp or a number";
        Fault::new(place, message)
    })
}

/// `type/code`
fn icmp(text: &str, place: Place) -> Parsed<u16> {
    let numbers = text.split_once('/');
    let numbers = numbers.and_then(|(kind, code)| number::<u8>(kind).zip(number::<u8>(code)));
    numbers
        .map(|(kind, code)| u16::from_be_bytes([kind, code]))
        .ok_or_else(|| {
            let message = format!(
                "{} is no ICMP type and code; write two numbers, as in icmp:8/0",
                quoted(text)
            );
            Fault::new(place, message)
        })
}

/// `[proto:]port[-port]`
pub(super) fn ports(word: &Word) -> Parsed<(u16, u16)> {
    let text = word.text.as_str();
    let (_, text) = text.split_once(':').unwrap_or(("", text));
    port_range(text, word.place)
}

fn port_range(text: &str, place: Place) -> Parsed<(u16, u16)> {
    // The name of a service can have a dash too.
    let whole = names::service(text).is_some();
    let range = text.split_once('-').filter(|_| !whole);
    let (first, last) = range.unwrap_or((text, text));
    let (first, last) = (value::port(first, place)?, value::port(last, place)?);
    if first > last {
        let message = format!(
            "the range {} runs backwards; write {last}-{first}",
            quoted(text)
        );
        return Err(Fault::new(place, message));
    }
    Ok((first, last))
}
