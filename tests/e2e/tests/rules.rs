//! Each part of a rule matters, and what no rule takes is dropped.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{RELAY, Script, Stage, in_both_modes, play, server};
use lab::connection::{connect, exchange};
use lab::topology::{CLIENT, CLIENT_TWO, FW_INTER, FW_INTRA, SERVER, SERVER_TWO};
use lab::web::{PAGE, fetch_page};
use lab::{Behaviour, Mode, Peer};

in_both_modes! {
    on_ip,
    on_port,
    no_on_port_keeps_the_port,
    two_rules_two_proxies,
    interface,
    source,
    negated_source,
    old_style_negated_destination,
    rule_drop,
    unclaimed_transit,
    a_dropped_frame_can_be_seen,
    counters_of_rules,
    a_proxy_that_feeds_itself,
}

/// The relay that told of a connection to `port` must be the one with this index, and no other.
fn served_by(stage: &Stage, port: u16, index: usize) -> Result<()> {
    let wanted = format!("-> {}", server(port));
    stage.relays[index].wait_line(&["192.168.1.1", &wanted])?;
    for (other, relay) in stage.relays.iter().enumerate() {
        let lines = relay.lines(&wanted);
        ensure!(
            other == index || lines.is_empty(),
            "relay {other}: {lines:?}"
        );
    }
    Ok(())
}

fn on_ip(mode: Mode) {
    let second = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 2), 50080);
    let mut script = Script::new(mode)
        .with_rules(&[
            "-A PREROUTING -i eth1 -p tcp --dport 80 -j TPROXY --on-port 50080 --on-ip 192.168.1.2",
        ])
        .with_relays(&[RELAY, second]);
    script.addresses = vec!["addr add 192.168.1.2/24 dev eth1".into()];
    play(&script, |stage| {
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        served_by(stage, 80, 1)?;
        Ok(())
    });
}

fn on_port(mode: Mode) {
    let other = SocketAddrV4::new(FW_INTRA, 50081);
    let script = Script::new(mode)
        .with_rules(&["-A PREROUTING -i eth1 -p tcp --dport 80 -j TPROXY --on-port 50081"])
        .with_relays(&[RELAY, other]);
    play(&script, |stage| {
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        served_by(stage, 80, 1)?;
        Ok(())
    });
}

fn no_on_port_keeps_the_port(mode: Mode) {
    let here = SocketAddrV4::new(FW_INTRA, 7005);
    let script = Script::new(mode)
        .with_rules(&["-A PREROUTING -i eth1 -p tcp -d 198.51.100.0/24 --dport 7005 -j TPROXY"])
        .with_relays(&[RELAY, here]);
    play(&script, |stage| {
        let _peer = stage.peer(7005, Behaviour::Echo)?;
        assert_eq!(exchange(&stage.connect(server(7005))?, "kept")?, "kept");
        served_by(stage, 7005, 1)?;
        Ok(())
    });
}

fn two_rules_two_proxies(mode: Mode) {
    let second = SocketAddrV4::new(FW_INTRA, 50081);
    let script = Script::new(mode)
        .with_rules(&[
            "-A PREROUTING -i eth1 -p tcp --dport 80 -j TPROXY --on-port 50080",
            "-A PREROUTING -i eth1 -p tcp --dport 7000 -j TPROXY --on-port 50081",
        ])
        .with_relays(&[RELAY, second]);
    play(&script, |stage| {
        let _peer = stage.peer(7000, Behaviour::Echo)?;
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        assert_eq!(exchange(&stage.connect(server(7000))?, "two")?, "two");
        served_by(stage, 80, 0)?;
        served_by(stage, 7000, 1)?;
        Ok(())
    });
}

fn interface(mode: Mode) {
    let script = Script::new(mode).with_rules(&[
        "-A PREROUTING -i eth2 -p tcp --dport 80 -j TPROXY --on-port 50080",
        "-A PREROUTING -i eth1 -p tcp --dport 7000 -j TPROXY --on-port 50080",
    ]);
    let reports = play(&script, |stage| {
        let _peer = stage.peer(7000, Behaviour::Echo)?;
        ensure!(stage.is_dropped(None, server(80))?, "eth2's rule took it");
        assert_eq!(exchange(&stage.connect(server(7000))?, "in")?, "in");
        assert!(stage.web.accesses()?.is_empty());
        Ok(())
    });
    assert!(reports.server.tcp.keys().all(|(_, to)| to.port() != 80));
}

fn source(mode: Mode) {
    let rule = "-A PREROUTING -i eth1 -s 192.168.1.10 -p tcp --dport 80 -j TPROXY --on-port 50080";
    only_the_first_client(&Script::new(mode).with_rules(&[rule]));
}

fn negated_source(mode: Mode) {
    let rule =
        "-A PREROUTING -i eth1 ! -s 192.168.1.11 -p tcp --dport 80 -j TPROXY --on-port 50080";
    only_the_first_client(&Script::new(mode).with_rules(&[rule]));
}

fn only_the_first_client(script: &Script) {
    play(script, |stage| {
        let from = |ip| SocketAddrV4::new(ip, 0);
        stage.connect_from(from(CLIENT), server(80))?;
        let dropped = stage.is_dropped(Some(from(CLIENT_TWO)), server(80))?;
        ensure!(dropped, "the second client got through");
        Ok(())
    });
}

fn old_style_negated_destination(mode: Mode) {
    let rule =
        "-A PREROUTING -i eth1 -d ! 198.51.100.11 -p tcp --dport 80 -j TPROXY --on-port 50080";
    play(&Script::new(mode).with_rules(&[rule]), |stage| {
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        let dropped = stage.is_dropped(None, SocketAddrV4::new(SERVER_TWO, 80))?;
        ensure!(dropped, "the excepted server was reached");
        Ok(())
    });
}

fn rule_drop(mode: Mode) {
    let script = Script::new(mode).with_rules(&[
        "-A PREROUTING -i eth1 -p tcp --dport 7000 -j DROP",
        "-A PREROUTING -i eth1 -p tcp -j TPROXY --on-port 50080",
    ]);
    play(&script, |stage| {
        let _peer = stage.peer(7000, Behaviour::Echo)?;
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        let before = stage.daemon.drops("rule_drop")?;
        ensure!(stage.is_dropped(None, server(7000))?, "DROP let it pass");
        assert!(stage.daemon.drops("rule_drop")? > before);
        Ok(())
    });
}

fn unclaimed_transit(mode: Mode) {
    let reports = play(&Script::new(mode), |stage| {
        let _peer = Peer::listen(&stage.lab.server, server(9999), Behaviour::Echo)?;
        let before = stage.daemon.drops("forward_denied")?;
        ensure!(stage.is_dropped(None, server(9999))?, "no rule took it");
        let after = stage.daemon.drops("forward_denied")?;
        assert!(after > before, "{after} > {before}");
        let ping = format!("ping -c 1 -W 1 {SERVER}");
        stage.lab.client.run(&ping).expect_err("a ping got through");
        let udp = stage.lab.client.enter(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            Ok(socket.send_to(b"question", (SERVER, 53))?)
        })?;
        assert_eq!(udp, 8);
        stage
            .daemon
            .wait_until("ping and datagram are counted", |daemon| {
                Ok(daemon.drops("forward_denied")? >= after + 2)
            })
    });
    for kind in ["tcp", "udp", "icmp"] {
        assert_eq!(reports.server.count(kind), 0, "{kind}: {reports:?}");
    }
}

fn a_dropped_frame_can_be_seen(mode: Mode) {
    play(&Script::new(mode), |stage| {
        let from = SocketAddrV4::new(CLIENT, 47_000);
        ensure!(
            stage.is_dropped(Some(from), server(9999))?,
            "no rule took it"
        );
        let stats = stage.daemon.json(&["stats", "--examples"])?;
        let examples = stats["examples"].as_array().into_iter().flatten();
        let mut examples = examples.filter(|example| example["reason"] == "forward_denied");
        let example = examples.next();
        let example = example.with_context(|| format!("no example in {stats}"))?;
        let decoded = example["decoded"].as_str().unwrap_or_default();
        ensure!(
            decoded.contains(&format!("{from} > {}", server(9999))),
            "{decoded}"
        );
        // Ethernet, IPv4, TCP with options: whole, in hexadecimal.
        let bytes = example["length"].as_u64().unwrap_or_default();
        ensure!(bytes >= 14 + 20 + 20, "{example}");
        let frame = example["frame"].as_str().unwrap_or_default();
        assert_eq!(frame.len() as u64, 2 * bytes, "{example}");
        let tuple = format!(
            "{:08x}{:08x}{:04x}{:04x}",
            CLIENT.to_bits(),
            SERVER.to_bits(),
            47_000,
            9999
        );
        ensure!(frame.contains(&tuple), "{frame}");
        ensure!(example["age_ns"].as_u64() > Some(0), "{example}");
        ensure!(examples.next().is_none(), "one example a reason: {stats}");
        let human = stage.daemon.ask(&["stats", "--examples"])?;
        for text in ["forward_denied: ", decoded, "  0000  "] {
            ensure!(human.contains(text), "no `{text}` in:\n{human}");
        }
        let plain = stage.daemon.json(&["stats"])?;
        ensure!(
            plain["examples"].as_array().is_none_or(Vec::is_empty),
            "{plain}"
        );
        Ok(())
    });
}

fn counters_of_rules(mode: Mode) {
    play(&Script::new(mode), |stage| {
        for _ in 0..3 {
            fetch_page(&stage.lab.client, SERVER)?;
        }
        let rules = stage.daemon.json(&["rules", "show"])?;
        let chains = rules["tables"][0]["chains"].as_array();
        let rows: Vec<_> = chains
            .into_iter()
            .flatten()
            .filter_map(|chain| chain["rules"].as_array())
            .flatten()
            .collect();
        let packets = |word: &str| -> Option<u64> {
            let row = rows
                .iter()
                .find(|row| row["text"].as_str().is_some_and(|text| text.contains(word)))?;
            row["packets"].as_u64()
        };
        // First packets only: three connections, although there were many packets.
        assert_eq!(packets("--dport 80 "), Some(3), "{rules}");
        assert_eq!(packets("--dport 7000:7099 "), Some(0), "{rules}");
        Ok(())
    });
}

/// The relay's onward connection comes back from the wire into the rule that feeds the relay.
fn a_proxy_that_feeds_itself(mode: Mode) {
    let mut script = Script::new(mode).with_rules(&[
        "-A PREROUTING -p tcp --dport 80 -j TPROXY --on-ip 192.168.1.1 --on-port 50080",
    ]);
    script.addresses = vec!["route add 203.0.113.0/24 via 198.51.100.10".into()];
    play(&script, |stage| {
        let behind = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 5), 80);
        stage
            .client_link
            .servers
            .get_or_insert_default()
            .insert(behind);
        circle(stage)?;
        let before = stage.daemon.drops("loop")?;
        let timeout = Duration::from_secs(10);
        // The relay takes the connection before it knows that its own will fail.
        if let Ok(stream) = connect(&stage.lab.client, None, behind, timeout) {
            exchange(&stream, "anybody?").expect_err("somebody answered from a circle");
        }
        assert!(stage.daemon.drops("loop")? > before);
        let taken =
            stage
                .daemon
                .flows(&["--dst", "203.0.113.5", "--src", &FW_INTER.to_string()])?;
        assert!(
            taken.is_empty(),
            "the relay's own connection was taken: {taken:?}"
        );
        Ok(())
    });
}

/// Makes the server's box a router that sends all for 203.0.113.0/24 back where it came from.
fn circle(stage: &Stage) -> Result<()> {
    let router = &stage.lab.server;
    router.sysctl("net.ipv4.ip_forward", "1")?;
    for interface in ["all", "eth0"] {
        router.sysctl(&format!("net.ipv4.conf.{interface}.send_redirects"), "0")?;
        router.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "0")?;
    }
    let route = format!("route add 203.0.113.0/24 via {FW_INTER}");
    router.ip(&route).map(drop)
}
