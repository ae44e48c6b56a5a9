//! Counters and drops.

use std::io::{self, Write};

use protocol::{Counters, DropCount, Example, Stats};

use super::words::span;
use super::{table, text};

/// Prints all counters; those that are zero only if `all`.
pub(crate) fn stats(out: &mut impl Write, stats: &Stats, all: bool) -> io::Result<()> {
    let workers = stats.workers.iter().map(|worker| {
        let name = worker
            .core
            .map_or_else(String::new, |core| format!(" (CORE {core})"));
        (format!("WORKER {}{name}", worker.id), &worker.counters)
    });
    columns(out, "COUNTER", workers.collect(), all)?;
    let frames = stats
        .workers
        .iter()
        .map(|w| (format!("WORKER {}", w.id), &w.frames));
    columns(out, "FRAMES", frames.collect(), true)?;
    let xdp = stats
        .ports
        .iter()
        .map(|port| (port.interface.clone(), &port.xdp));
    columns(out, "XDP VERDICT", xdp.collect(), true)?;
    let rings = stats
        .ports
        .iter()
        .map(|port| (port.interface.clone(), &port.rings));
    columns(out, "RINGS", rings.collect(), all)?;
    columns(
        out,
        "FLOW TABLE",
        vec![("FLOWS".into(), &stats.flows)],
        true,
    )?;
    columns(
        out,
        "REGISTRATIONS",
        vec![("COUNT".into(), &stats.registrations)],
        true,
    )?;
    drops(out, &stats.drops, all)?;
    stats
        .examples
        .iter()
        .try_for_each(|example| self::example(out, example))
}

/// Counters as rows, their owners as columns.
fn columns(
    out: &mut impl Write,
    heading: &str,
    owners: Vec<(String, &Counters)>,
    all: bool,
) -> io::Result<()> {
    let mut sum = Counters::default();
    owners.iter().for_each(|(_, counters)| sum.merge(counters));
    let headings: Vec<String> = owners.iter().map(|(name, _)| format!(">{name}")).collect();
    let headings: Vec<&str> = [heading]
        .into_iter()
        .chain(headings.iter().map(String::as_str))
        .collect();
    let mut table = table(&headings);
    for (name, _) in sum.iter().filter(|(_, value)| all || *value > 0) {
        let value = |counters: &Counters| match counters.get(name) {
            Some(value) => value.to_string(),
            None => "-".into(),
        };
        let values = owners.iter().map(|(_, counters)| value(counters));
        table.add_row([name.to_owned()].into_iter().chain(values));
    }
    if table.row_count() == 0 {
        return Ok(());
    }
    writeln!(out, "{}\n", text(&table))
}

fn drops(out: &mut impl Write, drops: &[DropCount], all: bool) -> io::Result<()> {
    let mut table = table(&["DROPPED FOR", ">PACKETS", "MEANING"]);
    for drop in drops.iter().filter(|drop| all || drop.packets > 0) {
        // Among all of them, those that happened stand out.
        let mark = if all && drop.packets > 0 { "*" } else { "" };
        table.add_row([
            format!("{}{mark}", drop.reason),
            drop.packets.to_string(),
            drop.explanation.clone(),
        ]);
    }
    if table.row_count() == 0 {
        return writeln!(out, "nothing was dropped");
    }
    writeln!(out, "{}", text(&table))
}

fn example(out: &mut impl Write, example: &Example) -> io::Result<()> {
    let Example {
        reason,
        age_ns,
        length,
        decoded,
        frame,
    } = example;
    writeln!(
        out,
        "\n{reason}: {} ago, {length} bytes\n  {decoded}",
        span(*age_ns)
    )?;
    let bytes: Vec<u8> = frame
        .as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    for (row, chunk) in bytes.chunks(16).enumerate() {
        let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let readable = |byte: &u8| {
            if byte.is_ascii_graphic() {
                char::from(*byte)
            } else {
                '.'
            }
        };
        let letters: String = chunk.iter().map(readable).collect();
        writeln!(out, "  {:04x}  {:<47}  {letters}", row * 16, hex.join(" "))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_is_a_line_and_a_dump() {
        let example = Example {
            reason: "forward_denied".into(),
            age_ns: 2_500_000_000,
            length: 60,
            decoded: "02:00:00:00:00:02 > 02:00:00:00:00:01 ethertype 0x88cc".into(),
            frame: "02000000000102000000000288cc48656c6c6f21".into(),
        };
        let stats = Stats {
            examples: vec![example],
            ..Stats::default()
        };
        let mut out = Vec::new();
        super::stats(&mut out, &stats, false).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }

    #[test]
    fn nonsense_from_the_daemon_is_no_panic() {
        let frame = "0\u{e9}zz0".to_owned();
        let example = Example {
            frame,
            ..Example::default()
        };
        super::example(&mut Vec::new(), &example).unwrap();
    }
}
