//! Foreign listen and foreign connect from scripts: `xtproxy listen` and `xtproxy connect`.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use e2e::{Script, Stage, in_both_modes, play, server};
use lab::command::{built, output};
use lab::connection::{TIMEOUT, connect, exchange};
use lab::daemon::runtime_dir;
use lab::topology::{CLIENT, FW_INTER, FW_INTRA};
use lab::{Behaviour, Mode, Peer, Program};
use nix::sys::signal::Signal;

in_both_modes! {
    a_listener_is_reached_on_either_port,
    a_command_holds_its_listener,
    connections_share_a_foreign_endpoint,
    a_foreign_port_is_chosen,
    a_clash_is_told_at_once,
}

/// An address that nobody has.
const FOREIGN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const ENTRANCE: SocketAddrV4 = SocketAddrV4::new(FOREIGN, 2121);
const LOCAL: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 50021);

fn script(mode: Mode) -> Script {
    Script::new(mode)
        .with_relays(&[])
        .with_timeouts(e2e::SHORT_ENDINGS)
}

/// `xtproxy ARGS` on the firewall.
fn xtproxy(stage: &Stage, args: &[&str]) -> Result<Command> {
    let mut command = stage.lab.fw.command(built("xtproxy")?);
    command.arg("--runtime-dir").arg(runtime_dir(&stage.lab));
    command.args(args);
    Ok(command)
}

fn listen(stage: &Stage) -> Result<Program> {
    let (foreign, local) = (ENTRANCE.to_string(), LOCAL.to_string());
    let command = xtproxy(stage, &["listen", "--foreign", &foreign, "--local", &local])?;
    let mut program = Program::start(stage.lab.dir(), "listen", command)?;
    program.wait_for("listening")?;
    Ok(program)
}

/// The wires on which the foreign endpoint may be seen, and the local one must not.
fn hide_local(stage: &mut Stage) {
    stage.clients_see(ENTRANCE);
    stage.client_link.proxies.insert(LOCAL);
    stage.server_link.proxies.insert(LOCAL);
}

fn a_listener_is_reached_on_either_port(mode: Mode) {
    let reports = play(&script(mode), |stage| {
        hide_local(stage);
        let service = Peer::listen(&stage.lab.fw, LOCAL, Behaviour::Echo)?;
        ensure!(stage.is_dropped(None, ENTRANCE)?, "not registered yet");
        let mut held = listen(stage)?;
        let one = stage.connect(ENTRANCE)?;
        let two = connect(&stage.lab.server, None, ENTRANCE, TIMEOUT)?;
        assert_eq!(exchange(&one, "from a client")?, "from a client");
        assert_eq!(exchange(&two, "from a server")?, "from a server");
        let from: Vec<_> = service.visits().iter().map(|visit| visit.from).collect();
        assert_eq!(from, [one.local_addr()?, two.local_addr()?]);
        shows(stage, held.pid().context("no process")?.as_raw())?;
        let status = held.end(Signal::SIGINT)?;
        ensure!(status.code().is_some(), "{status}");
        // Those that are there go on; new ones are not made.
        assert_eq!(exchange(&one, "still")?, "still");
        ensure!(stage.is_dropped(None, ENTRANCE)?, "it outlives its holder");
        assert_eq!(exchange(&two, "still")?, "still");
        drop((one, two));
        stage.registrations_end()
    });
    let seen = |tcp: &std::collections::BTreeMap<(SocketAddrV4, _), u64>| {
        tcp.keys().all(|(from, _)| *from == ENTRANCE) && !tcp.is_empty()
    };
    assert!(seen(&reports.client.tcp), "{:?}", reports.client.tcp);
    assert!(seen(&reports.server.tcp), "{:?}", reports.server.tcp);
}

/// Both ways of `xtproxy registrations` tell of the listener.
fn shows(stage: &Stage, pid: i32) -> Result<()> {
    let all = stage.registrations()?;
    let [one] = all.as_slice() else {
        bail!("one was registered: {all:?}");
    };
    assert_eq!(one["foreign"], ENTRANCE.to_string());
    assert_eq!(one["local"], LOCAL.to_string());
    assert_eq!(one["proto"], "tcp");
    assert_eq!(one["flows"], 2);
    assert_eq!(one["pid"], pid);
    assert_eq!(one["user"], "root");
    assert_eq!(one["command"], "xtproxy");
    let table = stage.daemon.ask(&["registrations"])?;
    for word in [ENTRANCE.to_string(), LOCAL.to_string(), pid.to_string()] {
        ensure!(table.contains(&word), "no {word}:\n{table}");
    }
    Ok(())
}

fn a_command_holds_its_listener(mode: Mode) {
    play(&script(mode), |stage| {
        hide_local(stage);
        let _service = Peer::listen(&stage.lab.fw, LOCAL, Behaviour::Echo)?;
        let (foreign, local) = (ENTRANCE.to_string(), LOCAL.to_string());
        let args = ["listen", "--foreign", &foreign, "--local", &local, "--"];
        let mut command = xtproxy(stage, &args)?;
        command.args(["sleep", "60"]);
        let mut held = Program::start(stage.lab.dir(), "held", command)?;
        held.wait_for("listening")?;
        assert_eq!(exchange(&stage.connect(ENTRANCE)?, "held")?, "held");
        let status = held.end(Signal::SIGTERM)?;
        ensure!(
            status.code() == Some(128 + 15),
            "not the command's: {status}"
        );
        ensure!(stage.is_dropped(None, ENTRANCE)?, "it outlives its holder");
        stage.registrations_end()
    });
}

/// `xtproxy connect` from `foreign` with `word` as input; returns the answer.
fn say(stage: &Stage, foreign: &str, to: SocketAddrV4, word: &str) -> Result<String> {
    let to = to.to_string();
    let script = format!("echo {word}; read answer; echo $answer >&2");
    let args = [
        "connect",
        "--foreign",
        foreign,
        &to,
        "--",
        "sh",
        "-c",
        &script,
    ];
    let done = output(&mut xtproxy(stage, &args)?)?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success(), "connect to {to}: {said}");
    Ok(said.trim().to_owned())
}

/// One foreign address and port towards many servers, and all of them at once.
fn connections_share_a_foreign_endpoint(mode: Mode) {
    let foreign = SocketAddrV4::new(FOREIGN, 4020);
    play(&script(mode), |stage| {
        stage.servers_see_only(&[FOREIGN]);
        let ports = 7000..7010;
        let peers: Vec<Peer> = ports
            .map(|port| stage.peer(port, Behaviour::Echo))
            .collect::<Result<_>>()?;
        let registrar = stage.registrar()?;
        let streams = stage.lab.fw.enter(|| {
            let connect = |peer: &Peer| {
                let to = peer.address;
                xtproxy_client::foreign_connect(&registrar, foreign, to, None, TIMEOUT)
            };
            Ok(peers.iter().map(connect).collect::<Result<Vec<_>, _>>()?)
        })?;
        for (stream, peer) in streams.iter().zip(&peers) {
            stream.set_read_timeout(Some(TIMEOUT))?;
            let word = peer.address.to_string();
            assert_eq!(exchange(stream, &word)?, word);
            assert_eq!(peer.visits()[0].from, foreign.into());
        }
        drop(streams);
        let _last = stage.peer(7050, Behaviour::Echo)?;
        assert_eq!(
            say(stage, &foreign.to_string(), server(7050), "script")?,
            "script"
        );
        stage.registrations_end()
    });
}

fn a_foreign_port_is_chosen(mode: Mode) {
    play(&script(mode), |stage| {
        stage.servers_see_only(&[FOREIGN, CLIENT]);
        let peer = stage.peer(7000, Behaviour::Echo)?;
        let stage = &*stage;
        thread::scope(|scope| {
            let all = (0..8).map(|n| {
                scope.spawn(move || {
                    let foreign = if n % 2 == 0 { FOREIGN } else { CLIENT };
                    say(
                        stage,
                        &foreign.to_string(),
                        server(7000),
                        &format!("number{n}"),
                    )
                })
            });
            for (n, said) in all.collect::<Vec<_>>().into_iter().enumerate() {
                let said = said.join();
                let said = said.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                assert_eq!(said, format!("number{n}"));
            }
            anyhow::Ok(())
        })?;
        let from = peer.wait_ended(8)?;
        let mut from: Vec<_> = from.iter().map(|visit| visit.from).collect();
        from.sort_unstable();
        from.dedup();
        ensure!(
            from.len() == 8 && from.iter().all(|at| at.port() != 0),
            "{from:?}"
        );
        stage.registrations_end()
    });
}

fn a_clash_is_told_at_once(mode: Mode) {
    play(&script(mode), |stage| {
        hide_local(stage);
        stage.server_link.hidden.insert(FW_INTER);
        let mut held = listen(stage)?;
        let foreign = ENTRANCE.to_string();
        let other = SocketAddrV4::new(FW_INTRA, 50022).to_string();
        let args = ["listen", "--foreign", &foreign, "--local", &other];
        let refused = output(&mut xtproxy(stage, &args)?)?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(
            refused.status.code() == Some(1),
            "{}: {said}",
            refused.status
        );
        ensure!(
            said.lines().count() == 1 && said.contains(&foreign),
            "{said}"
        );
        held.end(Signal::SIGTERM)?;
        // Where nobody listens, the client is told; by the server's own address.
        let from = SocketAddrV4::new(FOREIGN, 4711).to_string();
        let to = server(9999).to_string();
        let mut reset = String::new();
        let args = ["connect", "--foreign", &from, "--timeout", "5", &to];
        let failed = output(&mut xtproxy(stage, &args)?)?;
        failed.stderr.as_slice().read_to_string(&mut reset)?;
        ensure!(
            failed.status.code() == Some(1),
            "{}: {reset}",
            failed.status
        );
        ensure!(reset.to_lowercase().contains("refused"), "{reset}");
        stage.registrations_end()
    });
}
