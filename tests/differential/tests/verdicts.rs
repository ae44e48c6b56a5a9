//! Made-up rules and packets: the kernel's iptables and the pipeline say the same.
//!
//! What differs by intent, and is left out of the packets and rules:
//! - Transit's way out is not looked up yet: no `-o` in FORWARD, nor in POSTROUTING where there
//!   is transit.
//! - What FORWARD lets through is dropped as `not_forwarded`, what a nat target takes as
//!   `not_translated`: both count as what the kernel then does, and have no sequel.
//! - Connections in transit are not picked up in their midst; those of the box itself are.
//! - An answer to what was refused (resets, ICMP) does not come by OUTPUT: rules here let the
//!   kernel's pass.
//! - Rules are asked about the first packets of a connection, not about all: counters are
//!   compared after first packets.
//! - An answer that rules refuse is none: what its connection sends next is still NEW, where the
//!   kernel calls it ESTABLISHED. Only answers that pass are followed up.
//! - After an ICMP error a connection is as it was, and its rules are not asked again about
//!   the other flags that come then.
//! - A connection that is known stays so, whatever NOTRACK says of later packets: no sequel
//!   where rules say so.
//! - The kernel puts fragments together before it asks: there are none.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use differential::kernel::{Counts, Kernel};
use differential::made_up;
use differential::ours::Ours;
use differential::outcome::Outcome;
use differential::packet::{Body, Packet, Sender, Side, flag};
use differential::traffic::{self, Ways};
use fastrand::Rng;

const RULESETS: u64 = 400;
const FIRSTS: u16 = 40;
const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn the_kernel_agrees() {
    let kernel = Kernel::build().expect("a firewall of the kernel's");
    let start = Instant::now();
    let mut failures = Vec::new();
    let mut seen = Tally::default();
    for seed in seeds() {
        assert!(start.elapsed() < LIMIT, "too slow: {seed} rulesets");
        if let Err(error) = compare(&kernel, seed, &mut seen, str::to_owned) {
            failures.push(format!("seed {seed}: {error:#}"));
        }
    }
    println!("{seen:?} in {:?}", start.elapsed());
    assert!(
        failures.is_empty(),
        "{} of {RULESETS} rulesets differ; the first ones:\n{}",
        failures.len(),
        failures[..failures.len().min(5)].join("\n\n")
    );
    if std::env::var_os("XTPROXY_SEED").is_none() {
        seen.check();
    }
}

/// What ours is told instead; the kernel must then disagree, or the comparison compares nothing.
const FAULTS: [(&str, &str); 29] = [
    (" -g user", " -j user"),
    (" -j user", " -g user"),
    ("-j RETURN", "-j ACCEPT"),
    ("-j REJECT\n", "-j DROP\n"),
    ("icmp-port-unreachable", "icmp-host-unreachable"),
    ("icmp-admin-prohibited", "icmp-net-prohibited"),
    ("tcp-reset", "icmp-net-unreachable"),
    ("-j NOTRACK", "-j ACCEPT"),
    ("-j CT --notrack", "-j ACCEPT"),
    ("--set-mark 0x3", "--set-mark 0x4"),
    ("--set-xmark 0x5", "--set-xmark 0x2"),
    ("--and-mark ", "--or-mark "),
    ("--xor-mark ", "--and-mark "),
    ("! --mark", "--mark"),
    ("! -d", "-d"),
    ("! -i", "-i"),
    ("-i eth2", "-i eth1"),
    ("-o eth2", "-o eth1"),
    ("! --dports", "--dports"),
    ("--ports", "--dports"),
    ("! --src-range", "--src-range"),
    ("! --syn", "--syn"),
    ("! --tcp-flags", "--tcp-flags"),
    ("! --icmp-type", "--icmp-type"),
    ("! --mac-source", "--mac-source"),
    ("UNTRACKED", "NEW"),
    ("--ctstate INVALID", "--ctstate NEW"),
    ("--state RELATED,ESTABLISHED", "--state NEW,ESTABLISHED"),
    (" DROP [0:0]", " ACCEPT [0:0]"),
];

#[test]
fn every_fault_is_noticed() {
    let kernel = Kernel::build().expect("a firewall of the kernel's");
    let start = Instant::now();
    let is_noticed = |(right, wrong): &(&str, &str)| {
        (0..RULESETS).any(|seed| {
            assert!(start.elapsed() < LIMIT, "too slow at {right}");
            let spoil = |text: &str| text.replace(right, wrong);
            let compared = compare(&kernel, seed, &mut Tally::default(), spoil);
            // What does not even load is no difference.
            compared.is_err_and(|error| format!("{error:#}").contains("kernel "))
        })
    };
    let silent: Vec<_> = FAULTS.iter().filter(|fault| !is_noticed(fault)).collect();
    assert!(silent.is_empty(), "these make no difference: {silent:?}");
}

/// All, or the one that the environment names.
fn seeds() -> std::ops::Range<u64> {
    match std::env::var("XTPROXY_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("XTPROXY_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..RULESETS,
    }
}

/// What was compared: all of it must have happened, often.
#[derive(Debug, Default)]
struct Tally {
    delivered: u32,
    left: u32,
    translated: u32,
    refused: u32,
    gone: u32,
    sequels: u32,
    rules: u32,
    matched: u32,
}

impl Tally {
    fn add(&mut self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            let count = match outcome {
                Outcome::Delivered => &mut self.delivered,
                Outcome::Left(_) => &mut self.left,
                Outcome::Translated(_) => &mut self.translated,
                Outcome::Refused(_) => &mut self.refused,
                Outcome::Gone => &mut self.gone,
            };
            *count += 1;
        }
    }

    fn check(&self) {
        let least = [
            self.delivered,
            self.left,
            self.translated,
            self.refused,
            self.sequels,
            self.matched,
        ];
        assert!(least.iter().all(|n| *n > 500), "{self:?}");
    }
}

/// Makes up rules and packets by `seed`; ours gets the rules that `edit` makes of them.
fn compare(
    kernel: &Kernel,
    seed: u64,
    seen: &mut Tally,
    edit: impl FnOnce(&str) -> String,
) -> Result<()> {
    let mut random = Rng::with_seed(seed);
    let ways = Ways {
        transit: !seed.is_multiple_of(3),
    };
    let mut firsts = traffic::firsts(&mut random, ways, FIRSTS);
    firsts.retain(|packet| !is_picked_up_in_transit(packet));
    let text = made_up::ruleset(&mut random, &firsts, ways);
    judge(kernel, [&text, &edit(&text)], &firsts, &mut random, seen)
        .with_context(|| format!("under\n{text}"))
}

fn judge(
    kernel: &Kernel,
    [text, edited]: [&str; 2],
    firsts: &[Packet],
    random: &mut Rng,
    seen: &mut Tally,
) -> Result<()> {
    kernel.load(text)?;
    let macs = Side::ALL.map(|side| kernel.mac(side));
    let mut ours = Ours::load(edited, macs)?;

    let outcomes = round(kernel, &mut ours, firsts)?;
    seen.add(&outcomes);
    let (theirs, own) = (kernel.counts()?, ours.counts());
    agree(&theirs, &own)?;
    seen.rules += theirs.len() as u32;
    seen.matched += theirs.values().filter(|count| **count > 0).count() as u32;

    if text.contains("NOTRACK") || text.contains("--notrack") {
        return Ok(());
    }
    let untouched = firsts.iter().zip(&outcomes);
    let untouched = untouched.filter(|(_, outcome)| !matches!(outcome, Outcome::Translated(_)));
    let sequels: Vec<_> = untouched
        .filter_map(|(first, _)| traffic::sequel(random, first))
        .collect();
    let answers: Vec<Packet> = sequels.iter().map(|s| s.answer.clone()).collect();
    let outcomes = round(kernel, &mut ours, &answers).context("answers")?;
    let nexts: Vec<Packet> = sequels
        .iter()
        .zip(&outcomes)
        .filter(|(sequel, outcome)| {
            let is_error = matches!(sequel.answer.body, Body::Error { .. });
            !is_error && matches!(outcome, Outcome::Delivered | Outcome::Left(_))
        })
        .map(|(sequel, _)| sequel.next.clone())
        .collect();
    round(kernel, &mut ours, &nexts).context("what follows answers")?;
    seen.sequels += nexts.len() as u32;
    Ok(())
}

/// Sends packets through both; they must agree about each.
fn round(kernel: &Kernel, ours: &mut Ours, packets: &[Packet]) -> Result<Vec<Outcome>> {
    let theirs = kernel.exchange(packets)?;
    let own = ours.exchange(packets)?;
    let mut differences = Vec::new();
    for (packet, (theirs, own)) in packets.iter().zip(theirs.iter().zip(&own)) {
        if theirs != own {
            differences.push(format!("kernel {theirs:?}, ours {own:?}: {packet:?}"));
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(theirs)
}

fn agree(theirs: &Counts, own: &Counts) -> Result<()> {
    let mut differences = Vec::new();
    for (name, count) in own {
        let kernel = theirs.get(name).copied().unwrap_or_default();
        if kernel != *count {
            differences.push(format!("{name}: kernel {kernel}, ours {count}"));
        }
    }
    ensure!(
        differences.is_empty(),
        "counters: {}",
        differences.join("; ")
    );
    Ok(())
}

fn is_picked_up_in_transit(packet: &Packet) -> bool {
    let is_transit = packet.sender != Sender::Box && !packet.is_for_box();
    let midst = match packet.body {
        Body::Tcp { flags, .. } => flags & (flag::SYN | flag::RST | flag::FIN) == 0,
        _ => false,
    };
    is_transit && midst
}
