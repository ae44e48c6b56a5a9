//! A minute of frames that no honest host sends, at both cards at once.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{RELAY, Script, Stage, in_both_modes, play};
use lab::blaster::{Bounds, blast};
use lab::frames::{Frames, Parties};
use lab::topology::{CLIENT, CLIENT_TWO, FW_INTER, FW_INTRA, SERVER, SERVER_TWO};
use lab::web::{PAGE, fetch_page};
use lab::{Mode, Namespace};

in_both_modes! {
    a_minute_of_hostile_frames,
}

const BOUNDS: Bounds = Bounds {
    time: Duration::from_secs(60),
    frames: 2_000_000,
    rate: 15_000,
};

fn a_minute_of_hostile_frames(mode: Mode) {
    play(&Script::new(mode), |stage| {
        // Frames with any address make the firewall answer to and for any address.
        stage.client_link.servers = None;
        stage.client_link.services = None;
        stage.client_link.proxies.clear();
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        let pid = stage.daemon.program().pid();
        let before = dropped(stage)?;
        let sent = blast_both(stage, 20)?;
        eprintln!("sent {sent} hostile frames");
        stage.daemon.check_alive()?;
        assert_eq!(stage.daemon.program().pid(), pid);
        let dropped = dropped(stage)?;
        ensure!(
            dropped > before + 1000,
            "only {} of {sent} were counted",
            dropped - before
        );
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        stage.relays[0].wait_line(&["192.168.1.10:", "198.51.100.10:80"])?;
        ensure!(stage.relays[0].address == RELAY, "the relay moved");
        Ok(())
    });
}

/// Blasts at both cards at once; returns how many frames left.
fn blast_both(stage: &Stage, seed: u64) -> Result<u64> {
    let lab = &stage.lab;
    let clients = [CLIENT, CLIENT_TWO];
    let servers = [SERVER, SERVER_TWO];
    let parties = |end: &Namespace, port: &str, from: &[_], to: &[_]| -> Result<Parties> {
        let mut destinations = to.to_vec();
        destinations.extend([FW_INTRA, FW_INTER, [224, 0, 0, 1].into()]);
        Ok(Parties {
            from_mac: end.mac("eth0")?,
            to_mac: lab.fw.mac(port)?,
            sources: from.to_vec(),
            destinations,
            ports: vec![80, 7000, 50080, 9999],
        })
    };
    let at_client = parties(&lab.client, "eth1", &clients, &servers)?;
    let at_server = parties(&lab.server, "eth2", &servers, &clients)?;
    thread::scope(|scope| {
        let one = scope.spawn(|| blast(&lab.client, &mut Frames::new(seed, &at_client), BOUNDS));
        let two =
            scope.spawn(|| blast(&lab.server, &mut Frames::new(seed + 1, &at_server), BOUNDS));
        let mut sent = 0;
        for thread in [one, two] {
            sent += thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(sent)
    })
}

/// All drops that the daemon counted, by name, in one sum.
fn dropped(stage: &Stage) -> Result<u64> {
    let stats = stage.daemon.json(&["stats"])?;
    let drops = stats["drops"].as_array();
    ensure!(drops.is_some(), "stats have no drops: {stats}");
    let counts = drops
        .into_iter()
        .flatten()
        .filter_map(|drop| drop["packets"].as_u64());
    Ok(counts.sum())
}
