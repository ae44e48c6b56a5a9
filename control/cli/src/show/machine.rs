//! The daemon and its ports.

use std::io::{self, Write};

use protocol::{Port, Status};

use super::words::span;
use super::{table, text};

/// Prints the daemon's status.
pub(crate) fn status(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let Status {
        version,
        state,
        pid,
        uptime_ns,
        ..
    } = status;
    writeln!(
        out,
        "xtproxyd {version}: {state}, pid {pid}, up {}\n",
        span(*uptime_ns)
    )?;
    let workers: Vec<String> = status
        .workers
        .iter()
        .map(|worker| match worker.core {
            Some(core) => format!("{} on core {core}", worker.id),
            None => format!("{} on any core", worker.id),
        })
        .collect();
    let on_exit = match status.on_exit.as_str() {
        "closed" => "closed: without the daemon, transit is dropped",
        "open" => "open: without the daemon, transit passes to the kernel",
        other => other,
    };
    let facts = [
        ("config", status.config.clone()),
        (
            "ruleset",
            status.ruleset.clone().unwrap_or_else(|| "none".into()),
        ),
        ("rules", format!("generation {}", status.rule_generation)),
        ("on exit", on_exit.into()),
        (
            "host port",
            status.host_port.clone().unwrap_or_else(|| "none".into()),
        ),
        ("workers", workers.join(", ")),
        (
            "flows",
            format!("{} of at most {}", status.flows, status.flows_max),
        ),
        (
            "registered",
            format!(
                "{} of at most {}",
                status.registrations, status.registrations_max
            ),
        ),
    ];
    for (name, value) in facts {
        writeln!(out, "{name:<12}{value}")?;
    }
    if let Some(pending) = &status.rules_pending {
        writeln!(
            out,
            "{:<12}{}, generation {}: the former rules return in {} unless they are kept",
            "on trial",
            pending.ruleset,
            pending.generation,
            span(pending.left_ns)
        )?;
    }
    writeln!(out, "\n{}", ports(&status.ports))?;
    if !status.changes.is_empty() {
        let mut changes = table(&["CHANGED ON THE BOX", "BEFORE", "NOW"]);
        for change in &status.changes {
            let before = change.before.as_deref().unwrap_or("-");
            changes.add_row([&change.what, before, &change.after]);
        }
        writeln!(out, "\n{}", text(&changes))?;
    }
    for (at, warning) in status.warnings.iter().enumerate() {
        let gap = if at == 0 { "\n" } else { "" };
        writeln!(out, "{gap}warning: {warning}")?;
    }
    Ok(())
}

/// The table of ports.
pub(crate) fn ports(ports: &[Port]) -> String {
    let mut table = table(&[
        "PORT",
        "ZONE",
        "MODE",
        "BOUND",
        "XDP",
        ">PROGRAM",
        ">QUEUES",
        "LINK",
        ">MTU",
        "MAC",
        "ADDRESSES",
    ]);
    for port in ports {
        table.add_row([
            port.interface.clone(),
            port.zone.clone().unwrap_or_else(|| "-".into()),
            port.mode.clone(),
            port.bound.clone(),
            port.xdp.clone(),
            port.program_id
                .map_or_else(|| "-".into(), |id| id.to_string()),
            port.queues.to_string(),
            if port.up { "up" } else { "down" }.into(),
            port.mtu.to_string(),
            port.mac.clone(),
            port.addresses.join(" "),
        ]);
    }
    text(&table)
}
