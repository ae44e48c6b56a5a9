//! Decisions as the programs read them: the twins of `bpf/decision.h`.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;

use rustix::io::Errno;

use crate::Error;

pub(super) const MAX_NODES: usize = 4096;
const NODE_BYTES: usize = 24;
pub(super) const PROGRAM_BYTES: usize = MAX_NODES * NODE_BYTES;
pub(super) const ADDRESS_BYTES: usize = 8;
const HITS_AT: usize = 16;
const KEEPS_PORT: u32 = 0x10000;

/// One step of a decision about a connection. The first node is asked first; a node leads to
/// later ones only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaptureNode {
    /// What it does.
    pub step: CaptureStep,
    /// Whether [`crate::Capture::hits`] counts who comes by.
    pub counts: bool,
}

/// What a node does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CaptureStep {
    /// Asks something, and leads to one of two nodes.
    Ask {
        /// What it asks.
        test: CaptureTest,
        /// The node for yes.
        then: u16,
        /// The node for no.
        otherwise: u16,
    },
    /// Leads to another node.
    Pass {
        /// Which.
        then: u16,
    },
    /// Lets the connection go where it wants.
    Go,
    /// Lets connect() fail.
    Refuse(CaptureRefusal),
    /// Redirects it to a proxy.
    Redirect {
        /// The proxy's address.
        addr: Ipv4Addr,
        /// The proxy's port; none for the one that is asked for.
        port: Option<u16>,
        /// What becomes of it if nobody is known to listen there.
        otherwise: CaptureOtherwise,
    },
}

/// What a node asks about a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CaptureTest {
    /// The destination under a mask.
    Network {
        /// What must be left of it.
        addr: Ipv4Addr,
        /// What is looked at.
        mask: Ipv4Addr,
    },
    /// The destination lies between these.
    Range(RangeInclusive<Ipv4Addr>),
    /// The destination's port lies between these.
    Ports(RangeInclusive<u16>),
    /// The socket was made by one of these users.
    Users(RangeInclusive<u32>),
    /// The socket was made by a process of one of these groups.
    Groups(RangeInclusive<u32>),
    /// The socket's mark under a mask.
    Mark {
        /// What must be left of it.
        value: u32,
        /// What is looked at.
        mask: u32,
    },
}

/// How connect() fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CaptureRefusal {
    /// EPERM: it was dropped.
    NotPermitted,
    /// ECONNREFUSED.
    Refused,
    /// ENETUNREACH.
    NetworkUnreachable,
    /// EHOSTUNREACH.
    HostUnreachable,
    /// ENOPROTOOPT.
    NoProtocol,
}

/// What becomes of a connection whose proxy is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CaptureOtherwise {
    /// connect() fails with ECONNREFUSED.
    Reject,
    /// connect() fails with ETIMEDOUT, and at once.
    Drop,
    /// It goes where it wants.
    Accept,
}

impl CaptureRefusal {
    const fn errno(self) -> Errno {
        match self {
            Self::NotPermitted => Errno::PERM,
            Self::Refused => Errno::CONNREFUSED,
            Self::NetworkUnreachable => Errno::NETUNREACH,
            Self::HostUnreachable => Errno::HOSTUNREACH,
            Self::NoProtocol => Errno::NOPROTOOPT,
        }
    }
}

/// The fields of `struct node`, but for what its place says.
#[derive(Default)]
struct Record {
    test: u8,
    then: u16,
    otherwise: u16,
    a: u32,
    b: u32,
}

impl Record {
    fn of(step: &CaptureStep) -> Self {
        match step {
            CaptureStep::Ask {
                test,
                then,
                otherwise,
            } => {
                let (test, a, b) = question(test);
                Self {
                    test,
                    then: *then,
                    otherwise: *otherwise,
                    a,
                    b,
                }
            }
            CaptureStep::Pass { then } => Self {
                then: *then,
                otherwise: *then,
                ..Self::default()
            },
            CaptureStep::Go => Self {
                test: 7,
                ..Self::default()
            },
            CaptureStep::Refuse(how) => Self {
                test: 8,
                a: how.errno().raw_os_error().cast_unsigned(),
                ..Self::default()
            },
            CaptureStep::Redirect {
                addr,
                port,
                otherwise,
            } => Self {
                test: 9,
                otherwise: match otherwise {
                    CaptureOtherwise::Reject => 0,
                    CaptureOtherwise::Drop => 1,
                    CaptureOtherwise::Accept => 2,
                },
                a: addr.to_bits().to_be(),
                b: port.map_or(KEEPS_PORT, |port| port.to_be().into()),
                ..Self::default()
            },
        }
    }

    fn bytes(&self, counts: bool) -> [u8; NODE_BYTES] {
        let mut bytes = [0; NODE_BYTES];
        bytes[0] = self.test;
        bytes[2..4].copy_from_slice(&self.then.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.otherwise.to_ne_bytes());
        bytes[6..8].copy_from_slice(&u16::from(counts).to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.a.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.b.to_ne_bytes());
        bytes
    }
}

/// The number of a test, and its operands.
fn question(test: &CaptureTest) -> (u8, u32, u32) {
    match test {
        // What can match nothing stays so: bits outside the mask are not cleared.
        CaptureTest::Network { addr, mask } => (1, addr.to_bits().to_be(), mask.to_bits().to_be()),
        CaptureTest::Range(range) => (2, range.start().to_bits(), range.end().to_bits()),
        CaptureTest::Ports(range) => (3, (*range.start()).into(), (*range.end()).into()),
        CaptureTest::Users(range) => (4, *range.start(), *range.end()),
        CaptureTest::Groups(range) => (5, *range.start(), *range.end()),
        CaptureTest::Mark { value, mask } => (6, *value, *mask),
    }
}

/// `struct program`. Refuses what would not end in a verdict.
pub(super) fn program(nodes: &[CaptureNode]) -> Result<Vec<u8>, Error> {
    crate::records::limit(|| "nodes of a decision".into(), nodes.len(), MAX_NODES)?;
    let mut bytes = Vec::with_capacity(PROGRAM_BYTES);
    for (at, node) in nodes.iter().enumerate() {
        let leads_on = |to: u16| at < to.into() && usize::from(to) < nodes.len();
        let is_sound = match node.step {
            CaptureStep::Ask {
                then, otherwise, ..
            } => leads_on(then) && leads_on(otherwise),
            CaptureStep::Pass { then } => leads_on(then),
            CaptureStep::Go | CaptureStep::Refuse(_) | CaptureStep::Redirect { .. } => true,
        };
        if !is_sound {
            let what = format!("node {at} of a decision leads to no later node: {node:?}");
            return Err(Error::Invalid { what });
        }
        bytes.extend_from_slice(&Record::of(&node.step).bytes(node.counts));
    }
    bytes.resize(PROGRAM_BYTES, 0);
    Ok(bytes)
}

/// Where nodes redirect to, and the ports of these at any address. A proxy whose port is the one that is asked
/// for may be anybody's.
pub(super) fn targets(nodes: &[CaptureNode]) -> HashSet<SocketAddrV4> {
    let redirects = nodes.iter().filter_map(|node| match node.step {
        CaptureStep::Redirect {
            addr,
            port: Some(port),
            ..
        } => Some((addr, port)),
        _ => None,
    });
    redirects
        .flat_map(|(addr, port)| {
            [addr, Ipv4Addr::UNSPECIFIED].map(|at| SocketAddrV4::new(at, port))
        })
        .collect()
}

/// How many came by each of the first `count` nodes.
pub(super) fn hits(program: &[u8], count: usize) -> Vec<u64> {
    let nodes = program.chunks_exact(NODE_BYTES).take(count);
    nodes
        .filter_map(|node| node.get(HITS_AT..)?.first_chunk().copied())
        .map(u64::from_ne_bytes)
        .collect()
}

/// `struct socket_address`.
pub(super) fn address(at: SocketAddrV4) -> [u8; ADDRESS_BYTES] {
    let mut bytes = [0; ADDRESS_BYTES];
    bytes[..4].copy_from_slice(&at.ip().octets());
    bytes[4..6].copy_from_slice(&at.port().to_be_bytes());
    bytes
}

pub(super) fn address_of(bytes: &[u8]) -> Option<SocketAddrV4> {
    let (addr, rest) = bytes.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes(*rest.first_chunk()?);
    Some(SocketAddrV4::new(Ipv4Addr::from(*addr), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(step: CaptureStep) -> CaptureNode {
        CaptureNode {
            step,
            counts: false,
        }
    }

    #[test]
    fn what_does_not_lead_on_is_refused() {
        let go = || node(CaptureStep::Go);
        let pass = |then| node(CaptureStep::Pass { then });
        assert!(program(&[pass(1), go()]).is_ok());
        for wrong in [
            vec![pass(0)],
            vec![pass(1)],
            vec![go(), pass(0)],
            vec![go(), pass(1)],
        ] {
            let error = program(&wrong).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error}");
        }
        let error = program(&vec![go(); MAX_NODES + 1]).unwrap_err();
        assert!(matches!(error, Error::TooMany { .. }), "{error}");
        assert_eq!(
            program(&vec![go(); MAX_NODES]).unwrap().len(),
            PROGRAM_BYTES
        );
    }

    #[test]
    fn an_address_comes_back() {
        let at = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 0x1234);
        assert_eq!(address(at), [192, 0, 2, 1, 0x12, 0x34, 0, 0]);
        assert_eq!(address_of(&address(at)), Some(at));
        assert_eq!(address_of(&[1, 2, 3, 4, 5]), None);
    }
}
