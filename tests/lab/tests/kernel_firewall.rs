//! The lab and its audit against firewalls that need no xtproxy: the kernel as a router, which
//! the audit must refuse, and the kernel's REDIRECT before a small proxy, which it must accept.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use lab::audit::audit;
use lab::blaster::{Bounds, blast};
use lab::connection::{self, Digest, connect, exchange, finish, reset};
use lab::frames::{Frames, Parties};
use lab::peer::Ending;
use lab::topology::{CLIENT, CLIENT_TWO, FW_INTER, FW_INTRA, SERVER};
use lab::web::{PAGE, fetch_page, fetch_sha256};
use lab::{Behaviour, BoxState, Capture, Lab, Link, Offloads, Peer, Plan, Web};

const PROXY: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 50080);

fn links(lab: &Lab, servers: &[SocketAddrV4]) -> Result<[Link; 2]> {
    let own: BTreeSet<_> = [FW_INTRA, FW_INTER].into();
    let client = Link {
        name: "client",
        macs: vec![lab.fw.mac("eth1")?],
        own: own.clone(),
        services: Some(BTreeSet::new()),
        servers: Some(servers.iter().copied().collect()),
        proxies: [PROXY].into(),
        merged: lab.plan().offloads == Offloads::All,
        ..Link::default()
    };
    let server = Link {
        name: "server",
        macs: vec![lab.fw.mac("eth2")?],
        own,
        hidden: [CLIENT, CLIENT_TWO].into(),
        merged: lab.plan().offloads == Offloads::All,
        ..Link::default()
    };
    Ok([client, server])
}

/// A proxy for one server, on the firewall, in threads of the test.
fn proxy(lab: &Lab, server: SocketAddrV4) -> Result<()> {
    let listener = lab.fw.enter(|| Ok(TcpListener::bind(PROXY)?))?;
    lab.fw.spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            let Ok(server) = TcpStream::connect(server) else {
                return;
            };
            let (to, from) = (client.try_clone(), server.try_clone());
            thread::spawn(move || forward(client, server));
            if let (Ok(to), Ok(from)) = (to, from) {
                thread::spawn(move || forward(from, to));
            }
        }
    })?;
    Ok(())
}

fn forward(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}

#[test]
fn a_redirecting_kernel_passes_the_audit() {
    for offloads in [Offloads::None, Offloads::All] {
        redirecting_kernel(offloads).unwrap();
    }
}

fn redirecting_kernel(offloads: Offloads) -> Result<()> {
    let lab = Lab::build(&Plan {
        offloads,
        ..Plan::default()
    })?;
    // The kernel's translation would leave its checksums to the card; xtproxy's may not.
    lab.fw.run("ethtool -K eth1 tx off")?;
    let web = Web::start(&lab.server, lab.dir())?;
    let sum = web.add_random("big", 20_000_000)?;
    let rules = "add table ip nat; add chain ip nat pre { type nat hook prerouting priority -100; }; \
                 add rule ip nat pre iifname eth1 tcp dport 80 redirect to :50080";
    lab.fw.run(&format!("nft {rules}"))?;
    proxy(&lab, SocketAddrV4::new(SERVER, 80))?;
    let captures = [&lab.client, &lab.server].map(|n| Capture::start(n, lab.dir()));
    assert_eq!(fetch_page(&lab.client, SERVER)?, PAGE);
    assert_eq!(fetch_sha256(&lab.client, SERVER, "big", lab.dir())?, sum);
    assert_eq!(web.connections()?, 2);
    assert!(web.accesses()?.iter().all(|a| *a.client.ip() == FW_INTER));
    let links = links(&lab, &[SocketAddrV4::new(SERVER, 80)])?;
    for (capture, link) in captures.into_iter().zip(&links) {
        let report = audit(&capture?.stop()?, link)?;
        report.check()?;
        assert!(report.count("tcp") > 10, "{report:?}");
    }
    Ok(())
}

#[test]
fn a_routing_kernel_fails_the_audit() -> Result<()> {
    let lab = Lab::build(&Plan::default())?;
    lab.fw.sysctl("net.ipv4.ip_forward", "1")?;
    let _web = Web::start(&lab.server, lab.dir())?;
    let captures = [&lab.client, &lab.server].map(|n| Capture::start(n, lab.dir()));
    assert_eq!(fetch_page(&lab.client, SERVER)?, PAGE);
    let links = links(&lab, &[SocketAddrV4::new(SERVER, 81)])?;
    let expected = ["none of the servers", "must not see"];
    for ((capture, link), cause) in captures.into_iter().zip(&links).zip(expected) {
        let message = audit(&capture?.stop()?, link)?.check().unwrap_err();
        let message = message.to_string();
        // Checksums left to the card are bad here: nobody finished them.
        let known = [cause, "bad TCP checksum"];
        assert!(known.iter().any(|k| message.contains(k)), "{message}");
        assert!(
            link.name == "client" || message.contains(cause),
            "{message}"
        );
    }
    Ok(())
}

#[test]
fn nothing_passes_a_box_without_a_dataplane() -> Result<()> {
    let lab = Lab::build(&Plan::default())?;
    let _web = Web::start(&lab.server, lab.dir())?;
    let to = SocketAddrV4::new(SERVER, 80);
    let error = connect(&lab.client, None, to, Duration::from_secs(2)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    lab.client.run("ping -c 1 -W 2 192.168.1.1")?;
    Ok(())
}

#[test]
fn peers_behave() -> Result<()> {
    let lab = Lab::build(&Plan::default())?;
    lab.fw.sysctl("net.ipv4.ip_forward", "1")?;
    let at = |port| SocketAddrV4::new(SERVER, port);
    let open = |port| connect(&lab.client, None, at(port), connection::TIMEOUT);
    let listen = |port, behaviour| Peer::listen(&lab.server, at(port), behaviour);

    let echo = listen(7000, Behaviour::Echo)?;
    let from = SocketAddrV4::new(CLIENT_TWO, 40_000);
    let stream = connect(&lab.client, Some(from), at(7000), connection::TIMEOUT)?;
    assert_eq!(exchange(&stream, "hello")?, "hello");
    reset(stream)?;
    let visit = echo.wait_ended(1)?[0];
    assert_eq!(visit.ending, Ending::Reset);
    assert_eq!(visit.from, from.into());

    let digest = listen(7001, Behaviour::Digest)?;
    let stream = open(7001)?;
    io::Write::write_all(&mut &stream, b"all of it")?;
    let mut expected = Digest::default();
    expected.add(b"all of it");
    assert_eq!(finish(&stream)?, expected.to_string().as_bytes());
    assert_eq!(digest.wait_ended(1)?[0].ending, Ending::Closed);

    let bye = listen(7002, Behaviour::EarlyBye)?;
    let stream = open(7002)?;
    assert_eq!(connection::read_line(&stream)?, "bye");
    io::Write::write_all(&mut &stream, b"more")?;
    assert_eq!(finish(&stream)?, b"");
    assert_eq!(bye.wait_ended(1)?[0].digest.bytes, 4);

    let _reset = listen(7003, Behaviour::Reset)?;
    let error = exchange(&open(7003)?, "x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

    let chatty = listen(7004, Behaviour::Chatty)?;
    let stream = open(7004)?;
    assert_eq!(connection::read_line(&stream)?, "0");
    assert_eq!(connection::read_line(&stream)?, "1");
    drop(stream);
    chatty.wait_ended(1)?;
    Ok(())
}

#[test]
fn a_changed_box_is_noticed() -> Result<()> {
    let lab = Lab::build(&Plan::default())?;
    let before = BoxState::read(&lab.fw)?;
    before.check_same(&BoxState::read(&lab.fw)?)?;
    for (change, undo) in [
        (
            "ip link add xtp0 type veth peer name xtp0-dp",
            "ip link del xtp0",
        ),
        (
            "tc qdisc add dev eth1 clsact",
            "tc qdisc del dev eth1 clsact",
        ),
        ("ethtool -K eth1 tso off", "ethtool -K eth1 tso on"),
        ("ip link set eth1 mtu 1400", "ip link set eth1 mtu 1500"),
    ] {
        lab.fw.run(change)?;
        let after = BoxState::read(&lab.fw)?;
        before.check_changed(&after)?;
        before.check_same(&after).unwrap_err();
        lab.fw.run(undo)?;
    }
    lab.fw.sysctl("net.ipv4.conf.eth1.rp_filter", "2")?;
    before.check_same(&BoxState::read(&lab.fw)?).unwrap_err();
    Ok(())
}

#[test]
fn hostile_frames_leave_the_endpoint() -> Result<()> {
    let lab = Lab::build(&Plan::default())?;
    let parties = Parties {
        from_mac: lab.client.mac("eth0")?,
        to_mac: lab.fw.mac("eth1")?,
        sources: vec![CLIENT],
        destinations: vec![SERVER, FW_INTRA],
        ports: vec![80],
    };
    let received = || -> Result<u64> {
        let text = lab.fw.ip("-j -s link show dev eth1")?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        Ok(links[0]["stats64"]["rx"]["packets"].as_u64().unwrap_or(0))
    };
    let before = received()?;
    let bounds = Bounds {
        time: Duration::from_secs(5),
        frames: 5_000,
        rate: 50_000,
    };
    let sent = blast(&lab.client, &mut Frames::new(3, &parties), bounds)?;
    assert_eq!(sent, 5_000);
    assert!(received()? - before >= sent);
    Ok(())
}

#[test]
fn a_kernel_can_seem_to_lack_af_xdp() -> Result<()> {
    let open = |domain: i32| socket2::Socket::new(domain.into(), socket2::Type::RAW, None);
    open(libc::AF_XDP)?;
    // The filter holds for the thread that installs it, and goes with it.
    let refused = thread::spawn(move || -> Result<_> {
        lab::seccomp::forbid_xdp_sockets()?;
        open(libc::AF_PACKET)?;
        Ok(open(libc::AF_XDP).map(drop))
    });
    let error = refused.join().expect("the thread").unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT));
    open(libc::AF_XDP)?;
    Ok(())
}
