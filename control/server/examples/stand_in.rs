//! A daemon without a dataplane, for the tests of those who talk to one: the real server
//! and the real flow table, a machine where nothing changes, and invented flows.
//!
//! `stand_in DIR [COUNT]` serves in DIR until its standard input ends, with COUNT flows
//! that are all alike or with the few of several kinds. It says `ready`. A line
//! `put KIND SRC DST REPLY_SRC REPLY_DST` makes a TCP flow, `live` asks for their number.

#[path = "../tests/fixture/mod.rs"]
mod fixture;

use std::io::BufRead;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use fixture::{Running, count_some_drops, crowd, endpoint, put, some_flows};
use tables::{FlowTable, Kind};
use wire::{Protocol, Tuple};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args_os().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("the directory is missing")?);
    let flows = match arguments.next() {
        Some(count) => crowd(count.to_str().ok_or("no number")?.parse()?),
        None => some_flows(),
    };
    let mut running = Running::start(&dir, Arc::new(flows));
    count_some_drops(&running);
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        println!("{}", obey(&running.flows, &line?)?);
    }
    running.stop();
    Ok(())
}

fn obey(flows: &FlowTable, line: &str) -> Outcome<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["live"] => Ok(flows.counts().live.to_string()),
        ["put", kind, src, dst, reply_src, reply_dst] => {
            let kind = Kind::ALL
                .into_iter()
                .find(|one| one.name() == kind)
                .ok_or("what kind?")?;
            let tuple = |src: &str, dst: &str| -> Outcome<Tuple> {
                let end = |text: &str| text.parse::<SocketAddr>().map(endpoint);
                Ok(Tuple {
                    proto: Protocol::TCP,
                    src: end(src)?,
                    dst: end(dst)?,
                })
            };
            let hit = put(
                flows,
                kind,
                tuple(src, dst)?,
                tuple(reply_src, reply_dst)?,
                0,
            );
            Ok(hit.id.to_bits().to_string())
        }
        _ => Err(format!("not understood: {line}").into()),
    }
}
