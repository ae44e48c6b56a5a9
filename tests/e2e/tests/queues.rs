//! Cards with more than one queue, each with a worker of its own.

use anyhow::{Result, ensure};
use e2e::{Script, in_both_modes, play};
use lab::Mode;
use lab::command::run;
use lab::topology::SERVER;
use lab::web::{PAGE, curl};

in_both_modes! {
    both_workers_carry,
}

fn both_workers_carry(mode: Mode) {
    let mut script = Script::new(mode);
    script.plan.queues = 2;
    script.top = "workers = [0, 1]\n".to_owned();
    play(&script, |stage| {
        let url = format!("http://{SERVER}/page.html?[1-200]");
        let mut command = curl(&stage.lab.client);
        command.args(["--parallel", "--parallel-max", "20"]);
        command.args(["--header", "Connection: close", &url]);
        assert_eq!(run(&mut command)?, PAGE.repeat(200));
        assert_eq!(stage.web.connections()?, 200);
        for side in ["from_wire", "from_stack", "to_wire", "to_stack"] {
            let counts = stage.daemon.counters(side)?;
            ensure!(counts.len() == 2, "{side}: {counts:?} of two workers");
            // SYN, data, FIN and some ACK each way; and neither worker is a bystander.
            let sum: u64 = counts.iter().sum();
            ensure!(sum >= 200 * 4, "{side}: {counts:?}");
            // To a generic program a virtual card names queue 0 whatever the queue was; the host
            // port is native always.
            let spreads = mode == Mode::Auto || side == "from_stack";
            let spread = counts.iter().all(|count| *count > 50);
            ensure!(spread || !spreads, "{side}: {counts:?}");
        }
        let made: u64 = stage.daemon.counters("flows_redirected")?.iter().sum();
        ensure!(made == 200, "{made} flows for 200 connections");
        every_flow_once(stage)
    });
}

/// What one worker made is the other's as well: no connection has two flows.
fn every_flow_once(stage: &e2e::Stage) -> Result<()> {
    let flows = stage.daemon.flows(&["--dport", "80"])?;
    let mut ports: Vec<_> = flows
        .iter()
        .map(|flow| flow["orig"]["sport"].as_u64())
        .collect();
    ports.sort_unstable();
    let all = ports.len();
    ports.dedup();
    ensure!(ports.len() == all, "{all} flows, {} ports", ports.len());
    Ok(())
}
