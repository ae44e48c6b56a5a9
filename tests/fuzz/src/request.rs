//! A line that a client of the control socket sends.

use protocol::{Envelope, Reply};

/// The input: one line.
///
/// # Panics
/// If a request does not come back from its own words, or the refusal of a line is itself no
/// line.
pub fn request(bytes: &[u8]) {
    match Envelope::parse(bytes) {
        Ok(request) => {
            let line = match protocol::line(&Envelope::new(request.clone())) {
                Ok(line) => line,
                Err(error) => panic!("{request:?} cannot be written: {error}"),
            };
            match Envelope::parse(&line) {
                Ok(again) => assert_eq!(again, request),
                Err(failure) => panic!("{request:?} does not come back: {failure:?}"),
            }
        }
        Err(failure) => {
            let line = match protocol::line(&Reply::Error(failure)) {
                Ok(line) => line,
                Err(error) => panic!("the refusal cannot be written: {error}"),
            };
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert!(line.len() <= protocol::REPLY_MAX_BYTES);
        }
    }
}
