//! The box's own traffic is untouched, and a host firewall beside the dataplane is tolerated.

use std::net::SocketAddrV4;

use anyhow::ensure;
use e2e::{RELAY, Script, in_both_modes, play, server};
use lab::connection::exchange;
use lab::topology::{CLIENT, FW_INTRA, SERVER};
use lab::web::{PAGE, fetch_page, fetch_sha256};
use lab::{Behaviour, Mode, Peer};

in_both_modes! {
    neighbours_are_found_again,
    box_answers_pings,
    box_connects_outwards,
    box_serves_beside_the_proxy,
    proxy_can_be_reached_directly,
    host_firewall_beside,
    a_new_mac_is_followed,
}

fn neighbours_are_found_again(mode: Mode) {
    let reports = play(&Script::new(mode), |stage| {
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        for namespace in stage.lab.namespaces() {
            namespace.ip("neigh flush all")?;
        }
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        stage.lab.fw.ip("neigh flush all")?;
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        Ok(())
    });
    assert!(reports.client.count("arp") > 0, "{reports:?}");
}

fn box_answers_pings(mode: Mode) {
    let reports = play(&Script::new(mode), |stage| {
        stage.lab.client.run("ping -c 3 -i 0.2 -W 2 192.168.1.1")?;
        stage.lab.server.run("ping -c 3 -i 0.2 -W 2 198.51.100.1")?;
        // Large enough to come in fragments.
        stage
            .lab
            .client
            .run("ping -c 2 -i 0.2 -W 2 -s 4000 192.168.1.1")?;
        Ok(())
    });
    assert!(reports.client.count("icmp") >= 3, "{reports:?}");
}

fn box_connects_outwards(mode: Mode) {
    play(&Script::new(mode), |stage| {
        let sum = stage.web.add_random("file", 20_000_000)?;
        // Through no rule: what the box itself opens goes out as it is.
        assert_eq!(fetch_page(&stage.lab.fw, SERVER)?, PAGE);
        let came = fetch_sha256(&stage.lab.fw, SERVER, "file", stage.lab.dir())?;
        assert_eq!(came, sum);
        ensure!(
            stage.relay_log().lines().all(|line| !line.contains("->")),
            "a proxy took it"
        );
        let to_client = Peer::listen(
            &stage.lab.client,
            SocketAddrV4::new(CLIENT, 80),
            Behaviour::Echo,
        )?;
        let timeout = lab::connection::TIMEOUT;
        let stream = lab::connection::connect(&stage.lab.fw, None, to_client.address, timeout)?;
        allow_any_own_source(stage);
        assert_eq!(exchange(&stream, "inwards")?, "inwards");
        Ok(())
    });
}

/// The box's own connection to the client has a source port of the kernel's choice.
fn allow_any_own_source(stage: &mut e2e::Stage) {
    stage.client_link.services = None;
}

fn box_serves_beside_the_proxy(mode: Mode) {
    play(&Script::new(mode), |stage| {
        // The rules take port 80 of others, not of the box.
        let own = SocketAddrV4::new(FW_INTRA, 80);
        stage.allow_service(own);
        let service = Peer::listen(&stage.lab.fw, own, Behaviour::Echo)?;
        assert_eq!(exchange(&stage.connect(own)?, "own")?, "own");
        assert_eq!(service.visits().len(), 1);
        Ok(())
    });
}

/// A connection to the proxy's own endpoint is nobody's redirect, but it must not break.
fn proxy_can_be_reached_directly(mode: Mode) {
    let other = SocketAddrV4::new(FW_INTRA, 50085);
    let script = Script::new(mode).with_rules(&[
        "-A PREROUTING -i eth1 -p tcp --dport 80 -j TPROXY --on-port 50080",
        "-A PREROUTING -i eth1 -p tcp --dport 7000 -j TPROXY --on-port 50085",
    ]);
    play(&script, |stage| {
        stage.allow_service(other);
        let service = Peer::listen(&stage.lab.fw, other, Behaviour::Echo)?;
        assert_eq!(exchange(&stage.connect(other)?, "direct")?, "direct");
        // The same service, redirected to: it shows the server's address.
        assert_eq!(exchange(&stage.connect(server(7000))?, "taken")?, "taken");
        assert_eq!(service.visits().len(), 2);
        Ok(())
    });
}

fn host_firewall_beside(mode: Mode) {
    play(&Script::new(mode), |stage| {
        let port = RELAY.port();
        let rules = [
            "add table inet host".to_owned(),
            "add chain inet host input { type filter hook input priority 0; policy drop; }"
                .to_owned(),
            "add rule inet host input ct state established,related accept".to_owned(),
            "add rule inet host input ct state invalid drop".to_owned(),
            format!("add rule inet host input tcp dport {port} accept"),
        ];
        for rule in rules {
            stage.lab.fw.run(&format!("nft {rule}"))?;
        }
        let sum = stage.web.add_random("file", 20_000_000)?;
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        let came = fetch_sha256(&stage.lab.client, SERVER, "file", stage.lab.dir())?;
        assert_eq!(came, sum);
        // It does filter: a service of the box that it does not name stays closed.
        let own = SocketAddrV4::new(FW_INTRA, 2222);
        let _service = Peer::listen(&stage.lab.fw, own, Behaviour::Echo)?;
        ensure!(stage.is_dropped(None, own)?, "the host firewall is off");
        Ok(())
    });
}

/// Steering knows the port by its MAC address, and the kernel would forward what it lets pass.
fn a_new_mac_is_followed(mode: Mode) {
    play(&Script::new(mode), |stage| {
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        stage.lab.fw.sysctl("net.ipv4.ip_forward", "1")?;
        stage
            .lab
            .fw
            .ip("link set dev eth1 address 02:00:5e:00:53:01")?;
        let mac = stage.lab.fw.mac("eth1")?;
        stage.client_link.macs.push(mac);
        stage.lab.client.ip("neigh flush all")?;
        ensure!(
            stage.is_dropped(None, server(9999))?,
            "transit passed while the MAC address was new"
        );
        stage
            .daemon
            .wait_until("the new address is followed", |_| {
                Ok(fetch_page(&stage.lab.client, SERVER).is_ok_and(|page| page == PAGE))
            })?;
        ensure!(stage.is_dropped(None, server(9999))?, "transit passed");
        stage.lab.client.run("ping -c 1 -W 2 192.168.1.1")?;
        Ok(())
    });
}
