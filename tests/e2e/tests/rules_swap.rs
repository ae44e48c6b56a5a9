//! Rules are replaced under traffic: every packet sees the old ones or the new ones, and
//! nothing is left of those that went.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::administrator::{filter, tproxy};
use e2e::{RELAY, Script, Stage, in_both_modes, play, server};
use lab::connection::{connect, exchange};
use lab::topology::{FW_INTRA, SERVER};
use lab::web::{PAGE, fetch_page};
use lab::{Behaviour, Mode, Peer};

in_both_modes! {
    a_thousand_swaps,
    standing_connections_are_asked_again,
    standing_connections_are_kept,
}

const SECOND: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 50081);
/// Services of the box: in one ruleset, in both, in none.
const SOMETIMES: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 2221);
const ALWAYS: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 2222);
const NEVER: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 2223);
const SOON: Duration = Duration::from_secs(2);
const SWAPS: u32 = 1000;

/// Redirects to the relay at `port`; ports 7000 to 7009 always, 80 too; 7010 in the first.
fn ruleset(is_first: bool) -> String {
    let port = if is_first { 50080 } else { 50081 };
    let range = if is_first { "7000:7010" } else { "7000:7009" };
    let redirect = |ports: &str| {
        format!(
            "-A PREROUTING -i eth1 ! -d 192.168.1.1 -p tcp --dport {ports} -j TPROXY --on-port {port}"
        )
    };
    let mut inputs = vec![
        "-A INPUT -m tproxy -j ACCEPT",
        "-A INPUT -m state --state ESTABLISHED -i eth2 -j ACCEPT",
        "-A INPUT -p tcp --dport 2222 -j ACCEPT",
    ];
    inputs.extend(is_first.then_some("-A INPUT -p tcp --dport 2221 -j ACCEPT"));
    tproxy(&[&redirect("80"), &redirect(range)]) + &filter(&inputs)
}

fn script(mode: Mode) -> Script {
    Script::new(mode)
        .with_ruleset(&ruleset(true))
        .with_relays(&[RELAY, SECOND])
        // What new rules cut stays a flow until it has been silent for so long.
        .with_timeouts(&format!(
            "{}\ntcp_handshake = 4\ntcp_established = 15",
            e2e::SHORT_ENDINGS
        ))
}

/// What the daemon holds when nothing is going on.
#[derive(Debug)]
struct Held {
    memory_kib: u64,
    descriptors: usize,
}

fn held(stage: &mut Stage) -> Result<Held> {
    stage
        .daemon
        .wait_until("flows end", |daemon| Ok(daemon.flows(&[])?.is_empty()))?;
    let pid = stage.daemon.program().pid().context("no daemon")?;
    let proc = Path::new("/proc").join(pid.to_string());
    let status = fs::read_to_string(proc.join("status"))?;
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let memory = memory.and_then(|text| text.split_whitespace().next());
    Ok(Held {
        memory_kib: memory.context("no VmRSS")?.parse()?,
        descriptors: descriptors(&proc)?,
    })
}

/// The fewest of some looks: it opens files now and then, to see who listens.
fn descriptors(proc: &Path) -> Result<usize> {
    let mut fewest = usize::MAX;
    for _ in 0..20 {
        fewest = fewest.min(fs::read_dir(proc.join("fd"))?.count());
        thread::sleep(Duration::from_millis(50));
    }
    Ok(fewest)
}

fn swap(stage: &Stage, count: u32) -> Result<()> {
    for number in 0..count {
        stage
            .commit(&ruleset(number % 2 == 1))
            .with_context(|| format!("swap {number}"))?;
    }
    Ok(())
}

fn a_thousand_swaps(mode: Mode) {
    play(&script(mode), |stage| {
        for at in [SOMETIMES, ALWAYS] {
            stage.allow_service(at);
        }
        // Nothing of it may be seen: the audit looks.
        stage.client_link.proxies.insert(NEVER);
        let _services = [SOMETIMES, ALWAYS, NEVER]
            .map(|at| Peer::listen(&stage.lab.fw, at, Behaviour::Echo))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let _echoes = [7000, 7010, 8080]
            .map(|port| stage.peer(port, Behaviour::Echo))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        swap(stage, 20)?;
        let before = held(stage)?;
        let begun = Instant::now();
        under_traffic(stage)?;
        eprintln!("{SWAPS} swaps in {:?}", begun.elapsed());
        let after = held(stage)?;
        ensure!(
            before.descriptors >= after.descriptors,
            "{before:?}, {after:?}"
        );
        // What 1 KiB a swap would be; the allocator keeps some of what was in use at once.
        let most = before.memory_kib + 4096 + u64::from(SWAPS);
        ensure!(after.memory_kib <= most, "{before:?}, {after:?}");
        ensure!(fetch_page(&stage.lab.client, SERVER)? == PAGE);
        // Each swap was one, and none is left behind.
        let status = stage.daemon.json(&["status"])?;
        let generation = status["rule_generation"].as_u64();
        ensure!(generation >= Some(u64::from(SWAPS)), "{status}");
        // No more an endpoint of a proxy: a service like others, for the filter to judge.
        stage.commit(&filter(&["-A INPUT -p tcp --dport 50081 -j ACCEPT"]))?;
        stage.client_link.proxies.remove(&SECOND);
        stage.allow_service(SECOND);
        // The relay takes it, and resets what nobody has redirected: perhaps before it is looked at.
        match stage.connect(SECOND) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                Err(error).context("what was a proxy's")
            }
            Ok(_) | Err(_) => Ok(()),
        }
    });
}

/// Clients that come and go, and one that stays, while rules change a thousand times.
fn under_traffic(stage: &Stage) -> Result<()> {
    let stop = AtomicBool::new(false);
    let (pages, echoes, denied) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let going = || !stop.load(Ordering::Relaxed);
    let staying = [stage.connect(server(7000))?, stage.connect(ALWAYS)?];
    thread::scope(|scope| {
        let fetch = scope.spawn(|| -> Result<()> {
            while going() {
                ensure!(fetch_page(&stage.lab.client, SERVER)? == PAGE);
                pages.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let echo = scope.spawn(|| -> Result<()> {
            while going() {
                for to in [server(7000), ALWAYS] {
                    let stream = stage.connect(to)?;
                    ensure!(exchange(&stream, "again")? == "again");
                }
                for stream in &staying {
                    ensure!(exchange(stream, "still")? == "still", "one that stays");
                }
                echoes.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let knock = scope.spawn(|| -> Result<()> {
            while going() {
                for to in [server(8080), NEVER] {
                    let short = Duration::from_millis(300);
                    let came = connect(&stage.lab.client, None, to, short);
                    ensure!(came.is_err(), "{to} let us in");
                    denied.fetch_add(1, Ordering::Relaxed);
                }
                // These depend on the moment; whatever they do must be one of the two.
                for to in [server(7010), SOMETIMES] {
                    let short = Duration::from_millis(300);
                    drop(connect(&stage.lab.client, None, to, short));
                }
            }
            Ok(())
        });
        let swapped = swap(stage, SWAPS);
        stop.store(true, Ordering::Relaxed);
        for (name, thread) in [("fetch", fetch), ("echo", echo), ("knock", knock)] {
            thread.join().expect("no panic").context(name)?;
        }
        swapped
    })?;
    let counts = [&pages, &echoes, &denied].map(|count| count.load(Ordering::Relaxed));
    // A knock takes its time to be in vain.
    ensure!(counts.iter().all(|count| *count > 3), "{counts:?}");
    Ok(())
}

/// What no longer may is cut, what still may goes on, wherever it was redirected to.
fn standing_connections_are_asked_again(mode: Mode) {
    standing(mode, false);
}

/// With `established = "keep"` all go on, and only new ones are judged.
fn standing_connections_are_kept(mode: Mode) {
    standing(mode, true);
}

fn standing(mode: Mode, keep: bool) {
    let mut script = script(mode);
    if keep {
        script.tables += "\n[rules]\nestablished = \"keep\"\n";
    }
    play(&script, |stage| {
        for at in [SOMETIMES, ALWAYS] {
            stage.allow_service(at);
        }
        let _services = [SOMETIMES, ALWAYS]
            .map(|at| Peer::listen(&stage.lab.fw, at, Behaviour::Echo))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let _echoes = [7000, 7010]
            .map(|port| stage.peer(port, Behaviour::Echo))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let open = |to| -> Result<_> {
            let stream = stage.connect(to)?;
            ensure!(exchange(&stream, "first")? == "first");
            stream.set_read_timeout(Some(SOON))?;
            Ok(stream)
        };
        let [sometimes, always] = [open(SOMETIMES)?, open(ALWAYS)?];
        let [both, one] = [open(server(7000))?, open(server(7010))?];
        stage.commit(&ruleset(false))?;
        for (name, stream, stays) in [
            ("a service of both", &always, true),
            ("a redirect of both", &both, true),
            ("a service of one", &sometimes, keep),
            ("a redirect of one", &one, keep),
        ] {
            let answer = exchange(stream, "second").map_err(|error| error.kind());
            ensure!(answer.is_ok() == stays, "{name}: {answer:?}");
        }
        // It stays with the relay that has it.
        drop(both);
        stage.relays[0].wait_line(&["192.168.1.10", &format!("-> {}", server(7000))])?;
        ensure!(stage.is_dropped(None, SOMETIMES)?, "a new one");
        ensure!(stage.is_dropped(None, server(7010))?, "a new redirect");
        let new = open(server(7000))?;
        drop(new);
        stage.relays[1].wait_line(&["192.168.1.10", &format!("-> {}", server(7000))])?;
        Ok(())
    });
}
