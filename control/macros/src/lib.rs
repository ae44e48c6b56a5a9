//! Macros of a ruleset: definitions and a text that names them, to a text without macros.
//!
//! A definition gives a name to words:
//!
//! ```text
//! # Who may log in.
//! #define ADMINS 192.168.1.9 192.168.1.10
//! #define SSH_PERMITTED ADMINS \
//!                       10.9.0.0/16      # the second site
//! ```
//!
//! and a rule that names macros becomes one rule for each combination of their words:
//!
//! - A macro is named by a whole word or by a part of one between `, : / ! = + [ ]`: `! NET`,
//!   `ADDR:80`, `HTTP,8080`. Letters, digits, `_`, `-` and `.` go on with a word, so neither
//!   `LOWEB` nor `WEB-OUT` names `WEB`.
//! - Combinations come in the order of the words; the macro that the rule names last varies
//!   fastest. A macro that a rule names twice has the same word in both places.
//! - Words of a definition may name macros, which are replaced in the same way.
//! - Nothing is replaced in double quotes (comments and log prefixes), in comments, and in lines
//!   of tables, chains and COMMIT.
//! - A word that looks like a macro and is none stays as it is: the parser of rules will tell.
//!
//! Invariant: no text makes this crate panic, and its output is bounded.
//! Never here: I/O, the language of rules.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod definition;
mod error;
mod expansion;
mod resolution;
mod template;
mod trace;

pub use error::{MacroError, Warning};
pub use expansion::Expansion;
pub use resolution::Macros;
pub use trace::Trace;

/// How many lines a text may become.
pub const MAX_LINES: usize = 1_000_000;

/// How many words all macros together may stand for.
pub const MAX_WORDS: usize = 1_000_000;

/// How many bytes the words of all macros, or the lines of a text, may become.
pub const MAX_BYTES: usize = 256 * 1024 * 1024;

/// How many macros may stand inside each other.
pub const MAX_DEPTH: usize = 64;
