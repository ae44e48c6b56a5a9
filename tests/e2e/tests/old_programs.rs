//! Programs that know only the socket options of TProxy 2.0, under the preload shim.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};
use e2e::{Script, Stage, in_both_modes, play, server};
use lab::command::{output, run};
use lab::connection::exchange;
use lab::source::{bare, preloaded};
use lab::topology::{CLIENT, FW_INTER, FW_INTRA};
use lab::{Behaviour, Mode, Program};

in_both_modes! {
    they_connect_as_the_client,
    they_listen_as_the_server,
}

const SERVICE: u16 = 7000;

fn script(mode: Mode) -> Script {
    Script::new(mode)
        .with_relays(&[])
        .with_timeouts(e2e::SHORT_ENDINGS)
}

/// What a client of this name is told: local and foreign address, foreign port, server.
fn words(client: &str, local: Ipv4Addr, foreign: SocketAddrV4) -> Vec<String> {
    let to = server(SERVICE);
    let port = |port: u16| port.to_string();
    let mut words = vec![client.to_owned(), local.to_string()];
    words.extend([foreign.ip().to_string(), port(foreign.port())]);
    words.extend([to.ip().to_string(), port(to.port())]);
    words
}

fn they_connect_as_the_client(mode: Mode) {
    play(&script(mode), |stage| {
        stage.servers_see_only(&[CLIENT]);
        let peer = stage.peer(SERVICE, Behaviour::Echo)?;
        let program = stage.compile("orders.c")?;
        let cases = [
            ("haproxy", 41_000),
            ("haproxy", 0),
            ("squid", 0),
            ("zorp", 41_001),
            ("zorp", 0),
        ];
        for (number, (client, port)) in cases.into_iter().enumerate() {
            let foreign = SocketAddrV4::new(CLIENT, port);
            let mut command = preloaded(&stage.lab, &program)?;
            run(command.args(words(client, FW_INTER, foreign)))?;
            let visits = peer.wait_ended(number + 1)?;
            let from = visits[number].from;
            ensure!(from.ip() == CLIENT, "{client}: {from}");
            ensure!(port == 0 || from.port() == port, "{client}: {from}");
        }
        // Without the shim there is no such option, and no connection as oneself.
        let mut without = bare(&stage.lab, &program);
        let foreign = SocketAddrV4::new(CLIENT, 0);
        let without = output(without.args(words("squid", FW_INTER, foreign)))?;
        ensure!(without.status.code() == Some(1), "{without:?}");
        assert_eq!(peer.visits().len(), cases.len());
        stage.registrations_end()
    });
}

fn they_listen_as_the_server(mode: Mode) {
    play(&script(mode), |stage| {
        let program = stage.compile("orders.c")?;
        for (client, port) in [("zorp-listen", 7010), ("flags-then-listen", 7011)] {
            let mut old = start(stage, client, &program, port)?;
            let stream = stage.connect(server(port))?;
            assert_eq!(exchange(&stream, "hello")?, "hello");
            old.wait_for(&format!("from {}", stream.local_addr()?))?;
            drop(stream);
            let status = old.wait()?;
            ensure!(status.success(), "{client}: {status}: {}", old.stderr());
        }
        assert_eq!(stage.web.connections()?, 0);
        stage.registrations_end()
    });
}

fn start(stage: &Stage, client: &str, program: &std::path::Path, port: u16) -> Result<Program> {
    let mut command = preloaded(&stage.lab, program)?;
    command.args(words(client, FW_INTRA, server(port)));
    let mut started = Program::start(stage.lab.dir(), client, command)?;
    started.wait_for("ready")?;
    Ok(started)
}
