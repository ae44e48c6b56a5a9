//! The box's addresses come and go while the daemon runs.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Script, Stage, in_both_modes, play, server};
use lab::connection::{exchange, read_line};
use lab::topology::{CLIENT, FW_INTRA};
use lab::{Behaviour, Mode, Peer};

in_both_modes! {
    addresses_may_change,
    a_returned_address_leaks_nothing,
}

/// The address that comes later.
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
/// A relay at every address of the box.
const EVERYWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 50080);
/// Services of the box itself.
const SHELL: u16 = 2222;

fn script(mode: Mode) -> Script {
    Script::new(mode)
        .with_rules(&["-A PREROUTING -i eth1 -p tcp --dport 7000:7099 -j TPROXY --on-port 50080"])
        .with_relays(&[EVERYWHERE])
}

/// Neither address may show where the relay listens; both may have a service.
fn both_are_own(stage: &mut Stage) {
    for address in [FW_INTRA, SECOND] {
        stage.client_link.own.insert(address);
        let proxy = SocketAddrV4::new(address, EVERYWHERE.port());
        stage.client_link.proxies.insert(proxy);
        stage.allow_service(SocketAddrV4::new(address, SHELL));
    }
}

/// The second one is in a network of its own, so that neither goes with the other.
fn change(stage: &Stage, verb: &str, address: Ipv4Addr) -> Result<()> {
    let bits = if address == SECOND { 25 } else { 24 };
    stage
        .lab
        .fw
        .ip(&format!("addr {verb} {address}/{bits} dev eth1"))?;
    // Told by what the daemon says of the port.
    let there = verb == "add";
    stage.daemon.wait_until("the daemon knows", |daemon| {
        let ports = daemon.json(&["ports"])?.to_string();
        Ok(ports.contains(&format!("\"{address}/{bits}\"")) == there)
    })
}

/// The local ends of the redirected flows that lead to the server's `port`.
fn local_ends(stage: &Stage, port: u16) -> Result<BTreeSet<Ipv4Addr>> {
    let flows = stage.daemon.flows(&["--dport", &port.to_string()])?;
    let ends = flows.iter().map(|flow| flow["reply"]["src"].as_str());
    ends.map(|end| end.context("no local end")?.parse().context("no address"))
        .collect()
}

/// A new connection must work, and its local end be `address`.
fn redirected_to(stage: &Stage, port: u16, address: Ipv4Addr) -> Result<TcpStream> {
    let stream = stage
        .connect(server(port))
        .with_context(|| format!("with {address} as the first address"))?;
    ensure!(exchange(&stream, "new")? == "new");
    let ends = local_ends(stage, port)?;
    ensure!(ends == BTreeSet::from([address]), "{port}: {ends:?}");
    Ok(stream)
}

fn addresses_may_change(mode: Mode) {
    play(&script(mode), |stage| {
        both_are_own(stage);
        let _peers: Vec<Peer> = (7000..7004)
            .map(|port| stage.peer(port, Behaviour::Echo))
            .collect::<Result<_>>()?;
        let first = redirected_to(stage, 7000, FW_INTRA)?;

        change(stage, "add", SECOND)?;
        let second = redirected_to(stage, 7001, FW_INTRA)?;
        assert_eq!(exchange(&first, "still here")?, "still here");
        let at_second = SocketAddrV4::new(SECOND, SHELL);
        let shell = Peer::listen(&stage.lab.fw, at_second, Behaviour::Echo)?;
        let session = stage.connect(at_second)?;
        assert_eq!(exchange(&session, "own")?, "own");

        // The client's way out goes with the first address, so it takes the second before.
        let route = format!("route replace default via {SECOND}");
        stage.lab.client.ip(&route)?;
        change(stage, "del", FW_INTRA)?;
        stage.daemon.wait_until("its flows are gone", |_| {
            Ok(local_ends(stage, 7000)?.is_empty() && local_ends(stage, 7001)?.is_empty())
        })?;
        let third = redirected_to(stage, 7002, SECOND)?;
        assert_eq!(exchange(&session, "still own")?, "still own");

        change(stage, "add", FW_INTRA)?;
        assert_eq!(exchange(&third, "still here")?, "still here");
        redirected_to(stage, 7003, SECOND)?;
        let at_first = SocketAddrV4::new(FW_INTRA, SHELL);
        let _back = Peer::listen(&stage.lab.fw, at_first, Behaviour::Echo)?;
        assert_eq!(exchange(&stage.connect(at_first)?, "back")?, "back");
        assert_eq!(shell.visits().len(), 1);
        drop((first, second));
        Ok(())
    });
}

/// The proxy's kernel goes on with a connection when its address is back. Its flow has gone, so
/// nothing of it may leave: it would show the proxy's own endpoint.
fn a_returned_address_leaks_nothing(mode: Mode) {
    play(&script(mode), |stage| {
        both_are_own(stage);
        let _peer = stage.peer(7000, Behaviour::Chatty)?;
        let from = SocketAddrV4::new(CLIENT, 46_000);
        let stream = stage.connect_from(from, server(7000))?;
        assert_eq!(read_line(&stream)?, "0");
        change(stage, "add", SECOND)?;
        let route = format!("route replace default via {SECOND}");
        stage.lab.client.ip(&route)?;
        change(stage, "del", FW_INTRA)?;
        // Now there is something to send again.
        std::thread::sleep(Duration::from_millis(300));
        change(stage, "add", FW_INTRA)?;
        // Longer than the kernel waits before it tries again.
        std::thread::sleep(Duration::from_secs(3));
        let before = stage.daemon.drops("no_flow_from_stack")?;
        ensure!(before > 0, "the proxy's kernel did not try again");
        drop(stream);
        Ok(())
    });
}
