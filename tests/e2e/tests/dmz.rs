//! A relay that goes on in the client's name: the server's own log shows the client.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};
use e2e::{RELAY, Script, in_both_modes, play, server};
use lab::connection::exchange;
use lab::topology::{CLIENT, CLIENT_TWO, SERVER};
use lab::web::{PAGE, curl, fetch_page, fetch_sha256};
use lab::{Behaviour, Mode, Peer};

in_both_modes! {
    the_server_sees_the_clients_address,
    the_server_sees_address_and_port,
    a_client_speaks_to_two_servers_from_one_port,
}

fn script(mode: Mode) -> Script {
    Script::new(mode)
        .with_relays(&[])
        .with_timeouts(e2e::SHORT_ENDINGS)
}

/// The addresses that the web server logged.
fn visitors(accesses: &[lab::web::Access]) -> Vec<Ipv4Addr> {
    accesses.iter().map(|access| *access.client.ip()).collect()
}

fn the_server_sees_the_clients_address(mode: Mode) {
    let reports = play(&script(mode), |stage| {
        stage.proxy("relay", RELAY, &["--as-client"])?;
        stage.servers_see_only(&[CLIENT, CLIENT_TWO]);
        let sum = stage.web.add_random("file", 20_000_000)?;
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        let came = fetch_sha256(&stage.lab.client, SERVER, "file", stage.lab.dir())?;
        assert_eq!(came, sum);
        let mut second = curl(&stage.lab.client);
        second.args(["--interface", &CLIENT_TWO.to_string()]);
        second.arg(format!("http://{SERVER}/page.html"));
        assert_eq!(lab::command::run(&mut second)?, PAGE);
        let visitors = visitors(&stage.web.accesses()?);
        assert_eq!(visitors, [CLIENT, CLIENT, CLIENT_TWO]);
        stage.registrations_end()
    });
    assert!(
        reports.server.count("tcp") > 1000,
        "{:?}",
        reports.server.kinds
    );
}

fn the_server_sees_address_and_port(mode: Mode) {
    play(&script(mode), |stage| {
        stage.proxy("relay", RELAY, &["--as-client-port"])?;
        stage.servers_see_only(&[CLIENT]);
        let sum = stage.web.add_random("file", 20_000_000)?;
        let copy = stage.lab.dir().join("copy");
        let mut fetch = curl(&stage.lab.client);
        fetch.args(["--local-port", "45123", "--output"]).arg(&copy);
        lab::command::run(fetch.arg(format!("http://{SERVER}/file")))?;
        assert_eq!(lab::files::sha256(&copy)?, sum);
        let accesses = stage.web.accesses()?;
        let from: Vec<_> = accesses.iter().map(|access| access.client).collect();
        assert_eq!(from, [SocketAddrV4::new(CLIENT, 45_123)]);
        Ok(())
    });
}

/// Each tuple is unique as a whole: one address and port of a client towards many servers.
fn a_client_speaks_to_two_servers_from_one_port(mode: Mode) {
    play(&script(mode), |stage| {
        stage.proxy("relay", RELAY, &["--as-client-port"])?;
        stage.servers_see_only(&[CLIENT]);
        let from = SocketAddrV4::new(CLIENT, 45_200);
        let peers = [7000, 7001, 7002].map(|port| stage.peer(port, Behaviour::Echo));
        let peers: Vec<Peer> = peers.into_iter().collect::<Result<_>>()?;
        let mut streams = Vec::new();
        for peer in &peers {
            streams.push(stage.connect_from(from, peer.address)?);
        }
        for (stream, peer) in streams.iter().zip(&peers) {
            let word = peer.address.to_string();
            assert_eq!(exchange(stream, &word)?, word);
            let visits = peer.visits();
            ensure!(visits.len() == 1, "{visits:?}");
            assert_eq!(visits[0].from, from.into());
        }
        // And once more to the first, over the same tuple, as soon as the old one has gone.
        drop(streams.remove(0));
        peers[0].wait_ended(1)?;
        stage.daemon.wait_until("the tuple is free again", |_| {
            let again = stage.connect_from(from, server(7000));
            Ok(again.is_ok_and(|stream| exchange(&stream, "again").is_ok()))
        })
    });
}
