//! Bytes to lines, of bounded length.

use protocol::{ErrorKind, Failure, REQUEST_MAX_BYTES};

/// What has come in and is not yet a whole line.
#[derive(Default)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    /// So many of them are known to hold no newline.
    scanned: usize,
}

impl Lines {
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a line has been begun.
    pub(crate) fn is_begun(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Takes the next whole line, its newline included.
    pub(crate) fn take(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let unseen = &self.bytes[self.scanned..];
        let length = match unseen.iter().position(|byte| *byte == b'\n') {
            Some(at) => self.scanned + at + 1,
            None => {
                self.scanned = self.bytes.len();
                return if self.scanned < REQUEST_MAX_BYTES {
                    Ok(None)
                } else {
                    Err(too_long())
                };
            }
        };
        if length > REQUEST_MAX_BYTES {
            return Err(too_long());
        }
        let rest = self.bytes.split_off(length);
        self.scanned = 0;
        Ok(Some(std::mem::replace(&mut self.bytes, rest)))
    }
}

fn too_long() -> Failure {
    Failure::new(
        ErrorKind::TooLong,
        format!("a request has at most {REQUEST_MAX_BYTES} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_line_passes_and_no_longer_one() {
        let mut line = vec![b'x'; REQUEST_MAX_BYTES - 1];
        line.push(b'\n');
        let mut lines = Lines::default();
        lines.put(&line);
        assert_eq!(lines.take().unwrap(), Some(line.clone()));

        for longer in [vec![b'x'; REQUEST_MAX_BYTES], [b"x", &line[..]].concat()] {
            let mut lines = Lines::default();
            lines.put(&longer);
            assert_eq!(lines.take().unwrap_err().kind, ErrorKind::TooLong);
        }
    }

    proptest! {
        #[test]
        fn lines_come_out_as_they_went_in(
            text in "([a-z]{0,5}\n){0,20}[a-z]{0,5}",
            pieces in prop::collection::vec(1..9_usize, 1..60),
        ) {
            let mut lines = Lines::default();
            let mut out = Vec::new();
            let mut rest = text.as_bytes();
            for piece in pieces.into_iter().chain([usize::MAX]) {
                let (now, later) = rest.split_at(piece.min(rest.len()));
                rest = later;
                lines.put(now);
                while let Some(line) = lines.take().unwrap() {
                    prop_assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
                    out.extend(line);
                }
            }
            let whole = text.rfind('\n').map_or(0, |at| at + 1);
            prop_assert_eq!(&out[..], &text.as_bytes()[..whole]);
            prop_assert_eq!(lines.is_begun(), whole < text.len());
        }
    }
}
