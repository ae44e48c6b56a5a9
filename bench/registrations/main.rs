//! What a registration costs a proxy: the round trip to a running daemon by the client library,
//! beside a plain `setsockopt` on the same machine, measured in turn; and how many registered
//! sockets a second there can be, beside sockets that register nothing.
//!
//! As root, after `make build`: `target/release/bench-registrations`. It makes network
//! namespaces of its own, with a daemon inside, and removes them. Rates and ratios belong to
//! the machine and its load at that time; `--help` has the bounds.

mod call;
mod life;
mod machine;
mod perf;
mod place;
mod spread;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use lab::{Config, Daemon, Lab, Mode, Plan, daemon};
use nix::unistd::{Pid, getpid};
use xtproxy_client::Registrar;

use call::{CALLS, Call, Subject};
use perf::Perf;
use place::{PLACES, Place, Places};
use spread::Spread;

/// No rule: registrations come before them, and packets have no part in this.
const RULES: &str = "*tproxy\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n";

/// Measures registrations against plain socket options.
#[derive(Parser)]
struct Arguments {
    /// How often each is measured.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..=1000))]
    rounds: u32,
    /// How many calls one measurement has.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    calls: u32,
    /// After how many seconds of either part no further round begins; three are made in any case.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let lab = Lab::build(&Plan::default())?;
    let mut daemon = Daemon::start(&lab, &Config::new(Mode::Auto, RULES))?;
    let pid = daemon.program().pid().context("the daemon has no pid")?;
    let measured = lab.fw.enter(|| {
        let registrar = Registrar::connect_to(daemon::runtime_dir(&lab))?;
        println!("{}", machine::describe()?);
        measure(&registrar, &arguments, pid)
    });
    daemon.check_alive()?;
    measured
}

fn measure(registrar: &Registrar, arguments: &Arguments, daemon: Pid) -> Result<()> {
    round_trips(registrar, arguments, daemon)?;
    cpu_time(registrar, &[getpid(), daemon])?;
    lives(registrar, arguments)
}

/// Every kind of call once in each round, and who comes first changes.
fn round_trips(registrar: &Registrar, arguments: &Arguments, daemon: Pid) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    let subject = Subject::new(registrar)?;
    let places = Places::new(daemon)?;
    let kinds = kinds(&places)?;
    let mut us: Vec<Vec<f64>> = vec![Vec::new(); kinds.len()];
    for round in 0..arguments.rounds as usize {
        if round >= 3 && Instant::now() > until {
            break;
        }
        for turn in 0..kinds.len() {
            let which = (round + turn) % kinds.len();
            let (call, place) = kinds[which];
            places.put(place)?;
            // The place is new, and the channel learns how long to look for its answers.
            subject.time(call, arguments.calls.div_ceil(10))?;
            let time = subject.time(call, arguments.calls)?;
            us[which].push(time.as_secs_f64() * 1e6);
        }
    }
    println!(
        "\none call, median of {} rounds of {} calls, in turn, one thread:",
        us[0].len(),
        arguments.calls
    );
    for ((call, place), times) in kinds.iter().zip(&us) {
        // Each round has its own ratio, so that a busy moment does not count for one alone.
        let ratios = times.iter().zip(&us[0]).map(|(time, plain)| time / plain);
        let ratio = Spread::of(ratios);
        println!(
            "{:<26} {:>8.2} us    {:>6.1} x setsockopt (from {})",
            call.name().to_owned() + place.name(),
            Spread::of(times.iter().copied()).median,
            ratio.median,
            ratio.range(1),
        );
    }
    Ok(())
}

/// The yardsticks, and then the calls to the daemon in every place that this machine has.
fn kinds(places: &Places) -> Result<Vec<(Call, Place)>> {
    let (asking, plain): (Vec<Call>, Vec<Call>) =
        CALLS.into_iter().partition(|call| call.asks_daemon());
    let mut kinds: Vec<_> = plain
        .into_iter()
        .map(|call| (call, Place::Anywhere))
        .collect();
    for place in PLACES {
        if places.put(place)? {
            kinds.extend(asking.iter().map(|call| (*call, place)));
        }
    }
    Ok(kinds)
}

/// What `perf` counts for both processes, for each round trip.
fn cpu_time(registrar: &Registrar, pids: &[Pid]) -> Result<()> {
    println!("\none call, client and daemon together, as perf counts:");
    let subject = Subject::new(registrar)?;
    for call in [Call::SetTtl, Call::Query, Call::Assign] {
        let Some(perf) = Perf::start(pids)? else {
            println!("perf is not installed: no CPU time, no cycles");
            return Ok(());
        };
        let counted = perf.while_calling(|calls| subject.time(call, calls))?;
        println!("{:<26} {counted}", call.cycle_name());
    }
    Ok(())
}

/// Sockets from `socket` to `close`, with a registration and without, in turn.
fn lives(registrar: &Registrar, arguments: &Arguments) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    println!("\nsockets a second, each made, bound, registered (assign+flags, unassign), closed:");
    let count = arguments.calls.div_ceil(2);
    for threads in [1, 4] {
        let (mut plain, mut registered) = (Vec::new(), Vec::new());
        for round in 0..arguments.rounds {
            if round >= 3 && Instant::now() > until {
                break;
            }
            plain.push(life::per_second(None, threads, count)?);
            registered.push(life::per_second(Some(registrar), threads, count)?);
        }
        let rounds = plain.len();
        let ratios = registered
            .iter()
            .zip(&plain)
            .map(|(with, without)| with / without);
        let ratio = Spread::of(ratios).median;
        let (plain, registered) = (Spread::of(plain), Spread::of(registered));
        println!(
            "{threads} thread{} {:>9.0} (from {}); without registration {:.0}, ratio {ratio:.3}, \
             {rounds} rounds",
            if threads == 1 { " " } else { "s" },
            registered.median,
            registered.range(0),
            plain.median,
        );
    }
    Ok(())
}
