//! The configuration in the words of the rooms that it goes to.

use std::time::Duration;

use anyhow::Result;
use policy::capture::{Node, Question, Refusal, Step};
use policy::{NoListener, PortId, RejectWith, ServiceSpec, ZoneSpec, Zones};
use wire::Endpoint;
use xdp_prog::{CaptureNode, CaptureOtherwise, CaptureRefusal, CaptureStep, CaptureTest};

use crate::config::{Config, Mode, OnExit, Proto};

/// How long UDP and the like may be idle without an answer: anybody can begin that.
const UNREPLIED_TIMEOUT: Duration = Duration::from_secs(30);

impl Mode {
    /// The name as the configuration writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Zerocopy => "zerocopy",
            Self::Copy => "copy",
            Self::Generic => "generic",
        }
    }
}

impl OnExit {
    /// The name as the configuration writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }
}

impl Config {
    /// Management entries for steering: one for each network.
    pub fn steered_management(&self) -> Vec<xdp_prog::Management> {
        let entries = self.management.iter().flat_map(|entry| {
            entry
                .networks
                .iter()
                .map(move |network| xdp_prog::Management {
                    network: network.network(),
                    prefix_len: network.prefix_len(),
                    proto: match entry.proto {
                        Proto::Tcp => wire::Protocol::TCP.0,
                        Proto::Udp => wire::Protocol::UDP.0,
                    },
                    ports: entry.port..=entry.port,
                })
        });
        entries.collect()
    }

    /// Zones and services as policy knows them.
    pub fn policy_zones(&self) -> Result<Zones> {
        let names: Vec<&String> = self.zones.keys().collect();
        let ports = || (0..=u8::MAX).map(PortId).zip(&self.ports);
        let zone = |(name, zone): (&String, &crate::config::Zone)| ZoneSpec {
            name: name.clone(),
            networks: zone
                .networks
                .iter()
                .map(|network| (network.network(), network.prefix_len()))
                .collect(),
            ports: ports()
                .filter(|(_, port)| port.zone.as_ref() == Some(name))
                .map(|(id, _)| id)
                .collect(),
            parent: zone
                .parent
                .as_ref()
                .and_then(|parent| names.iter().position(|name| *name == parent)),
            inbound: zone.inbound.clone(),
            outbound: zone.outbound.clone(),
        };
        let services = self.services.iter().map(|(name, service)| ServiceSpec {
            name: name.clone(),
            proxy: Endpoint::new(*service.proxy.ip(), service.proxy.port()),
        });
        let zones = self.zones.iter().map(zone).collect();
        Ok(Zones::new(zones, services.collect())?)
    }

    /// The flow table's timeouts.
    pub fn flow_timeouts(&self) -> tables::Timeouts {
        let ns = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        tables::Timeouts {
            tcp_established_ns: ns(self.timeouts.tcp_established),
            tcp_handshake_ns: ns(self.timeouts.tcp_handshake),
            tcp_transitory_ns: ns(self.timeouts.tcp_transitory),
            tcp_closed_ns: ns(self.timeouts.tcp_closed),
            other_ns: ns(self.timeouts.udp),
            other_unreplied_ns: ns(self.timeouts.udp.min(UNREPLIED_TIMEOUT)),
        }
    }
}

/// A step of the decision about one of the box's own connections, for the program that takes it.
pub fn node(node: &Node) -> CaptureNode {
    let step = match &node.step {
        Step::Ask {
            question,
            then,
            otherwise,
        } => CaptureStep::Ask {
            test: test(question),
            then: *then,
            otherwise: *otherwise,
        },
        Step::Pass { then } => CaptureStep::Pass { then: *then },
        Step::Go => CaptureStep::Go,
        Step::Refuse(refusal) => CaptureStep::Refuse(refused(*refusal)),
        Step::Redirect {
            addr,
            port,
            otherwise,
        } => CaptureStep::Redirect {
            addr: *addr,
            port: *port,
            otherwise: match otherwise {
                NoListener::Reject => CaptureOtherwise::Reject,
                NoListener::Drop => CaptureOtherwise::Drop,
                NoListener::Accept => CaptureOtherwise::Accept,
            },
        },
    };
    CaptureNode {
        step,
        counts: node.rule.is_some(),
    }
}

fn test(question: &Question) -> CaptureTest {
    match question {
        Question::Network(network) => CaptureTest::Network {
            addr: network.addr(),
            mask: network.mask(),
        },
        Question::Range(range) => CaptureTest::Range(range.clone()),
        Question::Ports(range) => CaptureTest::Ports(range.clone()),
        Question::Users(range) => CaptureTest::Users(range.clone()),
        Question::Groups(range) => CaptureTest::Groups(range.clone()),
        Question::Mark { value, mask } => CaptureTest::Mark {
            value: *value,
            mask: *mask,
        },
    }
}

const fn refused(refusal: Refusal) -> CaptureRefusal {
    match refusal {
        Refusal::Dropped => CaptureRefusal::NotPermitted,
        Refusal::Rejected(RejectWith::PortUnreachable | RejectWith::TcpReset) => {
            CaptureRefusal::Refused
        }
        Refusal::Rejected(RejectWith::NetUnreachable | RejectWith::NetProhibited) => {
            CaptureRefusal::NetworkUnreachable
        }
        Refusal::Rejected(RejectWith::ProtoUnreachable) => CaptureRefusal::NoProtocol,
        Refusal::Rejected(
            RejectWith::HostUnreachable | RejectWith::HostProhibited | RejectWith::AdminProhibited,
        ) => CaptureRefusal::HostUnreachable,
    }
}
