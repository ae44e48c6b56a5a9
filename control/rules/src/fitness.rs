//! Which matches and targets can stand where: some need what only packets on certain ways have.

use policy::{End, Which};
use wire::Protocol;

use crate::error::{Fault, Parsed};
use crate::matches::Test;
use crate::model::{Chain, Match, Rule, TableName};
use crate::place::{Place, Placed};
use crate::targets::Target;

/// Checks the rules of a chain that packets meet at these hooks.
pub(crate) fn check(table: TableName, chain: &Chain, hooks: &[&str]) -> Parsed<()> {
    for rule in &chain.rules {
        for found in &rule.matches {
            check_match(table, chain, hooks, found)?;
        }
        if let Some(target) = &rule.target {
            check_target(table, chain, hooks, rule, target)?;
        }
    }
    Ok(())
}

/// One of the hooks at which it cannot be, with the words that say so.
fn refuse(chain: &Chain, hook: &str, place: Place, what: &str, why: &str) -> Fault {
    let through = if chain.name == hook {
        String::new()
    } else {
        ", which calls this chain".to_owned()
    };
    Fault::new(
        place,
        format!("{what} cannot be used in {hook}{through}: {why}"),
    )
}

fn check_match(
    table: TableName,
    chain: &Chain,
    hooks: &[&str],
    found: &Placed<Match>,
) -> Parsed<()> {
    for hook in hooks {
        if table == TableName::Tproxy && *hook == "OUTPUT" {
            at_connect(chain, found)?;
        }
        let (what, why) = match &found.test {
            Test::Mac(_) if matches!(*hook, "OUTPUT" | "POSTROUTING") => (
                "-m mac",
                "packets there do not come from a link; write it where they come in",
            ),
            Test::User(_) | Test::Group(_) | Test::SocketExists
                if !matches!(*hook, "OUTPUT" | "POSTROUTING") =>
            {
                (
                    "-m owner",
                    "packets there need have no socket of this box; write it in OUTPUT",
                )
            }
            Test::Group(_) if table != TableName::Tproxy => (
                "--gid-owner",
                "the packet path knows a socket's user, not its group; write --uid-owner, or put the rule in *tproxy OUTPUT",
            ),
            _ => continue,
        };
        return Err(refuse(chain, hook, found.place, what, why));
    }
    Ok(())
}

/// What a program's connect() tells: protocol, destination, user, group.
fn at_connect(chain: &Chain, found: &Placed<Match>) -> Parsed<()> {
    let (what, why) = match &found.test {
        Test::Destination(_)
        | Test::DestinationPorts(_)
        | Test::DestinationRange(..)
        | Test::DestinationZone(_)
        | Test::User(_)
        | Test::Group(_)
        | Test::SocketExists
        | Test::Mark { .. }
        | Test::Comment(_) => return Ok(()),
        Test::Protocol(protocol) if (*protocol == Protocol::TCP) != found.negated => return Ok(()),
        Test::MultiPorts(ports) if ports.which == Which::Destination => return Ok(()),
        Test::Set(set) if set.by.iter().all(|end| *end == End::Destination) => return Ok(()),
        Test::Protocol(_) => {
            let why = "only the box's TCP connections are redirected there; write -p tcp";
            return Err(refuse(chain, "OUTPUT", found.place, "this protocol", why));
        }
        Test::Source(_) => ("-s", NOT_BOUND),
        Test::SourcePorts(_) => ("--sport", NOT_BOUND),
        Test::SourceRange(..) => ("--src-range", NOT_BOUND),
        Test::SourceZone(_) => ("-m zone --src", NOT_BOUND),
        Test::MultiPorts(_) => ("-m multiport but --dports", NOT_BOUND),
        Test::Set(_) => ("--match-set with src", NOT_BOUND),
        Test::InInterface(_) => ("-i", NO_PACKET),
        Test::OutInterface(_) => ("-o", NO_PACKET),
        Test::Fragment => ("-f", NO_PACKET),
        // Both ways to write it come to one test.
        Test::TcpFlags {
            mask: 0x17,
            set: 0x02,
        } => ("--syn (--tcp-flags FIN,SYN,RST,ACK SYN)", NO_PACKET),
        Test::TcpFlags { .. } => ("--tcp-flags", NO_PACKET),
        Test::Icmp(_) => ("--icmp-type", NO_PACKET),
        Test::CtState(_) => ("--ctstate", NO_PACKET),
        Test::State(_) => ("--state", NO_PACKET),
        Test::Tproxy => ("-m tproxy", NO_PACKET),
        Test::Limit(_) => ("-m limit", NO_PACKET),
        Test::HashLimit(_) => ("-m hashlimit", NO_PACKET),
        Test::Mac(_) => ("-m mac", NO_PACKET),
    };
    Err(refuse(chain, "OUTPUT", found.place, what, why))
}

const NOT_BOUND: &str = "in table tproxy it is decided when a program connects, before the connection has a source; remove it";
const NO_PACKET: &str =
    "in table tproxy it is decided when a program connects, before there is a packet; remove it";

fn check_target(
    table: TableName,
    chain: &Chain,
    hooks: &[&str],
    rule: &Rule,
    target: &Placed<Target>,
) -> Parsed<()> {
    for hook in hooks {
        let why = match (&target.value, *hook) {
            (Target::Snat(_), "PREROUTING" | "OUTPUT") => {
                "sources are translated in POSTROUTING and INPUT"
            }
            (Target::Masquerade(_), "PREROUTING" | "INPUT" | "OUTPUT") => {
                "sources are masqueraded in POSTROUTING"
            }
            (Target::Dnat(_) | Target::Redirect(_), "INPUT" | "POSTROUTING") => {
                "destinations are translated in PREROUTING and OUTPUT"
            }
            (
                Target::Tproxy {
                    on_ip: Some(addr), ..
                },
                "PREROUTING",
            ) if addr.is_loopback() => {
                "the kernel delivers nothing that came from a NIC to a loopback address; \
                 use an address of this machine's interfaces, or leave --on-ip out for the ingress interface's"
            }
            (Target::Log(_), "OUTPUT") if table == TableName::Tproxy => NO_PACKET,
            (Target::Tproxy { .. }, "OUTPUT") if rule.protocol() != Some(Protocol::TCP) => {
                "only the box's TCP connections are redirected there; write -p tcp"
            }
            _ => continue,
        };
        let what = match &target.value {
            Target::Tproxy {
                on_ip: Some(addr), ..
            } if addr.is_loopback() => {
                format!("TPROXY --on-ip {addr}")
            }
            other => other.name().to_owned(),
        };
        return Err(refuse(chain, hook, target.place, &what, why));
    }
    Ok(())
}
