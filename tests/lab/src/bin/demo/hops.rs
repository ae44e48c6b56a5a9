//! The addresses of one connection on each wire, as captured.

use std::net::SocketAddrV4;

use anyhow::{Result, ensure};
use lab::audit::audit;
use lab::topology::{CLIENT, CLIENT_TWO, FW_INTER, FW_INTRA};
use lab::{Capture, Lab, Link, Report};

use crate::screen::{note, row};

/// Who speaks to whom.
pub struct Hops {
    /// The client's end.
    pub client: SocketAddrV4,
    /// Where the proxy listens.
    pub proxy: SocketAddrV4,
    /// The proxy's end of its own connection.
    pub onward: SocketAddrV4,
    /// The server.
    pub server: SocketAddrV4,
}

impl Hops {
    /// Prints the hops, one a line.
    pub fn show(&self, told: &str) {
        let Hops {
            client,
            proxy,
            onward,
            server,
        } = self;
        row(
            "client's wire",
            client,
            "->",
            server,
            "the client asks the server",
        );
        row("", client, "<-", server, "and the server seems to answer");
        row(
            "in the firewall",
            client,
            "->",
            proxy,
            "rewritten: the proxy's socket gets it",
        );
        row(
            "server's wire",
            onward,
            "->",
            server,
            "the proxy asks the server",
        );
        note(&format!("proxy's log: {}", told.trim()));
    }
}

/// Audits the captures, and wants the hops in them.
pub fn judge(lab: &Lab, captures: [Capture; 2], hops: &Hops) -> Result<[Report; 2]> {
    let own = [FW_INTRA, FW_INTER];
    let client_link = Link {
        name: "client",
        macs: vec![lab.fw.mac("eth1")?],
        own: own.into(),
        services: Some([].into()),
        servers: Some([hops.server].into()),
        proxies: [hops.proxy].into(),
        ..Link::default()
    };
    let server_link = Link {
        name: "server",
        macs: vec![lab.fw.mac("eth2")?],
        own: own.into(),
        hidden: [CLIENT, CLIENT_TWO].into(),
        ..Link::default()
    };
    let [at_client, at_server] = captures;
    let client = audit(&at_client.stop()?, &client_link)?;
    let server = audit(&at_server.stop()?, &server_link)?;
    client.check()?;
    server.check()?;
    let seen = |report: &Report, from, to| report.tcp.contains_key(&(from, to));
    ensure!(
        seen(&client, hops.server, hops.client),
        "no packet from {} to {} on the client's wire",
        hops.server,
        hops.client
    );
    ensure!(
        seen(&server, hops.onward, hops.server) && *hops.onward.ip() == FW_INTER,
        "no packet from {FW_INTER} to {} on the server's wire",
        hops.server
    );
    Ok([client, server])
}
