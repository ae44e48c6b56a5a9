//! What a fuzzer feeds: functions that take any bytes and panic if a promise is broken.
//!
//! The fuzzer itself is a workspace of its own in `libfuzzer/`; the inputs in `corpus/` are
//! replayed by an ordinary test, and so is every input that ever broke something.
//!
//! Never here: randomness, clocks, I/O beyond shared memory and a folder of one's own. The same
//! bytes do the same.

mod batches;
mod channel;
mod frames;
mod headers;
pub mod made_up;
mod mailbox;
mod naive;
mod record;
mod registrations;
mod request;
mod ruleset;
mod sockets;
mod strangers;

pub use batches::batches;
pub use channel::channel;
pub use headers::headers;
pub use registrations::{alive, registrations};
pub use request::request;
pub use ruleset::ruleset;

/// What takes any bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its folder of inputs.
pub const TARGETS: [(&str, Target); 6] = [
    ("headers", headers),
    ("batches", batches),
    ("ruleset", ruleset),
    ("request", request),
    ("channel", channel),
    ("registrations", registrations),
];
