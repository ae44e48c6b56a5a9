//! More connections from one foreign address than there are ports.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::{Script, Stage, play};
use lab::source::preloaded;
use lab::topology::{SERVER, SERVER_TWO};
use lab::{Mode, Program};

/// An address that nobody has.
const FOREIGN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// Connections to each server: together more than there are ports.
const EACH: usize = 16_500;
/// Each with an own address of the box to come from: a socket's port is taken there.
const SERVERS: [(Ipv4Addr, u16, Ipv4Addr); 4] = [
    (SERVER, 7000, Ipv4Addr::new(198, 51, 100, 101)),
    (SERVER, 7001, Ipv4Addr::new(198, 51, 100, 102)),
    (SERVER_TWO, 7000, Ipv4Addr::new(198, 51, 100, 103)),
    (SERVER_TWO, 7001, Ipv4Addr::new(198, 51, 100, 104)),
];

/// Uniqueness is on the whole tuple: towards each server there are ports of its own.
#[test]
fn more_connections_than_ports_at_once() {
    let mut script = Script::new(Mode::Auto).with_relays(&[]);
    for (_, _, own) in SERVERS {
        script.addresses.push(format!("addr add {own}/24 dev eth2"));
    }
    let reports = play(&script, |stage| {
        stage.servers_see_only(&[FOREIGN]);
        let program = stage.compile("crowd.c")?;
        let begun = Instant::now();
        let mut all = Vec::new();
        for number in 0..SERVERS.len() {
            all.push(serve(stage, &program, number)?);
        }
        for number in 0..SERVERS.len() {
            all.push(connect(stage, &program, number)?);
        }
        for program in &mut all {
            await_all(program, begun)?;
        }
        eprintln!("{} in {:?}", SERVERS.len() * EACH, begun.elapsed());
        let status = stage.daemon.json(&["status"])?;
        let all = u64::try_from(SERVERS.len() * EACH)?;
        for what in ["flows", "registrations"] {
            let count = status[what].as_u64();
            ensure!(count >= Some(all), "only {count:?} {what}");
        }
        Ok(())
    });
    // Every port shows several times, towards one server each time.
    let opened: BTreeSet<_> = reports.server.tcp.keys().collect();
    assert_eq!(opened.len(), SERVERS.len() * EACH);
    let ports: BTreeSet<u16> = opened.iter().map(|(from, _)| from.port()).collect();
    assert!(ports.len() < opened.len(), "no port was used twice");
}

fn serve(stage: &Stage, program: &Path, number: usize) -> Result<Program> {
    let (server, port, _) = SERVERS[number];
    let mut command = stage.lab.server.command(program);
    command.args(["serve", &server.to_string()]);
    command.args([port.to_string(), EACH.to_string()]);
    let mut server = Program::start(stage.lab.dir(), &format!("serve-{number}"), command)?;
    server.wait_for("ready")?;
    Ok(server)
}

fn connect(stage: &Stage, program: &Path, number: usize) -> Result<Program> {
    let (server, port, own) = SERVERS[number];
    let mut command = preloaded(&stage.lab, program)?;
    command.args(["connect", &own.to_string(), &FOREIGN.to_string()]);
    command.args([server.to_string(), port.to_string(), EACH.to_string()]);
    Program::start(stage.lab.dir(), &format!("connect-{number}"), command)
}

/// Waits until it has all its connections.
fn await_all(program: &mut Program, begun: Instant) -> Result<()> {
    while !program.stdout().contains("all") {
        let ended = program.ended()?;
        ensure!(ended.is_none(), "{ended:?}: {}", program.stderr());
        ensure!(begun.elapsed() < Duration::from_secs(120), "too slow");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
