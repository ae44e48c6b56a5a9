//! What a client says: bytes of a line to a command, and PORT and EPRT back to bytes.
//!
//! Invariant: what is passed on reads the same for every server: no Telnet sequence and no
//! control byte is left in it that could end the line early.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Telnet's escape byte.
const IAC: u8 = 255;
/// Telnet's "interrupt process" and "data mark", which go before an urgent command.
const INTERRUPT: u8 = 244;
/// The lowest byte that means something behind an [`IAC`].
const FIRST_TELNET: u8 = 240;
/// WILL, WONT, DO and DONT take one more byte.
const OPTIONS: std::ops::RangeInclusive<u8> = 251..=254;

/// The bytes to be sent as urgent before an interrupting command, and those that go
/// before its text. The last urgent byte is the one that a server may never read.
pub(crate) const URGENT: [u8; 3] = [IAC, INTERRUPT, IAC];
/// Telnet's data mark: the rest of the sequence that [`URGENT`] begins.
pub(crate) const DATA_MARK: u8 = 242;

/// Commands that would hide what the proxy must see, or name addresses in forms of their own.
const REFUSED: [&str; 12] = [
    "AUTH", "PROT", "PBSZ", "ADAT", "CCC", "CONF", "ENC", "MIC", "LPRT", "LPSV", "CPSV", "SPSV",
];

/// A command, as far as it concerns a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// The client listens for the server's data connection.
    Active {
        /// How it was said.
        form: Form,
        /// Where the client says that it listens.
        at: SocketAddrV4,
    },
    /// The client asks the server to listen: the line.
    Passive(Vec<u8>),
    /// Anything else that passes as it is.
    Passed {
        /// The line, without Telnet sequences and end.
        line: Vec<u8>,
        /// Whether it interrupts: its Telnet sequences must go before it, as urgent.
        is_urgent: bool,
    },
    /// Not for the server: the answer.
    Refused(&'static str),
}

/// How a client names its data address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `PORT h1,h2,h3,h4,p1,p2`, RFC 959.
    Port,
    /// `EPRT |1|address|port|`, RFC 2428.
    Eprt,
}

impl Command {
    /// Reads a line. Whatever it holds, there is something to do about it.
    pub(crate) fn parse(line: &[u8]) -> Self {
        let (line, is_urgent) = without_telnet(line);
        if line.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
            return Self::Refused("500 A command cannot hold control characters.");
        }
        let end = line.iter().position(|&byte| byte == b' ');
        let (verb, rest) = line.split_at(end.unwrap_or(line.len()));
        let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
        if is("PORT") {
            Self::active(Form::Port, rest)
        } else if is("EPRT") {
            Self::active(Form::Eprt, rest)
        } else if is("PASV") || is("EPSV") {
            Self::Passive(line)
        } else if REFUSED.iter().any(|name| is(name)) {
            Self::Refused("502 Not through this proxy: it must see where data goes.")
        } else {
            Self::Passed { line, is_urgent }
        }
    }

    fn active(form: Form, rest: &[u8]) -> Self {
        let text = str::from_utf8(rest).unwrap_or_default().trim();
        let at = match form {
            Form::Port => six_numbers(text),
            Form::Eprt => match extended(text) {
                Some(("1", address, port)) => address
                    .parse()
                    .ok()
                    .zip(number(port))
                    .map(|(ip, port)| SocketAddrV4::new(ip, port)),
                Some(_) => return Self::Refused("522 Network protocol not supported, use (1)."),
                None => None,
            },
        };
        at.map_or(Self::Refused("501 This is no data address."), |at| {
            Self::Active { form, at }
        })
    }
}

impl Form {
    /// The command that names `at`.
    pub(crate) fn line(self, at: SocketAddrV4) -> String {
        match self {
            Self::Port => format!("PORT {}", comma_separated(at)),
            Self::Eprt => format!("EPRT |1|{}|{}|", at.ip(), at.port()),
        }
    }
}

/// Why data for `client` may not go to `at`, as an answer. A server must not be made to
/// connect to others (the bounce attack) nor to a service of the client (RFC 2577).
pub(crate) fn objection(at: SocketAddrV4, client: Ipv4Addr) -> Option<&'static str> {
    if *at.ip() != client {
        Some("500 The data address must be your own.")
    } else if at.port() < 1024 {
        Some("504 The data port must be 1024 or above.")
    } else {
        None
    }
}

/// The address as PORT and 227 write it.
pub(crate) fn comma_separated(at: SocketAddrV4) -> String {
    let [a, b, c, d] = at.ip().octets();
    let [high, low] = at.port().to_be_bytes();
    format!("{a},{b},{c},{d},{high},{low}")
}

/// The reverse of [`comma_separated`]; port 0 is none.
pub(crate) fn six_numbers(text: &str) -> Option<SocketAddrV4> {
    let mut parts = text.split(',').map(number::<u8>);
    let mut next = || parts.next().flatten();
    let ip = Ipv4Addr::new(next()?, next()?, next()?, next()?);
    let port = u16::from_be_bytes([next()?, next()?]);
    (parts.next().is_none() && port != 0).then(|| SocketAddrV4::new(ip, port))
}

/// The three fields of RFC 2428's notation, which begins with a delimiter of its choice.
pub(crate) fn extended(text: &str) -> Option<(&str, &str, &str)> {
    let delimiter = text.chars().next().filter(|c| matches!(c, '!'..='~'))?;
    let mut fields = text.strip_suffix(delimiter)?.split(delimiter).skip(1);
    let found = (fields.next()?, fields.next()?, fields.next()?);
    fields.next().is_none().then_some(found)
}

/// A number of digits alone, without a sign.
pub(crate) fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    let all_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| text.parse().ok()).flatten()
}

/// The line without Telnet sequences, and whether one of them was an interrupt.
fn without_telnet(line: &[u8]) -> (Vec<u8>, bool) {
    let (mut text, mut interrupts) = (Vec::with_capacity(line.len()), false);
    let mut bytes = line.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        // An escape before anything else is a letter of an old alphabet: it stays.
        let meaning = (byte == IAC)
            .then(|| bytes.next_if(|&next| next >= FIRST_TELNET))
            .flatten();
        match meaning {
            // A doubled escape is a letter, too, and stays doubled.
            Some(IAC) => text.extend([IAC, IAC]),
            Some(telnet) => {
                interrupts |= telnet == INTERRUPT;
                if OPTIONS.contains(&telnet) {
                    bytes.next();
                }
            }
            None => text.push(byte),
        }
    }
    (text, interrupts)
}
