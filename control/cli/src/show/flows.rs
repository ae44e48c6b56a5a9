//! The list of flows.

use std::io::{self, Write};

use protocol::{Direction, Flow};

use super::words::span;
use super::{table, text};

/// How many flows share the width of their columns. A list that is longer is printed
/// in pieces of this size, so that it needs no memory.
const PIECE: usize = 10_000;

/// Flows waiting to be printed.
#[derive(Default)]
pub(crate) struct FlowTable {
    waiting: Vec<Flow>,
    printed: bool,
}

impl FlowTable {
    /// Takes flows, and prints when there are many.
    pub(crate) fn put(&mut self, out: &mut impl Write, flows: &[Flow]) -> io::Result<()> {
        self.waiting.extend_from_slice(flows);
        if self.waiting.len() >= PIECE {
            self.print(out)
        } else {
            Ok(())
        }
    }

    /// Prints what is left.
    pub(crate) fn end(mut self, out: &mut impl Write) -> io::Result<()> {
        if !self.waiting.is_empty() {
            return self.print(out);
        }
        if self.printed {
            Ok(())
        } else {
            writeln!(out, "no flow matches")
        }
    }

    fn print(&mut self, out: &mut impl Write) -> io::Result<()> {
        let mut table = table(&[
            ">ID", "PROTO", "KIND", "STATE", "PATH", "ORIGINAL", "REPLY", ">PACKETS", ">BYTES",
            ">AGE", ">IDLE", ">EXPIRES",
        ]);
        for flow in self.waiting.drain(..) {
            table.add_row([
                flow.id.to_string(),
                flow.proto.clone(),
                flow.kind.to_string(),
                flow.state.to_string(),
                flow.path.to_string(),
                ends(&flow.orig),
                ends(&flow.reply),
                flow.packets.to_string(),
                flow.bytes.to_string(),
                span(flow.age_ns),
                span(flow.idle_ns),
                span(flow.expires_ns),
            ]);
        }
        self.printed = true;
        writeln!(out, "{}", text(&table))
    }
}

fn ends(direction: &Direction) -> String {
    let Direction {
        src,
        sport,
        dst,
        dport,
        ..
    } = direction;
    let end = |addr: &std::net::IpAddr, port: &u16| std::net::SocketAddr::new(*addr, *port);
    format!("{} -> {}", end(src, sport), end(dst, dport))
}
