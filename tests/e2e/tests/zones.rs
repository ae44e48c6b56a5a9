//! Zones and services: who may reach whom by which proxy.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use e2e::{RELAY, Script, Stage, in_both_modes, play, server};
use lab::connection::{connect, exchange};
use lab::topology::{CLIENT, CLIENT_TWO, DMZ};
use lab::web::{PAGE, fetch_page};
use lab::{Behaviour, Mode, Web};

in_both_modes! {
    services_between_zones,
}

const ZONES: &str = "
[zone.intra]
networks = [\"192.168.1.0/24\"]
outbound_services = [\"http\"]
inbound_services = []
[zone.guests]
networks = [\"192.168.1.11/32\"]
parent = \"intra\"
outbound_services = []
[zone.inter]
networks = [\"0.0.0.0/0\"]
inbound_services = [\"*\"]
[zone.dmz]
networks = [\"10.0.0.0/24\"]
inbound_services = []
[service.http]
proxy = \"192.168.1.1:50080\"
[service.echo]
proxy = \"192.168.1.1:50081\"
";
const ECHO: SocketAddrV4 = SocketAddrV4::new(*RELAY.ip(), 50081);

/// The connection is refused at once, and told about with both zones and the service.
fn is_denied(stage: &Stage, from: SocketAddrV4, to: SocketAddrV4, words: &[&str]) -> Result<()> {
    let before = stage.daemon.drops("zone_denied")?;
    let came = connect(&stage.lab.client, Some(from), to, lab::connection::TIMEOUT);
    let said = came.map_err(|error| error.kind()).err();
    let wanted = Some(std::io::ErrorKind::ConnectionRefused);
    ensure!(said == wanted, "{from} to {to}: {said:?}");
    ensure!(stage.daemon.drops("zone_denied")? > before, "not counted");
    let to = format!("DST={}", to.ip());
    stage.wait_logged(&[words, &[to.as_str()]].concat())?;
    Ok(())
}

fn services_between_zones(mode: Mode) {
    let mut script = Script::new(mode)
        .with_rules(&[
            "-A PREROUTING -i eth1 -p tcp --dport 80 -j TPROXY --on-port 50080",
            "-A PREROUTING -i eth1 -p tcp --dport 7000 -j TPROXY --on-port 50081",
        ])
        .with_relays(&[RELAY, ECHO]);
    script.zones = Some(ZONES.to_owned());
    script.plan.dmz = true;
    play(&script, |stage| {
        let any = |address| SocketAddrV4::new(address, 0);
        stage.clients_see(SocketAddrV4::new(DMZ, 80));
        let _web = Web::start(stage.lab.dmz.as_ref().context("a dmz")?, stage.lab.dir())?;
        let _echo = stage.peer(7000, Behaviour::Echo)?;
        ensure!(fetch_page(&stage.lab.client, lab::topology::SERVER)? == PAGE);
        is_denied(
            stage,
            any(CLIENT_TWO),
            server(80),
            &["guests", "inter", "http"],
        )?;
        is_denied(
            stage,
            any(CLIENT),
            SocketAddrV4::new(DMZ, 80),
            &["intra", "dmz", "http"],
        )?;
        is_denied(
            stage,
            any(CLIENT),
            server(7000),
            &["intra", "inter", "echo"],
        )?;
        let matrix = stage.daemon.ask(&["zones"])?;
        for word in ["intra", "guests", "inter", "dmz", "http"] {
            ensure!(matrix.contains(word), "no {word} in\n{matrix}");
        }
        Ok(())
    });
    // Without the lists the same connections go: it was the zones that refused.
    script.zones = None;
    play(&script, |stage| {
        let _echo = stage.peer(7000, Behaviour::Echo)?;
        let from = Some(SocketAddrV4::new(CLIENT_TWO, 0));
        for port in [80, 7000] {
            let timeout = lab::connection::TIMEOUT;
            let stream = connect(&stage.lab.client, from, server(port), timeout)?;
            if port == 7000 {
                ensure!(exchange(&stream, "hello")? == "hello");
            }
        }
        Ok(())
    });
}
