//! The rule language: the text that iptables-save writes, to a ruleset, to a policy,
//! and back to text.
//!
//! Invariant: what a [`Ruleset`] prints parses to an equal one, and no text makes
//! this crate panic.
//! Never here: I/O, name lookups, clocks.
//!
//! ```
//! use rules::{Environment, Interface, Ruleset, Sets, compile};
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
//! let environment = Environment {
//!     interfaces: &[eth1],
//!     sets: &Sets::default(),
//!     zones: &policy::Zones::none().into(),
//!     user: &|_| None,
//!     group: &|_| None,
//! };
//! let compiled = compile(&ruleset, &environment, 1)?;
//! assert!(warnings.is_empty());
//! assert_eq!(compiled.policy.proxies()[0].ports, 50080..=50080);
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

mod calls;
mod caution;
mod compile;
mod error;
mod fitness;
mod grammar;
mod lexer;
mod lower;
mod matches;
mod model;
mod names;
mod option;
mod parser;
mod place;
mod print;
mod rows;
mod rule;
mod sets;
mod settle;
mod table;
mod targets;
mod value;

pub use compile::{Compiled, Environment, Interface, compile, unmatched_interfaces};
pub use error::{RuleError, Warning};
pub use matches::{HashLimit, IcmpType, Limit, MatchSet, MultiPorts, Period, Test, Who};
pub use model::{Chain, Counters, InterfacePattern, Match, Rule, Ruleset, Table, TableName};
pub use place::{Place, Placed};
pub use rows::{ChainRow, Row};
pub use sets::Sets;
pub use targets::{Log, Masquerade, NatRange, Target};
