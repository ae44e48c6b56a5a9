//! `-m tcp`, `-m udp` and `-m multiport`.

use policy::{PortRange, WIDEST, Which};

use super::{Test, Tests, icmp};
use crate::error::{Fault, Parsed, did_you_mean_or, quoted};
use crate::lexer::Word;
use crate::option::{Given, OptSpec, Options, flag, tested};
use crate::value;

const SPORT: OptSpec = tested(
    &["--sport", "--source-port"],
    "a port or a range, as in 1024:65535",
);
const DPORT: OptSpec = tested(
    &["--dport", "--destination-port"],
    "a port or a range, as in 80 or 8000:8080",
);
const TCP_FLAGS: OptSpec = tested(
    &["--tcp-flags"],
    "two lists of flags, as in SYN,RST,ACK,FIN SYN",
)
.of(2);
const SYN: OptSpec = OptSpec {
    negatable: true,
    ..flag(&["--syn"])
};

pub(super) const TCP: &[OptSpec] = &[SPORT, DPORT, TCP_FLAGS, SYN];
pub(super) const UDP: &[OptSpec] = &[SPORT, DPORT];
/// What may stand without `-m`, because `-p` says enough.
pub(super) const IMPLIED: &[OptSpec] = &[SPORT, DPORT, TCP_FLAGS, SYN, icmp::TYPE];
pub(super) const MULTIPORT: &[OptSpec] = &[
    tested(
        &["--sports", "--source-ports"],
        "up to 15 ports, as in 80,443,8000:8080",
    ),
    tested(
        &["--dports", "--destination-ports"],
        "up to 15 ports, as in 80,443,8000:8080",
    ),
    tested(&["--ports"], "up to 15 ports, as in 80,443,8000:8080"),
];

/// Options that only TCP has.
pub(crate) const ONLY_TCP: &[&str] = &["--tcp-flags", "--syn"];

/// The flags of a TCP header, in the order of printing.
pub(super) const FLAGS: [(&str, u8); 6] = [
    ("FIN", 0x01),
    ("SYN", 0x02),
    ("RST", 0x04),
    ("PSH", 0x08),
    ("ACK", 0x10),
    ("URG", 0x20),
];
const ALL_FLAGS: u8 = 0x3f;

/// What `-m multiport` asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MultiPorts {
    /// Whose port.
    pub which: Which,
    /// The ports.
    pub ranges: Vec<PortRange>,
}

pub(super) fn ports_and_flags(options: &Options<'_>, tests: &mut Tests) -> Parsed<()> {
    options.only_one_of(ONLY_TCP)?;
    let all = |given: &Given<'_>, range| !given.negated && range == WIDEST;
    if let Some(given) = options.get("--sport") {
        let range = value::ports(given.value())?;
        if !all(&given, range) {
            tests.put(&given, Test::SourcePorts(range));
        }
    }
    if let Some(given) = options.get("--dport") {
        let range = value::ports(given.value())?;
        if !all(&given, range) {
            tests.put(&given, Test::DestinationPorts(range));
        }
    }
    if let Some(given) = options.get("--tcp-flags") {
        let (mask, set) = (flags(given.value())?, flags(given.second())?);
        if set & !mask != 0 && !given.negated {
            let message = "the second list names flags that the first does not, so this never matches; add them to the first";
            return Err(Fault::new(given.second().place, message));
        }
        tests.put(&given, Test::TcpFlags { mask, set });
    }
    if let Some(given) = options.get("--syn") {
        let (mask, set) = (0x17, 0x02);
        tests.put(&given, Test::TcpFlags { mask, set });
    }
    Ok(())
}

fn flags(word: &Word) -> Parsed<u8> {
    word.text.split(',').try_fold(0, |all, name| {
        let upper = name.to_ascii_uppercase();
        let bit = match upper.as_str() {
            "ALL" => Some(ALL_FLAGS),
            "NONE" => Some(0),
            _ => FLAGS
                .iter()
                .find(|(known, _)| *known == upper)
                .map(|(_, bit)| *bit),
        };
        bit.map(|bit| all | bit).ok_or_else(|| {
            let known = FLAGS.iter().map(|(known, _)| *known).chain(["ALL", "NONE"]);
            let cure = did_you_mean_or(name, known, "there are SYN ACK FIN RST URG PSH ALL NONE");
            Fault::new(word.place, format!("unknown flag {}{cure}", quoted(name)))
        })
    })
}

pub(super) fn multiport(options: &Options<'_>, tests: &mut Tests) -> Parsed<()> {
    let Some(given) = options.only_one_of(&["--sports", "--dports", "--ports"])? else {
        return Ok(());
    };
    let which = match given.spec.name() {
        "--sports" => Which::Source,
        "--dports" => Which::Destination,
        _ => Which::Either,
    };
    let ranges = value::port_list(given.value())?;
    tests.put(&given, Test::MultiPorts(MultiPorts { which, ranges }));
    Ok(())
}
