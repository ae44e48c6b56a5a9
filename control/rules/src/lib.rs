//! The rule language: the text that iptables-save writes, to a ruleset, to a policy,
//! and back to text.
//!
//! Invariant: what a [`Ruleset`] prints parses to an equal one, and no text makes
//! this crate panic.
//! Never here: I/O, name lookups, clocks.
//!
//! ```
//! use rules::{Interface, Ruleset, compile};
//!
//! let text = "\
//! *tproxy
//! :PREROUTING ACCEPT [0:0]
//! -A PREROUTING -i eth1 -p tcp --dport 80 -j TPROXY --on-port 50080
//! COMMIT
//! ";
//! let (ruleset, warnings) = Ruleset::parse("iptables.conf", text)?;
//! let eth1 = Interface {
//!     name: "eth1".to_owned(),
//!     port: policy::PortId(0),
//!     first_address: Some([192, 168, 1, 1].into()),
//! };
//! let policy = compile(&ruleset, &[eth1], 1)?;
//! assert!(warnings.is_empty());
//! assert_eq!(policy.proxies()[0].ports, 50080..=50080);
//! # Ok::<(), rules::RuleError>(())
//! ```

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod compile;
mod error;
mod grammar;
mod lexer;
mod model;
mod parser;
mod place;
mod print;
mod rule;
mod settle;
mod table;
mod value;

pub use compile::{Interface, compile, unmatched_interfaces};
pub use error::{RuleError, Warning};
pub use model::{
    Chain, Counters, InterfacePattern, Match, Rule, Ruleset, Table, TableName, Target, Test,
};
pub use place::{Place, Placed};
pub use print::Row;
