//! `-j LOG`.

use super::Target;
use crate::error::{Fault, Parsed, did_you_mean_or, is_printable, quoted};
use crate::lexer::Word;
use crate::option::{OptSpec, Options, flag, plain};
use crate::value::number;

pub(super) const OPTIONS: &[OptSpec] = &[
    plain(&["--log-prefix"], "a text of at most 127 bytes"),
    plain(
        &["--log-level"],
        "a level, as in info or warning, or a number of 0 to 7",
    ),
    flag(&["--log-tcp-sequence"]),
    flag(&["--log-tcp-options"]),
    flag(&["--log-ip-options"]),
    flag(&["--log-uid"]),
    flag(&["--log-macdecode"]),
];

/// The flags, in the order of printing and of their bits.
pub(super) const FLAGS: [&str; 5] = [
    "--log-tcp-sequence",
    "--log-tcp-options",
    "--log-ip-options",
    "--log-uid",
    "--log-macdecode",
];

/// The longest prefix, in bytes, as in the kernel.
const PREFIX_BYTES: usize = 127;
/// The level of a rule that names none: warning.
pub(super) const LEVEL: u8 = 4;

const LEVELS: [(&str, u8); 11] = [
    ("emerg", 0),
    ("panic", 0),
    ("alert", 1),
    ("crit", 2),
    ("err", 3),
    ("error", 3),
    ("warning", 4),
    ("warn", 4),
    ("notice", 5),
    ("info", 6),
    ("debug", 7),
];

/// What `-j LOG` writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// What stands before the packet.
    pub prefix: String,
    /// 0 (emergency) to 7 (debug).
    pub level: u8,
    /// Bits of what more iptables would write; kept for printing.
    pub flags: u8,
}

pub(super) fn target(options: &Options<'_>) -> Parsed<Target> {
    let prefix = match options.get("--log-prefix") {
        Some(given) => prefix(given.value())?,
        None => String::new(),
    };
    let level = match options.get("--log-level") {
        Some(given) => level(given.value())?,
        None => LEVEL,
    };
    let given = (0..).zip(FLAGS).filter(|(_, name)| options.has(name));
    let flags = given.fold(0, |flags, (bit, _)| flags | 1u8 << bit);
    Ok(Target::Log(Log {
        prefix,
        level,
        flags,
    }))
}

fn prefix(word: &Word) -> Parsed<String> {
    let message = if word.text.len() > PREFIX_BYTES {
        format!("this prefix is longer than {PREFIX_BYTES} bytes; shorten it")
    } else if !word.text.chars().all(is_printable) {
        "this prefix has characters that cannot be printed; remove them".to_owned()
    } else {
        return Ok(word.text.clone());
    };
    Err(Fault::new(word.place, message))
}

fn level(word: &Word) -> Parsed<u8> {
    let lower = word.text.to_ascii_lowercase();
    let named = LEVELS.iter().find(|(name, _)| *name == lower);
    let level = named.map(|(_, level)| *level).or_else(|| number(&lower));
    level.filter(|level| *level <= 7).ok_or_else(|| {
        let names = LEVELS.iter().map(|(name, _)| *name);
        let cure = did_you_mean_or(
            &lower,
            names,
            "write emerg, alert, crit, err, warning, notice, info, debug or 0 to 7",
        );
        let message = format!("unknown level {}{cure}", quoted(&word.text));
        Fault::new(word.place, message)
    })
}
