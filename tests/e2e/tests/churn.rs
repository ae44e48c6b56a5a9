//! Registrations by the hundred thousand, and while packets flow.

use std::fs;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{RELAY, Script, Stage, play, server};
use lab::connection::{TIMEOUT, exchange};
use lab::topology::{CLIENT, FW_INTER, FW_INTRA, SERVER};
use lab::web::fetch_sha256;
use lab::{Behaviour, Mode};
use socket2::{Domain, SockAddr, Socket, Type};
use xtproxy_client::{Flags, ForeignListener, Registrar, foreign_connect};

const THREADS: u8 = 8;

#[test]
fn a_hundred_thousand_cycles_leave_nothing() {
    cycles(Mode::Auto, 100_000);
}

#[test]
fn ten_thousand_cycles_leave_nothing_generic() {
    cycles(Mode::Generic, 10_000);
}

#[test]
fn registrations_come_and_go_native() {
    come_and_go(Mode::Auto);
}

#[test]
fn registrations_come_and_go_generic() {
    come_and_go(Mode::Generic);
}

/// The foreign address of a thread: nobody has it.
fn foreign(thread: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, thread + 1)
}

fn everybody() -> Vec<Ipv4Addr> {
    (0..THREADS).map(foreign).collect()
}

/// Each thread has a share of `count` cycles; the daemon must be as it was after the first few.
fn cycles(mode: Mode, count: u32) {
    let script = Script::new(mode)
        .with_relays(&[])
        .with_timeouts("tcp_closed = 1\ntcp_transitory = 4\ntcp_handshake = 4");
    play(&script, |stage| {
        stage.servers_see_only(&everybody());
        // What has had connections is remembered for some seconds, and memory kept for the next:
        // as much as there is at once now may stay.
        cycle_all(stage, count)?;
        let before = settled(stage)?;
        let begun = Instant::now();
        cycle_all(stage, count)?;
        let took = begun.elapsed();
        let after = settled(stage)?;
        eprintln!("{count} cycles in {took:?}; daemon before {before:?}, after {after:?}");
        ensure!(
            after.descriptors <= before.descriptors,
            "descriptors: {} before, {} after",
            before.descriptors,
            after.descriptors
        );
        // A hundred bytes for each cycle, a third of what a registration takes: there may have been
        // more at once than before, but nothing grows with what has been.
        let most = before.memory_kib + 2048 + u64::from(count) * 100 / 1024;
        ensure!(
            after.memory_kib <= most,
            "memory: {} KiB before, {} KiB after",
            before.memory_kib,
            after.memory_kib
        );
        // And the ports: each can be had again.
        cycle_all(stage, 800)
    });
}

/// What the daemon holds when nothing is going on.
#[derive(Debug)]
struct Held {
    memory_kib: u64,
    descriptors: usize,
}

/// Waits until no flow, registration or diverted endpoint is left.
fn settled(stage: &mut Stage) -> Result<Held> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let status = stage.daemon.json(&["status"])?;
        let left = (&status["registrations"], &status["flows"]);
        if *left.0 == 0 && *left.1 == 0 {
            break;
        }
        ensure!(Instant::now() < until, "registrations, flows: {left:?}");
        thread::sleep(Duration::from_millis(100));
    }
    let pid = stage.daemon.program().pid().context("no daemon")?;
    let proc = Path::new("/proc").join(pid.to_string());
    let status = fs::read_to_string(proc.join("status"))?;
    let memory = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let memory = memory.and_then(|text| text.split_whitespace().next());
    // Whoever asked a moment ago, or a question to the kernel, may still hold one.
    let mut fewest = usize::MAX;
    for _ in 0..10 {
        fewest = fewest.min(fs::read_dir(proc.join("fd"))?.count());
        thread::sleep(Duration::from_millis(100));
    }
    Ok(Held {
        memory_kib: memory.context("no VmRSS")?.parse()?,
        descriptors: fewest,
    })
}

fn cycle_all(stage: &Stage, count: u32) -> Result<()> {
    let left = AtomicU32::new(count);
    let registrar = stage.registrar()?;
    let deadline = Instant::now() + Duration::from_secs(240);
    thread::scope(|scope| {
        let threads = (0..THREADS).map(|number| {
            let (left, registrar) = (&left, &registrar);
            scope.spawn(move || {
                stage.lab.fw.enter(|| {
                    while left
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                        .is_ok()
                    {
                        ensure!(Instant::now() < deadline, "too slow");
                        cycle(registrar, foreign(number))?;
                    }
                    Ok(())
                })
            })
        });
        join(threads.collect())
    })
}

fn join(threads: Vec<thread::ScopedJoinHandle<'_, Result<()>>>) -> Result<()> {
    threads.into_iter().try_for_each(|thread| {
        let ended = thread.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Assign, connect, unassign. The reset spares this kernel a port in TIME_WAIT.
fn cycle(registrar: &Registrar, foreign: Ipv4Addr) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SockAddr::from(SocketAddrV4::new(FW_INTER, 0)))?;
    let foreign = SocketAddrV4::new(foreign, 0);
    registrar.assign_with(&socket, foreign, Some(server(80)), Flags::CONNECT)?;
    socket
        .connect_timeout(&SocketAddr::V4(server(80)).into(), TIMEOUT)
        .with_context(|| format!("connect from {foreign}"))?;
    registrar.unassign(&socket)?;
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(())
}

/// Threads connect from and listen at foreign addresses, let go, and do it again, while a large
/// file is on its way.
fn come_and_go(mode: Mode) {
    let script = Script::new(mode).with_relays(&[]);
    let reports = play(&script, |stage| {
        stage.proxy("relay", RELAY, &["--as-client"])?;
        let mut seen = everybody();
        seen.push(CLIENT);
        stage.servers_see_only(&seen);
        for thread in 0..THREADS {
            for port in 2000..2010 {
                stage.clients_see(SocketAddrV4::new(foreign(thread), port));
            }
        }
        let peer = stage.peer(7050, Behaviour::Echo)?;
        let sum = stage.web.add_random("file", 20_000_000)?;
        let (stage, is_over) = (&*stage, AtomicBool::new(false));
        let rounds = AtomicU32::new(0);
        thread::scope(|scope| {
            let busy = (0..THREADS).map(|number| {
                let (is_over, rounds, to) = (&is_over, &rounds, peer.address);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Acquire) {
                        connects(stage, number, to).context("connect")?;
                        listens(stage, number).context("listen")?;
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            });
            let busy: Vec<_> = busy.collect();
            let fetched = (0..5).try_for_each(|_| {
                let came = fetch_sha256(&stage.lab.client, SERVER, "file", stage.lab.dir())?;
                ensure!(came == sum, "the file is another");
                thread::sleep(Duration::from_secs(1));
                Ok(())
            });
            is_over.store(true, Ordering::Release);
            join(busy)?;
            fetched
        })?;
        let rounds = rounds.into_inner();
        eprintln!("{rounds} rounds");
        ensure!(rounds >= 40, "only {rounds} rounds");
        Ok(())
    });
    assert!(
        reports.server.count("tcp") > 1000,
        "{:?}",
        reports.server.kinds
    );
}

/// A conversation from a foreign address that ends in the middle: what the kernel still has to
/// say must not leave as the box's own.
fn connects(stage: &Stage, number: u8, to: SocketAddrV4) -> Result<()> {
    let registrar = stage.registrar()?;
    let from = SocketAddrV4::new(foreign(number), 0);
    let stream = stage
        .lab
        .fw
        .enter(|| Ok(foreign_connect(&registrar, from, to, None, TIMEOUT)?))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    ensure!(exchange(&stream, "hello")? == "hello", "another answer");
    registrar.unassign(&stream)?;
    ensure!(exchange(&stream, "still")? == "still", "another answer");
    Ok(())
}

fn listens(stage: &Stage, number: u8) -> Result<()> {
    let registrar = stage.registrar()?;
    let at = SocketAddrV4::new(foreign(number), 2000 + u16::from(rotating()));
    let listener = stage
        .lab
        .fw
        .enter(|| Ok(ForeignListener::bind(&registrar, at, FW_INTRA)?))?;
    let stream = stage.connect(at)?;
    let (accepted, _) = listener.accept_within(TIMEOUT)?;
    // Let go before anything is said.
    drop(listener);
    std::io::Write::write_all(&mut &accepted, b"hello\n")?;
    accepted.shutdown(Shutdown::Write)?;
    ensure!(
        lab::connection::read_line(&stream)? == "hello",
        "another word"
    );
    Ok(())
}

/// A small number that is another at each call.
fn rotating() -> u8 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    u8::try_from(NEXT.fetch_add(1, Ordering::Relaxed) % 10).unwrap_or_default()
}
