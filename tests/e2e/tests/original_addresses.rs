//! UDP: original addresses of each datagram, answers from there, and connected sockets.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::{Script, Stage, in_both_modes, play, server};
use lab::connection::TIMEOUT;
use lab::datagrams::ask;
use lab::source::preloaded;
use lab::topology::{CLIENT, FW_INTER, FW_INTRA};
use lab::{DatagramEcho, Mode, Program};
use socket2::{Domain, SockAddr, Socket, Type};
use xtproxy_client::Flags;

in_both_modes! {
    ten_thousand_datagrams_from_a_thousand_sources,
    another_socket_answers,
    a_connected_socket_has_a_foreign_address,
}

const LISTENER: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 50053);
/// An address that nobody has.
const FOREIGN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 53), 53);
const SOURCES: u16 = 1000;
const EACH: u16 = 10;

/// A rule brings datagrams for ten ports of every server to the listener too.
fn script(mode: Mode) -> Script {
    Script::new(mode)
        .with_rules(&["-A PREROUTING -i eth1 -p udp --dport 7000:7009 -j TPROXY --on-port 50053"])
        .with_relays(&[])
        .with_timeouts("udp = 30")
}

/// Where the datagram `n` of a source goes: some to the registered endpoint, others by the rule.
fn destination(n: u16) -> SocketAddrV4 {
    if n == 0 { FOREIGN } else { server(7000 + n) }
}

fn ten_thousand_datagrams_from_a_thousand_sources(mode: Mode) {
    let reports = play(&script(mode), |stage| {
        stage.client_link.proxies.insert(LISTENER);
        let count = usize::from(SOURCES) * usize::from(EACH);
        let mut listener = start(stage, count)?;
        let expected = stage.lab.client.enter(send_all)?;
        assert_eq!(expected.len(), count);
        listener.wait()?;
        let said = listener.stdout();
        let mut lines: Vec<&str> = said.lines().collect();
        ensure!(lines.first() == Some(&"ready"), "{}", listener.stderr());
        lines.retain(|line| !["ready", "end"].contains(line));
        let got: BTreeSet<&str> = lines.iter().copied().collect();
        let missing = expected.iter().filter(|line| !got.contains(line.as_str()));
        let missing: Vec<_> = missing.take(5).collect();
        let drops = stage.daemon.ask(&["stats"])?;
        ensure!(
            lines.len() == count && missing.is_empty(),
            "{} of {count} came; not as they were sent: {missing:?}\n{}\n{drops}",
            lines.len(),
            listener.stderr()
        );
        ensure!(got.len() == count, "some came twice");
        stage.registrations_end()
    });
    assert_eq!(reports.server.count("udp"), 0, "{reports:?}");
}

fn start(stage: &Stage, count: usize) -> Result<Program> {
    let program = stage.compile("datagrams.c")?;
    let mut command = preloaded(&stage.lab, &program)?;
    let at = |at: SocketAddrV4| [at.ip().to_string(), at.port().to_string()];
    command.args(at(LISTENER)).args(at(FOREIGN));
    command.arg(count.to_string());
    let mut listener = Program::start(stage.lab.dir(), "datagrams", command)?;
    listener.wait_for("ready")?;
    Ok(listener)
}

/// Each datagram says where it comes from and goes to; returns what the listener must print.
fn send_all() -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    let sources = (0..SOURCES).map(|n| {
        let source = SocketAddrV4::new(CLIENT, 20_000 + n);
        UdpSocket::bind(source).map(|socket| (source, socket))
    });
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    for n in 0..EACH {
        for (number, (source, socket)) in sources.iter().enumerate() {
            let to = destination(n);
            let text = format!("{source}>{to}");
            socket.send_to(text.as_bytes(), to)?;
            all.insert(format!("{source} {to} {text}"));
            // Slower than any queue on the way is small.
            if number % 20 == 0 {
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
    Ok(all)
}

/// The listener's answers have to come from where the question went: a second socket does it.
fn another_socket_answers(mode: Mode) {
    let asker = SocketAddrV4::new(CLIENT, 20_500);
    let reports = play(&script(mode), |stage| {
        stage.client_link.proxies.insert(LISTENER);
        let registrar = stage.registrar()?;
        let listener = stage.lab.fw.enter(|| Ok(UdpSocket::bind(LISTENER)?))?;
        listener.set_read_timeout(Some(TIMEOUT))?;
        let uses = Flags::LISTEN | Flags::UNIDIR;
        registrar.assign_with(&listener, FOREIGN, None, uses)?;
        let socket = stage.lab.client.enter(|| Ok(UdpSocket::bind(asker)?))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        for to in [FOREIGN, server(7003), server(7004)] {
            socket.connect(to)?;
            for round in 0..2 {
                let shown = heard(&socket, &listener, b"question")
                    .with_context(|| format!("question {round} to {to}"))?;
                let original = registrar.original_destination(&listener, Some(shown))?;
                assert_eq!((original.source, original.destination), (asker, to));
                let back = stage.lab.fw.enter(sharing)?;
                back.set_read_timeout(Some(TIMEOUT))?;
                registrar
                    .assign_with(&back, to, Some(asker), Flags::CONNECT)
                    .with_context(|| format!("answer {round} from {to}"))?;
                let mut bytes = [0; 64];
                back.send_to(b"answer", asker)?;
                let len = socket.recv(&mut bytes).context("the answer")?;
                assert_eq!(&bytes[..len], b"answer", "{to} {round}");
                // From now on it is a conversation with the second socket.
                let shown = heard(&socket, &back, b"more").context("more")?;
                assert_eq!(shown, asker);
                drop(back);
                stage
                    .daemon
                    .wait_until("the second socket is forgotten", |_| {
                        Ok(stage.registrations()?.len() == 1)
                    })?;
            }
        }
        drop(listener);
        stage.registrations_end()
    });
    let from: BTreeSet<_> = reports.client.udp.keys().map(|(from, _)| *from).collect();
    assert_eq!(from, [FOREIGN, server(7003), server(7004)].into());
}

/// Says `words` to whom the socket is connected; returns as whom `listener` sees it.
fn heard(socket: &UdpSocket, listener: &UdpSocket, words: &[u8]) -> Result<SocketAddrV4> {
    socket.send(words)?;
    let mut bytes = [0; 64];
    let (len, shown) = listener.recv_from(&mut bytes)?;
    assert_eq!(&bytes[..len], words);
    match shown {
        SocketAddr::V4(shown) => Ok(shown),
        SocketAddr::V6(_) => bail!("{shown} is not IPv4"),
    }
}

/// A socket that may share its foreign endpoint, for sending.
fn sharing() -> Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.bind(&SockAddr::from(SocketAddrV4::new(FW_INTRA, 0)))?;
    // Only now: with it, the kernel could give two sockets one port.
    socket.set_reuse_address(true)?;
    Ok(socket.into())
}

fn a_connected_socket_has_a_foreign_address(mode: Mode) {
    let reports = play(&script(mode), |stage| {
        stage.servers_see_only(&[CLIENT]);
        let registrar = stage.registrar()?;
        let echo = DatagramEcho::listen(&stage.lab.server, server(7053))?;
        let foreign = SocketAddrV4::new(CLIENT, 5353);
        let socket = stage.lab.fw.enter(|| Ok(UdpSocket::bind((FW_INTER, 0))?))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        registrar.assign(&socket, foreign)?;
        socket.connect(server(7053))?;
        registrar.set_peer(&socket, server(7053))?;
        registrar.set_flags(&socket, Flags::ESTABLISHED)?;
        for word in ["one", "two", "three"] {
            assert_eq!(ask(&socket, word.as_bytes())?, word.as_bytes());
        }
        assert_eq!(echo.askers(), [foreign.into(); 3]);
        assert_eq!(registrar.query(&socket)?, foreign);
        // What the server begins reaches it too, after the flow has gone.
        stage.daemon.ask(&["flows", "flush"])?;
        drop(echo);
        let from = server(7053);
        let begins = stage.lab.server.enter(|| Ok(UdpSocket::bind(from)?))?;
        begins.send_to(b"begun by the server", foreign)?;
        let mut bytes = [0; 64];
        let len = socket.recv(&mut bytes)?;
        assert_eq!(&bytes[..len], b"begun by the server");
        drop(socket);
        stage.registrations_end()
    });
    let to: BTreeSet<_> = reports.server.udp.keys().collect();
    let right = (SocketAddrV4::new(CLIENT, 5353), server(7053));
    assert_eq!(to, [&right].into());
}
