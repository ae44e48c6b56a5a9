//! UDP through a redirect, and what ICMP tells a client of a proxy that does not listen.

use std::io::ErrorKind;
use std::net::{SocketAddr, SocketAddrV4};

use anyhow::Result;
use e2e::{RELAY, Reports, Script, in_both_modes, play, server};
use lab::audit::IcmpError;
use lab::datagrams::{ask, connected};
use lab::topology::{CLIENT, FW_INTRA, SERVER};
use lab::{DatagramEcho, Mode};

in_both_modes! {
    answers_come_from_the_server,
    nobody_listens,
    a_host_firewall_refuses,
}

/// Where the rules want a proxy for datagrams.
const PROXY: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 50053);

fn script(mode: Mode) -> Script {
    Script::new(mode)
        .with_rules(&["-A PREROUTING -i eth1 -p udp --dport 7000 -j TPROXY --on-port 50053"])
        .with_relays(&[])
}

fn local(address: SocketAddr) -> Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => anyhow::bail!("{address} is not IPv4"),
    }
}

fn answers_come_from_the_server(mode: Mode) {
    let mut from = None;
    let reports = play(&script(mode), |stage| {
        stage.client_link.proxies.insert(PROXY);
        let echo = DatagramEcho::listen(&stage.lab.fw, PROXY)?;
        let socket = connected(&stage.lab.client, server(7000))?;
        // A datagram of the largest size that needs no fragments, and the smallest.
        for question in [&b"question"[..], &[7; 1472], b""] {
            assert_eq!(ask(&socket, question)?, question);
        }
        let local = local(socket.local_addr()?)?;
        // The proxy sees the client's true address.
        assert_eq!(echo.askers(), [local.into(); 3]);
        let flows = stage.daemon.flows(&["--proto", "udp"])?;
        let [flow] = flows.as_slice() else {
            anyhow::bail!("one conversation, but {flows:?}");
        };
        assert_eq!(flow["kind"], "redirect");
        assert_eq!(flow["orig"]["dst"], SERVER.to_string());
        assert_eq!(flow["reply"]["src"], FW_INTRA.to_string());
        assert_eq!(flow["packets"], 6);
        from = Some(local);
        Ok(())
    });
    let from = from.expect("the client's address");
    // All that the client got by UDP.
    let udp: Vec<_> = reports.client.udp.iter().collect();
    assert_eq!(udp, [(&(server(7000), from), &3)]);
    assert_eq!(reports.server.count("udp"), 0, "{reports:?}");
}

fn nobody_listens(mode: Mode) {
    let mut from = None;
    let reports = play(&script(mode), |stage| {
        stage.client_link.proxies.insert(PROXY);
        let socket = connected(&stage.lab.client, server(7000))?;
        // The client's kernel finds its socket only by the datagram's true addresses.
        let error = ask(&socket, b"anybody?").expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(stage.daemon.counters("icmp_translated")?, [1]);
        from = Some(local(socket.local_addr()?)?);
        Ok(())
    });
    only_error(
        &reports,
        (3, 3),
        from.expect("the client's address"),
        server(7000),
    );
}

/// A host firewall answers a redirected connection by ICMP.
fn a_host_firewall_refuses(mode: Mode) {
    let mut from = None;
    let script = Script::new(mode).with_relays(&[]);
    let reports = play(&script, |stage| {
        stage.client_link.proxies.insert(RELAY);
        for rule in [
            "add table inet host",
            "add chain inet host input { type filter hook input priority 0; }",
            "add rule inet host input tcp dport 50080 reject with icmp type admin-prohibited",
        ] {
            stage.lab.fw.run(&format!("nft {rule}"))?;
        }
        let fixed = SocketAddrV4::new(CLIENT, 45_000);
        let error = stage
            .connect_from(fixed, server(7000))
            .expect_err("the host firewall refuses");
        assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{error}");
        assert_eq!(stage.daemon.counters("icmp_translated")?, [1]);
        from = Some(fixed);
        Ok(())
    });
    only_error(
        &reports,
        (3, 13),
        from.expect("the client's address"),
        server(7000),
    );
}

/// The client got one kind of error, as if from the server, about its own packet.
fn only_error(reports: &Reports, kind: (u8, u8), source: SocketAddrV4, about: SocketAddrV4) {
    let expected = IcmpError {
        from: *about.ip(),
        kind,
        source,
        destination: about,
    };
    let told: Vec<_> = reports.client.errors.keys().collect();
    assert_eq!(told, [&expected]);
    assert_eq!(reports.client.udp.len(), 0, "{reports:?}");
    for kind in ["tcp", "udp", "icmp"] {
        assert_eq!(reports.server.count(kind), 0, "{kind}: {reports:?}");
    }
}
