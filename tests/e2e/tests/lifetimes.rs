//! How registrations end, and what outlives what.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Script, Stage, in_both_modes, play};
use lab::command::run;
use lab::connection::{TIMEOUT, exchange};
use lab::source::preloaded;
use lab::topology::{FW_INTER, FW_INTRA, SERVER};
use lab::web::curl;
use lab::{Behaviour, Mode, Peer, Program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtproxy_client::{Flags, ForeignListener, foreign_connect};

in_both_modes! {
    sigkill_frees_ten_thousand,
    close_ends_them,
    exec_ends_what_it_closes,
    exec_keeps_what_it_keeps,
    a_childs_copy_keeps_them,
    connections_outlive_their_listener,
    a_restarted_daemon_adopts,
    nothing_leaks_around_a_crash,
}

/// An address that nobody has.
const FOREIGN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const FIRST: u16 = 10_000;

fn script(mode: Mode) -> Script {
    Script::new(mode).with_timeouts(e2e::SHORT_ENDINGS)
}

/// Starts a process with `count` listeners.
fn holder(stage: &Stage, count: usize, then: &str) -> Result<Program> {
    let program = stage.compile("holder.c")?;
    let mut command = preloaded(&stage.lab, &program)?;
    command.args([FW_INTRA.to_string(), FOREIGN.to_string()]);
    command.args([FIRST.to_string(), count.to_string(), then.to_owned()]);
    let mut holder = Program::start(stage.lab.dir(), "holder", command)?;
    holder.wait_for("ready")?;
    ensure!(registered(stage)? == count, "{count} were registered");
    Ok(holder)
}

/// How many there are, orphans included.
fn registered(stage: &Stage) -> Result<usize> {
    let status = stage.daemon.json(&["status"])?;
    let count = status["registrations"].as_u64();
    Ok(usize::try_from(
        count.context("status has no registrations")?,
    )?)
}

/// Waits until none is left; returns how long that took.
fn until_none(stage: &Stage, since: Instant) -> Result<Duration> {
    while registered(stage)? > 0 {
        let left = registered(stage)?;
        ensure!(since.elapsed() < TIMEOUT, "{left} registrations are left");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(since.elapsed())
}

fn sigkill_frees_ten_thousand(mode: Mode) {
    play(&script(mode), |stage| {
        let sum = stage.web.add_random("file", 40_000_000)?;
        let mut holder = holder(stage, 10_000, "close")?;
        let copy = stage.lab.dir().join("copy");
        let mut fetch = curl(&stage.lab.client);
        fetch.args(["--limit-rate", "15M", "--output"]).arg(&copy);
        fetch.arg(format!("http://{SERVER}/file"));
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let fetching = scope.spawn(|| {
                let fetched = run(&mut fetch);
                is_over.store(true, Ordering::Release);
                fetched
            });
            thread::sleep(Duration::from_millis(500));
            // When it can be waited for, the kernel has closed its sockets.
            holder.end(Signal::SIGKILL)?;
            let took = until_none(stage, Instant::now())?;
            let went_on = !is_over.load(Ordering::Acquire);
            ensure!(went_on, "the download ended before");
            eprintln!("10000 registrations freed in {took:?}");
            ensure!(took < Duration::from_secs(1), "it took {took:?}");
            let fetched = fetching.join();
            fetched.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        assert_eq!(lab::files::sha256(&copy)?, sum);
        let rows = stage.daemon.ask(&["registrations"])?;
        ensure!(!rows.contains("203.0.113.5"), "{rows}");
        Ok(())
    });
}

fn close_ends_them(mode: Mode) {
    ended_by(mode, "close");
}

fn exec_ends_what_it_closes(mode: Mode) {
    ended_by(mode, "exec");
}

fn ended_by(mode: Mode, then: &str) {
    play(&script(mode), |stage| {
        let mut holder = holder(stage, 20, then)?;
        holder.signal(Signal::SIGUSR1)?;
        until_none(stage, Instant::now())?;
        ensure!(holder.ended()?.is_none(), "it was its end, not `{then}`");
        Ok(())
    });
}

fn exec_keeps_what_it_keeps(mode: Mode) {
    play(&script(mode), |stage| {
        let mut holder = holder(stage, 20, "exec-keeps")?;
        let name = format!("/proc/{}/comm", holder.pid().context("no process")?);
        holder.signal(Signal::SIGUSR1)?;
        let is_other = |_: &_| Ok(std::fs::read_to_string(&name)?.trim() == "sleep");
        stage.daemon.wait_until("it is another program", is_other)?;
        thread::sleep(Duration::from_secs(1));
        assert_eq!(registered(stage)?, 20);
        holder.end(Signal::SIGKILL)?;
        until_none(stage, Instant::now()).map(drop)
    });
}

/// The registration belongs to the socket, and a forked child has it too.
fn a_childs_copy_keeps_them(mode: Mode) {
    play(&script(mode), |stage| {
        let mut holder = holder(stage, 20, "fork")?;
        holder.signal(Signal::SIGUSR1)?;
        holder.wait()?;
        thread::sleep(Duration::from_secs(1));
        assert_eq!(registered(stage)?, 20);
        let pids =
            run(std::process::Command::new("ip").args(["netns", "pids", stage.lab.fw.name()]))?;
        let is_holder = |pid: &&str| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.trim() == "holder")
        };
        let child = pids.lines().find(is_holder).context("no child")?;
        kill(Pid::from_raw(child.parse()?), Signal::SIGKILL)?;
        until_none(stage, Instant::now()).map(drop)
    });
}

/// A listener of this process, at the firewall.
fn listener(stage: &Stage, port: u16) -> Result<ForeignListener> {
    let registrar = stage.registrar()?;
    let foreign = SocketAddrV4::new(FOREIGN, port);
    stage
        .lab
        .fw
        .enter(|| Ok(ForeignListener::bind(&registrar, foreign, FW_INTRA)?))
}

fn connections_outlive_their_listener(mode: Mode) {
    play(&script(mode), |stage| {
        let listener = listener(stage, 2121)?;
        let foreign = listener.foreign_addr();
        stage.clients_see(foreign);
        stage.client_link.proxies.insert(listener.local_addr());
        let stream = stage.connect(foreign)?;
        let (accepted, client) = listener.accept_within(TIMEOUT)?;
        assert_eq!(std::net::SocketAddr::V4(client), stream.local_addr()?);
        drop(listener);
        stage.daemon.wait_until("it is an orphan", |_| {
            let all = stage.registrations()?;
            Ok(all.len() == 1 && all[0]["state"] == "orphan")
        })?;
        ensure!(stage.is_dropped(None, foreign)?, "it takes new ones");
        thread::scope(|scope| {
            scope.spawn(|| std::io::copy(&mut &accepted, &mut &accepted));
            let answer = exchange(&stream, "alive");
            drop(stream);
            assert_eq!(answer?, "alive");
            anyhow::Ok(())
        })?;
        drop(accepted);
        stage.registrations_end()
    });
}

fn a_restarted_daemon_adopts(mode: Mode) {
    play(&script(mode), |stage| {
        let (kept, lost) = (listener(stage, 2121)?, listener(stage, 2122)?);
        for listener in [&kept, &lost] {
            stage.clients_see(listener.foreign_addr());
            stage.client_link.proxies.insert(listener.local_addr());
        }
        let peer = stage.peer(7050, Behaviour::Echo)?;
        let (socket, bound) = waiting_socket(stage, &peer)?;
        stage.server_link.proxies.insert(bound);
        stage.daemon.crash()?;
        let gone = lost.foreign_addr();
        drop(lost);
        stage.daemon.start_again(&stage.lab)?;
        // The proxy does nothing but accept.
        let stream = stage.connect(kept.foreign_addr())?;
        let (_accepted, client) = kept.accept_within(TIMEOUT)?;
        assert_eq!(std::net::SocketAddr::V4(client), stream.local_addr()?);
        ensure!(stage.is_dropped(None, gone)?, "a closed one was adopted");
        socket.connect_timeout(&std::net::SocketAddr::V4(peer.address).into(), TIMEOUT)?;
        let stream = std::net::TcpStream::from(socket);
        assert_eq!(exchange(&stream, "adopted")?, "adopted");
        assert_eq!(
            peer.visits()[0].from,
            SocketAddrV4::new(FOREIGN, 4711).into()
        );
        // The closed one may still be an orphan: the kernel could have something to say.
        let all = stage.registrations()?;
        let live = all.iter().filter(|one| one["state"] == "live").count();
        ensure!(live == 2, "{all:?}");
        Ok(())
    });
}

/// A restarted daemon knows no connections any more, but the kernel does, and repeats itself. Not
/// even of a socket that closed while there was no daemon may a word leave as the box's own.
fn nothing_leaks_around_a_crash(mode: Mode) {
    let reports = play(&script(mode), |stage| {
        stage.servers_see_only(&[FOREIGN]);
        let peer = stage.peer(7050, Behaviour::Echo)?;
        let registrar = stage.registrar()?;
        let connect = || -> Result<std::net::TcpStream> {
            let foreign = SocketAddrV4::new(FOREIGN, 0);
            let connect = || foreign_connect(&registrar, foreign, peer.address, None, TIMEOUT);
            let stream = stage.lab.fw.enter(|| Ok(connect()?))?;
            assert_eq!(exchange(&stream, "before")?, "before");
            Ok(stream)
        };
        let (open, closed) = (connect()?, connect()?);
        stage.daemon.crash()?;
        for mut stream in [&open, &closed] {
            stream.write_all(b"nobody is there\n")?;
        }
        thread::sleep(Duration::from_millis(500));
        drop(closed);
        stage.daemon.start_again(&stage.lab)?;
        (&open).write_all(b"nobody knows me\n")?;
        // Time for the kernel to say it all a few times more.
        thread::sleep(Duration::from_secs(4));
        assert_eq!(peer.visits().len(), 2);
        drop(open);
        thread::sleep(Duration::from_secs(1));
        Ok(())
    });
    assert!(reports.server.count("tcp") > 0);
}

/// A socket that is registered and not yet connected, and where it is bound.
fn waiting_socket(stage: &Stage, peer: &Peer) -> Result<(socket2::Socket, SocketAddrV4)> {
    use socket2::{Domain, SockAddr, Socket, Type};
    let registrar = stage.registrar()?;
    let socket = stage.lab.fw.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SockAddr::from(SocketAddrV4::new(FW_INTER, 0)))?;
        Ok(socket)
    })?;
    let foreign = SocketAddrV4::new(FOREIGN, 4711);
    registrar.assign_with(&socket, foreign, Some(peer.address), Flags::CONNECT)?;
    let bound = socket.local_addr()?.as_socket_ipv4();
    Ok((socket, bound.context("bound to IPv4")?))
}
