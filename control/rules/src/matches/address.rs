//! `-m iprange` and `-m mac`.

use super::{Test, Tests};
use crate::error::{Fault, Parsed, quoted};
use crate::lexer::Word;
use crate::option::{OptSpec, Options, tested};
use crate::value;

pub(super) const RANGES: &[OptSpec] = &[
    tested(&["--src-range"], "two addresses, as in 10.0.0.1-10.0.0.9"),
    tested(&["--dst-range"], "two addresses, as in 10.0.0.1-10.0.0.9"),
];

pub(super) const MAC: &[OptSpec] = &[tested(
    &["--mac-source"],
    "a MAC address, as in 00:16:3e:12:34:56",
)];

pub(super) fn ranges(options: &Options<'_>, tests: &mut Tests) -> Parsed<()> {
    if let Some(given) = options.get("--src-range") {
        let (first, last) = value::address_range(&given.value().text, given.value().place)?;
        tests.put(&given, Test::SourceRange(first, last));
    }
    if let Some(given) = options.get("--dst-range") {
        let (first, last) = value::address_range(&given.value().text, given.value().place)?;
        tests.put(&given, Test::DestinationRange(first, last));
    }
    Ok(())
}

pub(super) fn mac(options: &Options<'_>, tests: &mut Tests) -> Parsed<()> {
    if let Some(given) = options.get("--mac-source") {
        tests.put(&given, Test::Mac(mac_address(given.value())?));
    }
    Ok(())
}

fn mac_address(word: &Word) -> Parsed<[u8; 6]> {
    let octet = |text: &str| {
        let plain = text.len() == 2 && text.bytes().all(|b| b.is_ascii_hexdigit());
        u8::from_str_radix(text, 16).ok().filter(|_| plain)
    };
    let octets: Option<Vec<u8>> = word.text.split(':').map(octet).collect();
    octets
        .and_then(|octets| octets.try_into().ok())
        .ok_or_else(|| {
            let message = format!(
                "{} is not a MAC address; write six pairs of digits, as in 00:16:3e:12:34:56",
                quoted(&word.text)
            );
            Fault::new(word.place, message)
        })
}
