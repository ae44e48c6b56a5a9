//! `-j REJECT`.

use policy::RejectWith;
use wire::Protocol;

use super::Target;
use crate::error::{Fault, Parsed, did_you_mean_or, quoted};
use crate::option::{OptSpec, Options, plain};

pub(super) const OPTIONS: &[OptSpec] = &[plain(
    &["--reject-with"],
    "what the sender is told, as in icmp-port-unreachable or tcp-reset",
)];

/// iptables' names; the first of each answer is the one that is printed.
pub(super) const NAMES: [(&str, RejectWith); 16] = [
    ("icmp-port-unreachable", RejectWith::PortUnreachable),
    ("port-unreach", RejectWith::PortUnreachable),
    ("icmp-net-unreachable", RejectWith::NetUnreachable),
    ("net-unreach", RejectWith::NetUnreachable),
    ("icmp-host-unreachable", RejectWith::HostUnreachable),
    ("host-unreach", RejectWith::HostUnreachable),
    ("icmp-proto-unreachable", RejectWith::ProtoUnreachable),
    ("proto-unreach", RejectWith::ProtoUnreachable),
    ("icmp-net-prohibited", RejectWith::NetProhibited),
    ("net-prohib", RejectWith::NetProhibited),
    ("icmp-host-prohibited", RejectWith::HostProhibited),
    ("host-prohib", RejectWith::HostProhibited),
    ("icmp-admin-prohibited", RejectWith::AdminProhibited),
    ("admin-prohib", RejectWith::AdminProhibited),
    ("tcp-reset", RejectWith::TcpReset),
    ("tcp-rst", RejectWith::TcpReset),
];

pub(super) fn target(options: &Options<'_>, protocol: Option<Protocol>) -> Parsed<Target> {
    let Some(given) = options.get("--reject-with") else {
        return Ok(Target::Reject(RejectWith::PortUnreachable));
    };
    let word = given.value();
    let lower = word.text.to_ascii_lowercase();
    let known = NAMES.iter().find(|(name, _)| *name == lower);
    let with = known.map(|(_, with)| *with).ok_or_else(|| {
        let names = NAMES.iter().map(|(name, _)| *name);
        let cure = did_you_mean_or(
            &lower,
            names,
            "write icmp-port-unreachable, icmp-net-unreachable, icmp-host-unreachable, icmp-proto-unreachable, \
             icmp-net-prohibited, icmp-host-prohibited, icmp-admin-prohibited or tcp-reset",
        );
        let message = format!("unknown answer {}{cure}", quoted(&word.text));
        Fault::new(word.place, message)
    })?;
    if with == RejectWith::TcpReset && protocol != Some(Protocol::TCP) {
        let message = "tcp-reset answers TCP only; add -p tcp to this rule";
        return Err(Fault::new(word.place, message));
    }
    Ok(Target::Reject(with))
}
