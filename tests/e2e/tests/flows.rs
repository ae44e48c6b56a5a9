//! The life of a flow, and what the administrator can see and do of it.

use std::net::{SocketAddrV4, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{RELAY, Script, Stage, in_both_modes, play, server};
use lab::connection::{exchange, finish, read_line, reset};
use lab::topology::{CLIENT, SERVER};
use lab::web::fetch_page;
use lab::{Behaviour, Mode};
use serde_json::Value;

in_both_modes! {
    list_and_count,
    finished_flows_leave,
    idle_flows_expire,
    new_syn_on_a_finished_tuple,
    new_syn_on_a_reset_tuple,
    new_syn_on_a_forgotten_connection,
    kill_ends_a_connection,
    flush_ends_all,
}

const SHORT: &str = "tcp_established = \"3s\"\ntcp_transitory = 2\ntcp_closed = \"1s\"";

fn count(stage: &Stage, filter: &[&str]) -> Result<u64> {
    let document = stage.daemon.json(&[&["flows", "count"], filter].concat())?;
    let count = document.as_u64().or_else(|| document["count"].as_u64());
    count.with_context(|| format!("flows count says {document}"))
}

fn wait_gone(stage: &Stage) -> Result<()> {
    stage.daemon.wait_until("the table is empty", |daemon| {
        Ok(daemon.flows(&[])?.is_empty())
    })
}

fn list_and_count(mode: Mode) {
    play(&Script::new(mode), |stage| {
        let _peer = stage.peer(7000, Behaviour::Echo)?;
        let from = SocketAddrV4::new(CLIENT, 42_000);
        let stream = stage.connect_from(from, server(7000))?;
        assert_eq!(exchange(&stream, "counted")?, "counted");
        let flows = stage.daemon.flows(&["--dport", "7000"])?;
        let [flow] = flows.as_slice() else {
            anyhow::bail!("one connection, but {flows:?}");
        };
        is_the_redirect(flow, from);
        assert_eq!(count(stage, &["--dport", "7000"])?, 1);
        assert_eq!(count(stage, &["--dport", "7001"])?, 0);
        assert_eq!(
            count(stage, &["--kind", "redirect", "--state", "established"])?,
            1
        );
        let human = stage.daemon.ask(&["flows", "list"])?;
        ensure!(human.contains("192.168.1.10"), "no flow in:\n{human}");
        Ok(())
    });
}

fn is_the_redirect(flow: &Value, from: SocketAddrV4) {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    assert_eq!(flow["proto"], "tcp");
    assert_eq!(flow["kind"], "redirect");
    assert_eq!(flow["state"], "established");
    let (orig, reply) = (&flow["orig"], &flow["reply"]);
    assert_eq!(orig["src"], CLIENT.to_string());
    assert_eq!(number(&orig["sport"]), u64::from(from.port()));
    assert_eq!(orig["dst"], SERVER.to_string());
    assert_eq!(number(&orig["dport"]), 7000);
    assert_eq!(reply["src"], RELAY.ip().to_string());
    assert_eq!(number(&reply["sport"]), u64::from(RELAY.port()));
    assert_eq!(reply["dst"], CLIENT.to_string());
    assert!(number(&flow["packets"]) >= 5, "{flow}");
    assert!(number(&flow["bytes"]) >= 5 * 40, "{flow}");
    assert!(number(&flow["age_ns"]) > 0, "{flow}");
}

fn finished_flows_leave(mode: Mode) {
    play(&Script::new(mode).with_timeouts(SHORT), |stage| {
        for _ in 0..5 {
            fetch_page(&stage.lab.client, SERVER)?;
        }
        // Held open for longer than finished flows may stay, but not idle.
        let _peer = stage.peer(7000, Behaviour::Echo)?;
        let stream = stage.connect(server(7000))?;
        for _ in 0..5 {
            exchange(&stream, "busy")?;
            thread::sleep(Duration::from_millis(700));
        }
        assert_eq!(count(stage, &["--dport", "80"])?, 0);
        assert_eq!(count(stage, &["--dport", "7000"])?, 1);
        finish(&stream)?;
        wait_gone(stage)
    });
}

fn idle_flows_expire(mode: Mode) {
    play(&Script::new(mode).with_timeouts(SHORT), |stage| {
        let _peer = stage.peer(7000, Behaviour::Echo)?;
        let stream = stage.connect(server(7000))?;
        exchange(&stream, "and then silence")?;
        assert_eq!(count(stage, &[])?, 1);
        thread::sleep(Duration::from_millis(1500));
        assert_eq!(count(stage, &[])?, 1);
        wait_gone(stage)?;
        drop(stream);
        Ok(())
    });
}

/// Opens one tuple twice; `talk` says something over a connection and ends it.
fn open_twice(mode: Mode, behaviour: Behaviour, talk: impl Fn(TcpStream) -> Result<()>) {
    play(&Script::new(mode), |stage| {
        let peer = stage.peer(7000, behaviour)?;
        let from = SocketAddrV4::new(CLIENT, 43_000);
        let mut last = None;
        for round in 1..=3 {
            let stream = stage
                .connect_from(from, server(7000))
                .with_context(|| format!("connection {round}"))?;
            let live = stage
                .daemon
                .flows(&["--sport", "43000", "--dport", "7000"])?;
            let live: Vec<_> = live.iter().filter(|f| f["state"] != "closed").collect();
            let [flow] = live.as_slice() else {
                anyhow::bail!("one live flow, not {live:?}");
            };
            let id = flow["id"].as_u64();
            ensure!(
                id.is_some() && id != last,
                "connection {round} has its forerunner's flow: {flow}"
            );
            last = id;
            talk(stream).with_context(|| format!("connection {round}"))?;
            peer.wait_ended(round)?;
        }
        Ok(())
    });
}

/// The server closes first, so that the client's kernel may use the tuple again at once, while
/// the proxy's remembers it.
fn new_syn_on_a_finished_tuple(mode: Mode) {
    open_twice(mode, Behaviour::EarlyBye, |stream| {
        assert_eq!(read_line(&stream)?, "bye");
        thread::sleep(Duration::from_millis(100));
        finish(&stream)?;
        Ok(())
    });
}

fn new_syn_on_a_reset_tuple(mode: Mode) {
    open_twice(mode, Behaviour::Echo, |stream| {
        assert_eq!(exchange(&stream, "hello")?, "hello");
        Ok(reset(stream)?)
    });
}

/// The client forgets a connection of which the firewall and the proxy still know.
fn new_syn_on_a_forgotten_connection(mode: Mode) {
    let script = Script::new(mode);
    play(&script, |stage| {
        let _peer = stage.peer(7000, Behaviour::Echo)?;
        let from = SocketAddrV4::new(CLIENT, 44_000);
        let first = stage.connect_from(from, server(7000))?;
        assert_eq!(exchange(&first, "first")?, "first");
        let client = &stage.lab.client;
        client.run("nft add table ip mute")?;
        client.run("nft add chain ip mute out { type filter hook output priority 0; }")?;
        client.run("nft add rule ip mute out tcp flags & (fin|rst) != 0 drop")?;
        reset(first)?;
        client.run("nft delete table ip mute")?;
        let second = stage
            .connect_from(from, server(7000))
            .context("the second connection")?;
        assert_eq!(exchange(&second, "second")?, "second");
        Ok(())
    });
}

fn kill_ends_a_connection(mode: Mode) {
    play(&Script::new(mode), |stage| {
        let _chatty = stage.peer(7000, Behaviour::Chatty)?;
        let _echo = stage.peer(7001, Behaviour::Echo)?;
        let killed = stage.connect(server(7000))?;
        let spared = stage.connect(server(7001))?;
        read_line(&killed)?;
        let answer = stage.daemon.json(&["flows", "kill", "--dport", "7000"])?;
        ensure!(
            answer.to_string().contains('1'),
            "one flow was to be killed: {answer}"
        );
        stops(&killed);
        assert_eq!(
            count(stage, &["--dport", "7000", "--state", "established"])?,
            0
        );
        assert_eq!(exchange(&spared, "spared")?, "spared");
        Ok(())
    });
}

/// Reads until the connection ends or falls silent; what was under way may still come.
fn stops(stream: &TcpStream) {
    for _ in 0..100 {
        if read_line(stream).is_err() {
            return;
        }
    }
    panic!("a killed connection goes on");
}

fn flush_ends_all(mode: Mode) {
    play(&Script::new(mode), |stage| {
        let _chatty = stage.peer(7000, Behaviour::Chatty)?;
        let streams = [stage.connect(server(7000))?, stage.connect(server(7000))?];
        for stream in &streams {
            read_line(stream)?;
        }
        assert_eq!(count(stage, &[])?, 2);
        stage.daemon.ask(&["flows", "flush"])?;
        for stream in &streams {
            stops(stream);
        }
        assert_eq!(count(stage, &["--state", "established"])?, 0);
        Ok(())
    });
}
