//! INPUT and OUTPUT rules about what the box itself gets and sends.

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::administrator::{filter, tproxy};
use e2e::{Script, Stage, in_both_modes, play, server};
use lab::command::output;
use lab::connection::{connect, exchange};
use lab::datagrams::{ask, connected};
use lab::topology::{CLIENT, FW_INTER, FW_INTRA, SERVER};
use lab::web::{PAGE, fetch_page};
use lab::{Behaviour, DatagramEcho, Mode, Peer};

in_both_modes! {
    answers_to_the_box,
    pings_both_ways,
    refusals_as_the_client_sees_them,
    a_logged_knock,
    management_without_the_daemon,
    users_of_the_box,
    a_client_sees_no_difference,
    what_the_box_receives_goes_on_after_a_restart,
}

/// A service that rules let in, and one that none does.
const OPEN: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 2222);
const SHUT: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 2223);
const SOON: Duration = Duration::from_secs(2);

fn script(mode: Mode, rules: &str) -> Script {
    Script::new(mode).with_ruleset(rules).with_relays(&[])
}

fn is_silent(stage: &Stage, to: SocketAddrV4) -> Result<()> {
    let dropped = stage.is_dropped(None, to)?;
    ensure!(dropped, "{to} answers");
    Ok(())
}

/// TCP, UDP and a refusal by ICMP come back only where ESTABLISHED and RELATED may.
fn answers_to_the_box(mode: Mode) {
    for (states, tcp, udp, error) in [
        ("ESTABLISHED,RELATED", true, true, true),
        ("ESTABLISHED", true, true, false),
        ("RELATED", false, false, true),
        ("INVALID", false, false, false),
    ] {
        let rule = format!("-A INPUT -m conntrack --ctstate {states} -j ACCEPT");
        play(&script(mode, &filter(&[&rule])), |stage| {
            let names = DatagramEcho::listen(&stage.lab.server, server(53))?;
            let mut curl = lab::web::curl(&stage.lab.fw);
            curl.args(["--max-time", "2", &format!("http://{SERVER}/page.html")]);
            ensure!(
                output(&mut curl)?.status.success() == tcp,
                "curl with {states}"
            );
            let asked = |port| -> Result<_> {
                let socket = connected(&stage.lab.fw, server(port))?;
                socket.set_read_timeout(Some(SOON))?;
                Ok(ask(&socket, b"question"))
            };
            ensure!(asked(53)?.is_ok() == udp, "a name with {states}");
            ensure!(names.askers().len() == 1, "it was asked");
            let refused = asked(54)?.map_err(|error| error.kind());
            let wanted = if error {
                ErrorKind::ConnectionRefused
            } else {
                ErrorKind::WouldBlock
            };
            ensure!(refused == Err(wanted), "{states}: {refused:?}");
            Ok(())
        });
    }
}

fn pings_both_ways(mode: Mode) {
    let rules = filter(&[
        "-A INPUT -p icmp --icmp-type echo-request -s 192.168.1.10 -j ACCEPT",
        "-A INPUT -p icmp -m state --state ESTABLISHED -j ACCEPT",
    ]);
    play(&script(mode, &rules), |stage| {
        let ping = |from: &lab::Namespace, options: String| {
            from.run(&format!("ping -c 3 -i 0.2 -W 2 {options}"))
        };
        ping(&stage.lab.client, format!("-I 192.168.1.10 {FW_INTRA}"))?;
        ping(&stage.lab.client, format!("-I 192.168.1.10 {FW_INTER}"))?;
        // In fragments, too, where nothing is translated.
        let large = |from: &str| format!("-s 8000 -I {from} {FW_INTRA}");
        ping(&stage.lab.client, large("192.168.1.10"))?;
        ping(&stage.lab.fw, SERVER.to_string())?;
        ping(&stage.lab.fw, CLIENT.to_string())?;
        let other = ping(&stage.lab.client, format!("-I 192.168.1.11 {FW_INTRA}"));
        ensure!(other.is_err(), "a stranger's ping is answered");
        let other = ping(&stage.lab.client, large("192.168.1.11"));
        ensure!(other.is_err(), "a stranger's large ping is answered");
        ensure!(ping(&stage.lab.server, FW_INTER.to_string()).is_err());
        Ok(())
    });
}

/// What REJECT says, at INPUT and at FORWARD.
fn refusals_as_the_client_sees_them(mode: Mode) {
    const KINDS: [(&str, u8, i32); 7] = [
        ("icmp-net-unreachable", 0, nix::libc::ENETUNREACH),
        ("icmp-host-unreachable", 1, nix::libc::EHOSTUNREACH),
        ("icmp-proto-unreachable", 2, nix::libc::ENOPROTOOPT),
        ("icmp-port-unreachable", 3, nix::libc::ECONNREFUSED),
        ("icmp-net-prohibited", 9, nix::libc::ENETUNREACH),
        ("icmp-host-prohibited", 10, nix::libc::EHOSTUNREACH),
        ("icmp-admin-prohibited", 13, nix::libc::EHOSTUNREACH),
    ];
    let port = |code: u8| 7000 + u16::from(code);
    let mut lines = Vec::new();
    for chain in ["INPUT", "FORWARD"] {
        for (kind, code, _) in KINDS {
            let port = port(code);
            lines.push(format!(
                "-A {chain} -p tcp --dport {port} -j REJECT --reject-with {kind}"
            ));
        }
        lines.push(format!(
            "-A {chain} -p tcp --dport 7050 -j REJECT --reject-with tcp-reset"
        ));
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let reports = play(&script(mode, &filter(&lines)), |stage| {
        stage.allow_service(SocketAddrV4::new(FW_INTRA, 7050));
        for to in [FW_INTRA, SERVER] {
            for (kind, code, errno) in KINDS {
                let to = SocketAddrV4::new(to, port(code));
                let said = stage.connect(to).err().and_then(|e| e.raw_os_error());
                ensure!(said == Some(errno), "{kind} at {to}: {said:?}");
            }
            let said = stage.connect(SocketAddrV4::new(to, 7050)).err();
            let said = said.map(|error| error.kind());
            ensure!(
                said == Some(ErrorKind::ConnectionRefused),
                "reset: {said:?}"
            );
        }
        ensure!(stage.daemon.drops("rule_reject")? == 16);
        Ok(())
    });
    for (kind, code, _) in KINDS {
        for to in [FW_INTRA, SERVER] {
            let told = reports.client.errors.iter().any(|(told, _)| {
                told.kind == (3, code)
                    && told.from == FW_INTRA
                    && told.destination == SocketAddrV4::new(to, port(code))
            });
            assert!(told, "{kind} to {to}: {:?}", reports.client.errors);
        }
    }
}

fn a_logged_knock(mode: Mode) {
    let rules = filter(&[
        "-A INPUT -p tcp --dport 2222 -j LOG --log-prefix \"knock: \"",
        "-A FORWARD -p tcp --dport 7000 -j LOG --log-prefix \"through: \"",
        "-A OUTPUT -p udp --dport 53 -j LOG --log-prefix \"name: \"",
    ]);
    play(&script(mode, &rules), |stage| {
        is_silent(stage, OPEN)?;
        is_silent(stage, server(7000))?;
        let _ = connected(&stage.lab.fw, server(53))?.send(b"question")?;
        let client = "SRC=192.168.1.10";
        stage.wait_logged(&[
            "knock: ",
            "IN=eth1",
            client,
            "DST=192.168.1.1",
            "DPT=2222",
            "SYN",
        ])?;
        stage.wait_logged(&[
            "through: ",
            "IN=eth1",
            client,
            "DST=198.51.100.10",
            "DPT=7000",
        ])?;
        stage.wait_logged(&[
            "name: ",
            "OUT=eth2",
            "SRC=198.51.100.1",
            "DPT=53",
            "PROTO=UDP",
        ])?;
        Ok(())
    });
}

/// `[[management]]` passes before the filter, with the daemon and without; the rest is closed
/// with it.
fn management_without_the_daemon(mode: Mode) {
    let allowed = SocketAddrV4::new(FW_INTRA, 2224);
    let mut script = script(mode, &filter(&["-A INPUT -p tcp --dport 2224 -j ACCEPT"]));
    script.tables += "\n[[management]]\nzone = \"intra\"\nproto = \"tcp\"\nport = 2222\n";
    play(&script, |stage| {
        stage.allow_service(OPEN);
        stage.allow_service(allowed);
        let _peers = [OPEN, SHUT, allowed]
            .map(|at| Peer::listen(&stage.lab.fw, at, Behaviour::Echo))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let session = stage.connect(OPEN)?;
        ensure!(exchange(&session, "with")? == "with");
        let guarded = stage.connect(allowed)?;
        ensure!(exchange(&guarded, "with")? == "with");
        is_silent(stage, SHUT)?;
        stage.daemon.crash()?;
        ensure!(exchange(&session, "without")? == "without");
        ensure!(exchange(&stage.connect(OPEN)?, "new")? == "new");
        is_silent(stage, SHUT)?;
        is_silent(stage, allowed)?;
        guarded.set_read_timeout(Some(SOON))?;
        ensure!(exchange(&guarded, "without").is_err(), "it is not closed");
        stage.daemon.start_again(&stage.lab)?;
        ensure!(exchange(&session, "again")? == "again");
        ensure!(exchange(&stage.connect(allowed)?, "again")? == "again");
        is_silent(stage, SHUT)
    });
}

/// The box only listens to what it has asked for: nothing but the kernel can tell the next daemon
/// that it has.
fn what_the_box_receives_goes_on_after_a_restart(mode: Mode) {
    let rules = filter(&["-A INPUT -m state --state ESTABLISHED -j ACCEPT"]);
    play(&script(mode, &rules), |stage| {
        let _peer = stage.peer(7001, Behaviour::Chatty)?;
        let stream = connect(&stage.lab.fw, None, server(7001), SOON)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut lines = BufReader::new(&stream).lines();
        let mut next = || lines.next().context("the end")?.context("no line");
        next()?;
        stage.daemon.terminate()?;
        stage.daemon.start_again(&stage.lab)?;
        // More than what the kernel had received before.
        for _ in 0..200 {
            next()?;
        }
        Ok(())
    });
}

/// OUTPUT asks who sends.
fn users_of_the_box(mode: Mode) {
    let rules = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         -A OUTPUT -p tcp --dport 80 -m owner --uid-owner 65534 -j REJECT --reject-with tcp-reset\n\
         -A OUTPUT -p udp --dport 53 -j DROP\nCOMMIT\n";
    play(&script(mode, rules), |stage| {
        let names = DatagramEcho::listen(&stage.lab.server, server(53))?;
        ensure!(fetch_page(&stage.lab.fw, SERVER)? == PAGE, "root's curl");
        let mut nobody = stage.lab.fw.command("setpriv");
        nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        nobody.args(["curl", "--silent", "--max-time", "5", "--noproxy", "*"]);
        let said = output(nobody.arg(format!("http://{SERVER}/page.html")))?;
        ensure!(said.status.code() == Some(7), "nobody's curl: {said:?}");
        let socket = connected(&stage.lab.fw, server(53))?;
        socket.set_read_timeout(Some(SOON))?;
        ensure!(ask(&socket, b"question").is_err(), "a name is told");
        ensure!(names.askers().is_empty(), "a name is asked");
        ensure!(stage.daemon.drops("output_denied")? == 1);
        Ok(())
    });
}

/// With rules that let everything pass, all works as without: many services, both directions,
/// large answers; and a proxy beside.
fn a_client_sees_no_difference(mode: Mode) {
    let rules = tproxy(&[
        "-A PREROUTING -i eth1 ! -d 192.168.1.1 -p tcp --dport 80 -j TPROXY --on-port 50080",
    ]) + "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT DROP [0:0]\n\
           -A INPUT -m tproxy -j ACCEPT\n-A INPUT -p tcp --dport 2222 -j ACCEPT\n\
           -A INPUT -m state --state ESTABLISHED -j ACCEPT\n\
           -A OUTPUT -m state --state ESTABLISHED -j ACCEPT\n\
           -A OUTPUT -p tcp --dport 80 -j ACCEPT\nCOMMIT\n";
    let script = Script::new(mode).with_ruleset(&rules);
    play(&script, |stage| {
        stage.allow_service(OPEN);
        let sum = stage.web.add_random("large", 20_000_000)?;
        let dir = stage.lab.dir();
        ensure!(lab::web::fetch_sha256(&stage.lab.client, SERVER, "large", dir)? == sum);
        ensure!(lab::web::fetch_sha256(&stage.lab.fw, SERVER, "large", dir)? == sum);
        let _peer = Peer::listen(&stage.lab.fw, OPEN, Behaviour::Digest)?;
        let stream = stage.connect(OPEN)?;
        let mut digest = lab::connection::Digest::default();
        for number in 0..2000_u32 {
            let block = number.to_be_bytes().repeat(1000);
            digest.add(&block);
            std::io::Write::write_all(&mut &stream, &block)?;
        }
        let said = lab::connection::finish(&stream)?;
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(said.trim() == digest.to_string(), "{said}");
        let refused = connect(&stage.lab.fw, None, server(8080), SOON);
        ensure!(refused.is_err(), "OUTPUT lets anything out");
        Ok(())
    });
}
