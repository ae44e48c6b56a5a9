//! What a server says: which lines belong together, and the port of a passive answer.

use std::net::SocketAddrV4;

use crate::command::{extended, number, six_numbers};

/// What a line is to the reply that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Some line before the last one, or the end of a preliminary reply: more will come.
    More,
    /// The last line of the reply that answers a command, with its code.
    Last(u16),
}

/// Keeps track of replies of several lines.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    /// The code of a reply that has begun and not ended.
    open: Option<[u8; 3]>,
}

impl Replies {
    /// What the next line is, or `None` if it makes no sense.
    pub(crate) fn take(&mut self, line: &[u8]) -> Option<Part> {
        let code = line.first_chunk().copied().filter(is_code);
        let is_ended = matches!(line.get(3), None | Some(b' '));
        match (self.open, code) {
            (Some(open), Some(code)) if open == code && is_ended => self.open = None,
            (Some(_), _) => return Some(Part::More),
            (None, Some(_)) if is_ended => {}
            (None, Some(code)) if line.get(3) == Some(&b'-') => {
                self.open = Some(code);
                return Some(Part::More);
            }
            (None, _) => return None,
        }
        let digits = code?.map(|digit| u16::from(digit - b'0'));
        let code = digits.iter().fold(0, |sum, digit| sum * 10 + digit);
        Some(if code < 200 {
            Part::More
        } else {
            Part::Last(code)
        })
    }
}

fn is_code(code: &[u8; 3]) -> bool {
    matches!(code[0], b'1'..=b'5') && code.iter().all(u8::is_ascii_digit)
}

/// The line with blanks for what could end it early in a client's eyes.
pub(crate) fn harmless(mut line: Vec<u8>) -> Vec<u8> {
    for byte in &mut line {
        if matches!(byte, 0 | b'\r') {
            *byte = b' ';
        }
    }
    line
}

/// Where a 227 says that the server listens. RFC 1123: the numbers may stand anywhere.
pub(crate) fn passive(line: &[u8]) -> Option<SocketAddrV4> {
    let text = str::from_utf8(line.get(3..)?).ok()?;
    text.split(|c: char| !c.is_ascii_digit() && c != ',')
        .find_map(|word| six_numbers(word.trim_matches(',')))
}

/// At which port a 229 says that the server listens: `(|||port|)`.
pub(crate) fn extended_passive(line: &[u8]) -> Option<u16> {
    let text = str::from_utf8(line.get(3..)?).ok()?;
    let (_, inside) = text.split_once('(')?;
    let (inside, _) = inside.split_once(')')?;
    match extended(inside)? {
        ("", "", port) => number(port).filter(|&port| port != 0),
        _ => None,
    }
}
