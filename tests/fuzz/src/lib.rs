//! What a fuzzer feeds: functions that take any bytes and panic if a promise is broken.
//!
//! The fuzzer itself is a workspace of its own in `libfuzzer/`; the inputs in `corpus/` are
//! replayed by an ordinary test, and so is every input that ever broke something.
//!
//! Never here: randomness, clocks, I/O. The same bytes do the same.

mod batches;
mod frames;
mod headers;
mod request;
mod ruleset;
mod sockets;

pub use batches::batches;
pub use headers::headers;
pub use request::request;
pub use ruleset::ruleset;

/// What takes any bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its folder of inputs.
pub const TARGETS: [(&str, Target); 4] = [
    ("headers", headers),
    ("batches", batches),
    ("ruleset", ruleset),
    ("request", request),
];
