//! The configuration in the words of the rooms that it goes to.

use crate::config::{Config, Mode, OnExit, Proto};

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

    /// The flow table's timeouts.
    pub fn flow_timeouts(&self) -> tables::Timeouts {
        let ns = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        tables::Timeouts {
            tcp_established_ns: ns(self.timeouts.tcp_established),
            tcp_handshake_ns: ns(self.timeouts.tcp_handshake),
            tcp_transitory_ns: ns(self.timeouts.tcp_transitory),
            tcp_closed_ns: ns(self.timeouts.tcp_closed),
            other_ns: ns(self.timeouts.udp),
        }
    }
}
