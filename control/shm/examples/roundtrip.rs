//! What a call through the shared memory costs, beside a `setsockopt` and a `getsockopt` on
//! this machine, measured in turn. The server is one process and the client another.
//!
//! `cargo run --release -p xtproxy-shm --example roundtrip`

use std::env;
use std::error::Error;
use std::net::UdpSocket;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use shm::{Access, ClientEnd, Handover, Operation, Reply, Request, ServerEnd};

type Outcome<T> = Result<T, Box<dyn Error>>;

const RUNS: usize = 15;
const CALLS: u32 = 10_000;
/// How long a server that lingers looks for another call before it rests.
const LINGER_US: u32 = 50;

fn main() -> Outcome<()> {
    if let Some(path) = env::args().nth(1) {
        return client(Path::new(&path));
    }
    let folder = env::temp_dir().join(format!("roundtrip-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let outcome = server(&folder.join("socket"));
    std::fs::remove_dir_all(&folder)?;
    outcome
}

/// Serves one client until it hangs up. A call's flags say how long to linger from then on.
fn server(path: &Path) -> Outcome<()> {
    let listener = UnixListener::bind(path)?;
    let mut child = Command::new(env::current_exe()?).arg(path).spawn()?;
    let (socket, _) = listener.accept()?;
    let (mut end, handover) = ServerEnd::create()?;
    handover.send(&socket)?;
    drop(handover);
    let mut linger = Duration::ZERO;
    let mut last = Instant::now();
    loop {
        let served = end.serve(|request| {
            linger = Duration::from_micros(request.flags.into());
            Reply::default()
        })?;
        if served > 0 && !linger.is_zero() {
            last = Instant::now();
        }
        if last.elapsed() < linger {
            std::hint::spin_loop();
            continue;
        }
        if end.rest() {
            let mut fds = [
                PollFd::new(&end, PollFlags::IN),
                PollFd::new(&socket, PollFlags::RDHUP),
            ];
            poll(&mut fds, None::<&Timespec>)?;
            if !fds[1].revents().is_empty() {
                break;
            }
        }
    }
    child.wait()?;
    Ok(())
}

fn client(path: &Path) -> Outcome<()> {
    let socket = UnixStream::connect(path)?;
    let channel = ClientEnd::map(Handover::receive(&socket)?, socket.into())?;
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    let call = |linger: u32| -> Outcome<()> {
        let mut request = Request::new(Operation::Query, Access::Get, 0);
        request.flags = linger;
        channel.call(&request)?;
        Ok(())
    };
    let mut runs: [(&str, Vec<f64>); 4] = [
        ("setsockopt(IP_TTL)", Vec::new()),
        ("getsockopt(IP_TTL)", Vec::new()),
        ("call, server rests at once", Vec::new()),
        ("call, server lingers", Vec::new()),
    ];
    for _ in 0..RUNS {
        runs[0].1.push(time(|| Ok(sockopt::set_ip_ttl(&udp, 64)?))?);
        runs[1].1.push(time(|| {
            sockopt::ip_ttl(&udp).map(drop).map_err(Into::into)
        })?);
        call(0)?;
        runs[2].1.push(time(|| call(0))?);
        call(LINGER_US)?;
        runs[3].1.push(time(|| call(LINGER_US))?);
    }
    println!("median of {RUNS} runs of {CALLS} each, in turn");
    let medians = runs.map(|(name, mut times)| {
        times.sort_by(f64::total_cmp);
        (name, times[RUNS / 2])
    });
    for (name, ns) in medians {
        let ratio = ns / medians[0].1;
        println!("{name:<28} {ns:>9.0} ns  {ratio:>6.1} x setsockopt");
    }
    Ok(())
}

/// Nanoseconds for one.
fn time(mut one: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let start = Instant::now();
    for _ in 0..CALLS {
        one()?;
    }
    Ok(start.elapsed().as_nanos() as f64 / f64::from(CALLS))
}
