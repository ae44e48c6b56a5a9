//! The box's own connections, redirected by rules of tproxy's OUTPUT; and proxies that are
//! not there.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::administrator::tproxy;
use e2e::{RELAY, Script, Stage, in_both_modes, play, server};
use lab::command::output;
use lab::connection::{connect, exchange};
use lab::topology::{FW_INTER, SERVER};
use lab::web::{PAGE, fetch_page};
use lab::{Behaviour, Mode};

in_both_modes! {
    curl_of_the_box_goes_by_the_relay,
    a_rule_without_an_address,
    some_users_only,
    no_proxy_for_the_box,
    no_proxy_for_clients,
}

const SOON: Duration = Duration::from_secs(2);

fn script(mode: Mode, lines: &[&str]) -> Script {
    Script::new(mode).with_ruleset(&tproxy(lines))
}

/// Waits until the daemon knows that the relay listens: until then it refuses.
fn wait_for_relay(stage: &Stage) -> Result<()> {
    let come = || connect(&stage.lab.fw, None, server(7099), SOON);
    let known = |_: &lab::Daemon| Ok(come().is_ok());
    stage.daemon.wait_until("the relay is known", known)
}

fn curl_of_the_box_goes_by_the_relay(mode: Mode) {
    let rule = "-A OUTPUT -p tcp -m multiport --dports 80,7000,7099 ! -d 192.168.1.0/24 \
                -j TPROXY --on-port 50080 --on-ip 192.168.1.1";
    play(&script(mode, &[rule]), |stage| {
        let echo = stage.peer(7000, Behaviour::Echo)?;
        wait_for_relay(stage)?;
        ensure!(fetch_page(&stage.lab.fw, SERVER)? == PAGE);
        stage.relays[0].wait_line(&[&format!("-> {}", server(80))])?;
        // Once, not round and round: the relay's own connection is nobody's to redirect.
        let line = format!("-> {}", server(80));
        ensure!(
            stage.relays[0].lines(&line).len() == 1,
            "{}",
            stage.relay_log()
        );
        ensure!(stage.web.connections()? == 1);
        let stream = connect(&stage.lab.fw, None, server(7000), SOON)?;
        ensure!(stream.peer_addr()? == server(7000).into(), "getpeername");
        ensure!(exchange(&stream, "own")? == "own");
        drop(stream);
        stage.relays[0].wait_line(&[&format!("-> {}", server(7000))])?;
        let visits = echo.visits();
        ensure!(
            visits.len() == 1 && visits[0].from.ip() == FW_INTER,
            "{visits:?}"
        );
        // A client's are another chain's.
        ensure!(stage.is_dropped(None, server(7000))?);
        Ok(())
    });
}

fn a_rule_without_an_address(mode: Mode) {
    let rule = "-A OUTPUT -p tcp -m multiport --dports 80,7099 -j TPROXY --on-port 50080";
    let here = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 50080);
    play(&script(mode, &[rule]).with_relays(&[here]), |stage| {
        wait_for_relay(stage)?;
        ensure!(fetch_page(&stage.lab.fw, SERVER)? == PAGE);
        stage.relays[0].wait_line(&["127.0.0.1", &format!("-> {}", server(80))])?;
        Ok(())
    });
}

fn some_users_only(mode: Mode) {
    let rule = "-A OUTPUT -p tcp --dport 80 -m owner --uid-owner 65534 \
                -j TPROXY --on-port 50080 --on-ip 192.168.1.1";
    play(&script(mode, &[rule]), |stage| {
        let line = format!("-> {}", server(80));
        ensure!(fetch_page(&stage.lab.fw, SERVER)? == PAGE);
        ensure!(stage.relays[0].lines(&line).is_empty(), "root's goes by");
        let nobodys = |_: &lab::Daemon| {
            let mut nobody = stage.lab.fw.command("setpriv");
            nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
            nobody.args(["curl", "--silent", "--max-time", "10", "--noproxy", "*"]);
            let said = output(nobody.arg(format!("http://{SERVER}/page.html")))?;
            Ok(said.stdout == PAGE.as_bytes())
        };
        // Refused until the relay is known, and never by itself.
        stage.daemon.wait_until("nobody's curl works", nobodys)?;
        stage.relays[0].wait_line(&[&line])?;
        Ok(())
    });
}

/// How a connection of the box ends.
fn own(stage: &Stage) -> Result<(), ErrorKind> {
    let stream = connect(&stage.lab.fw, None, server(7000), SOON).map_err(|e| e.kind())?;
    exchange(&stream, "direct").map(drop).map_err(|e| e.kind())
}

fn no_proxy_for_the_box(mode: Mode) {
    for (words, wanted) in [
        ("", Err(ErrorKind::ConnectionRefused)),
        ("--on-no-listener reject", Err(ErrorKind::ConnectionRefused)),
        ("--on-no-listener drop", Err(ErrorKind::TimedOut)),
        ("--on-no-listener accept", Ok(())),
    ] {
        let rule = format!(
            "-A OUTPUT -p tcp --dport 7000 -j TPROXY --on-port 50080 --on-ip 192.168.1.1 {words}"
        );
        play(&script(mode, &[&rule]).with_relays(&[]), |stage| {
            let _echo = stage.peer(7000, Behaviour::Echo)?;
            let came = own(stage);
            ensure!(came == wanted, "`{words}`: {came:?}");
            Ok(())
        });
    }
}

/// A dead proxy opens nothing: `accept` goes on to FORWARD, and is dropped there.
fn no_proxy_for_clients(mode: Mode) {
    for (words, wanted, reason) in [
        ("", ErrorKind::ConnectionRefused, None),
        (
            "--on-no-listener drop",
            ErrorKind::TimedOut,
            Some("no_listener"),
        ),
        (
            "--on-no-listener accept",
            ErrorKind::TimedOut,
            Some("forward_denied"),
        ),
    ] {
        let rule =
            format!("-A PREROUTING -i eth1 -p tcp --dport 7000 -j TPROXY --on-port 50080 {words}");
        play(&script(mode, &[&rule]), |stage| {
            let _echo = stage.peer(7000, Behaviour::Echo)?;
            let come = |stage: &Stage| connect(&stage.lab.client, None, server(7000), SOON);
            let stream = come(stage)?;
            ensure!(exchange(&stream, "alive")? == "alive", "with a proxy");
            drop(stream);
            stage.relays[0]
                .program()
                .end(nix::sys::signal::Signal::SIGKILL)?;
            stage.daemon.wait_until("it is known", |_| {
                Ok(come(stage).err().map(|error| error.kind()) == Some(wanted))
            })?;
            if let Some(reason) = reason {
                ensure!(stage.daemon.drops(reason)? > 0, "{reason}");
            }
            ensure!(
                stage
                    .lab
                    .fw
                    .run("ss -Htln")?
                    .lines()
                    .all(|line| !line.contains(&RELAY.to_string()))
            );
            Ok(())
        });
    }
}
