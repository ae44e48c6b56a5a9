//! The list of registrations.

use std::io::{self, Write};
use std::net::SocketAddr;

use protocol::Registration;

use super::words::span;
use super::{table, text};

/// Prints the table, or that there is none.
pub(crate) fn registrations(out: &mut impl Write, rows: &[Registration]) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(out, "no registration matches");
    }
    let mut table = table(&[
        "PROTO", "FOREIGN", "LOCAL", "PEER", "FLAGS", ">FLOWS", "STATE", ">AGE", ">PID", "USER",
        "COMMAND",
    ]);
    for row in rows {
        table.add_row([
            row.proto.clone(),
            place(row.foreign),
            place(row.local),
            row.peer.map_or_else(|| "-".into(), place),
            flags(row),
            row.flows.to_string(),
            row.state.to_string(),
            span(row.age_ns),
            row.pid.to_string(),
            user(row),
            printable(&row.command),
        ]);
    }
    writeln!(out, "{}", text(&table))
}

/// One registration in a line, without what the line's time makes known.
pub(crate) fn registration(row: &Registration) -> String {
    let peer = row
        .peer
        .map_or_else(String::new, |peer| format!(" with {}", place(peer)));
    let flows = if row.flows == 1 { "flow" } else { "flows" };
    format!(
        "{} {} for {}{peer} [{}] {}, {} {flows}, pid {} user {} command {}",
        row.proto,
        place(row.foreign),
        place(row.local),
        flags(row),
        row.state,
        row.flows,
        row.pid,
        user(row),
        printable(&row.command),
    )
}

fn place(at: SocketAddr) -> String {
    match (at.ip().is_unspecified(), at.port()) {
        (true, 0) => "-".into(),
        (_, 0) => format!("{}:*", at.ip()),
        _ => at.to_string(),
    }
}

fn flags(row: &Registration) -> String {
    match row.uses[..] {
        [] => "-".into(),
        _ => printable(&row.uses.join(",")),
    }
}

fn user(row: &Registration) -> String {
    row.user.clone().unwrap_or_else(|| row.uid.to_string())
}

/// A process chooses its own name: it must not speak to the terminal.
fn printable(text: &str) -> String {
    let one = |c: char| if c.is_control() { '?' } else { c };
    text.chars().map(one).collect()
}
