//! The worked example of the documentation, on real traffic: proxies for the inner network,
//! the administrator's SSH, and nothing else.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::administrator::{example, generated};
use e2e::{RELAY, Script, Stage, in_both_modes, play, server};
use lab::command::output;
use lab::connection::connect;
use lab::topology::{CLIENT, CLIENT_TWO, DMZ, FW_DMZ, FW_INTER, FW_INTRA, SERVER};
use lab::web::{PAGE, fetch_page};
use lab::{Behaviour, FtpServer, Mode, Namespace, Peer, SshServer, Web};

in_both_modes! {
    it_does_what_it_says,
    an_answer_needs_a_rule,
}

const FTP_PROXY: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 50021);
/// Of the inner network, but no administrator's.
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 12);
const SOON: Duration = Duration::from_secs(2);

fn script(mode: Mode, more: &str) -> Result<Script> {
    let text = generated(&example("three-zones"))?;
    let text = text.replacen("-A INPUT -i eth1", &format!("{more}-A INPUT -i eth1"), 1);
    let mut script = Script::new(mode)
        .with_ruleset(&text)
        .with_relays(&[])
        .with_timeouts(e2e::SHORT_ENDINGS);
    script.plan.dmz = true;
    Ok(script)
}

/// A connection from one place to another that nobody answers.
fn is_silent(from: &Namespace, to: SocketAddrV4) -> Result<()> {
    match connect(from, None, to, SOON) {
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Ok(()),
        other => anyhow::bail!("{} to {to}: {other:?}", from.name()),
    }
}

fn it_does_what_it_says(mode: Mode) {
    let script = script(mode, "").unwrap_or_else(|error| panic!("no rules: {error:#}"));
    play(&script, |stage| {
        // Not even the box's own address.
        stage.servers_see_only(&[CLIENT]);
        stage.clients_see_ports([20, 21].into_iter().chain(30_000..31_000));
        for address in [FW_INTRA, FW_INTER] {
            stage.allow_service(SshServer::at(address));
        }
        stage
            .lab
            .client
            .ip(&format!("addr add {GUEST}/24 dev eth0"))?;
        proxied(stage)?;
        administered(stage)?;
        closed(stage)
    });
}

/// The web and FTP, as the client, by proxies that connect on with the client's address.
fn proxied(stage: &mut Stage) -> Result<()> {
    stage.proxy("relay", RELAY, &["--as-client"])?;
    stage.proxy("ftp-proxy", FTP_PROXY, &["--as-client"])?;
    ensure!(fetch_page(&stage.lab.client, SERVER)? == PAGE);
    stage.relays[0].wait_line(&["192.168.1.10", &format!("-> {}", server(80))])?;
    let ftp = FtpServer::start(&stage.lab.server, stage.lab.dir())?;
    ftp.add_random("file", 300_000)?;
    let copy = stage.lab.dir().join("copy");
    let mut curl = lab::web::curl(&stage.lab.client);
    curl.arg("--output").arg(&copy);
    lab::command::run(curl.arg(format!("ftp://{SERVER}/file")))?;
    ensure!(std::fs::metadata(&copy)?.len() == 300_000);
    let clients = ftp.clients("OK DOWNLOAD")?;
    ensure!(clients.keys().eq([&CLIENT]), "{clients:?}");
    stage.registrations_end()
}

fn administered(stage: &Stage) -> Result<()> {
    let Stage { lab, .. } = stage;
    let ssh = SshServer::start(&lab.fw, lab.dir())?;
    for from in [CLIENT, CLIENT_TWO] {
        ensure!(ssh.opens(&lab.client, Some(from), FW_INTRA)?, "{from}");
    }
    ensure!(ssh.opens(&lab.client, None, FW_INTER)?, "the other address");
    ensure!(!ssh.opens(&lab.client, Some(GUEST), FW_INTRA)?, "a guest");
    ensure!(!ssh.opens(&lab.server, None, FW_INTER)?, "from inter");
    let dmz = lab.dmz.as_ref().expect("the plan has one");
    ensure!(!ssh.opens(dmz, None, FW_DMZ)?, "from dmz");
    Ok(())
}

/// What the rules do not name: transit, the proxies' own endpoints, other services.
fn closed(stage: &Stage) -> Result<()> {
    let Stage { lab, .. } = stage;
    let dmz = lab.dmz.as_ref().expect("the plan has one");
    let _inner = Peer::listen(
        &lab.client,
        SocketAddrV4::new(CLIENT, 7000),
        Behaviour::Echo,
    )?;
    let _outer = stage.peer(7000, Behaviour::Echo)?;
    let _web = Web::start(dmz, lab.dir())?;
    let _service = Peer::listen(&lab.fw, SocketAddrV4::new(FW_INTRA, 2223), Behaviour::Echo)?;
    is_silent(&lab.client, server(7000))?;
    is_silent(&lab.client, SocketAddrV4::new(DMZ, 7000))?;
    is_silent(&lab.server, SocketAddrV4::new(CLIENT, 7000))?;
    is_silent(dmz, server(80))?;
    is_silent(dmz, SocketAddrV4::new(CLIENT, 7000))?;
    is_silent(&lab.client, RELAY)?;
    is_silent(&lab.client, FTP_PROXY)?;
    is_silent(&lab.server, RELAY)?;
    is_silent(&lab.client, SocketAddrV4::new(FW_INTRA, 2223))?;
    let before = stage.daemon.drops("forward_denied")?;
    is_silent(&lab.client, server(7000))?;
    ensure!(stage.daemon.drops("forward_denied")? > before);
    ensure!(stage.daemon.drops("input_denied")? > 0);
    Ok(())
}

/// What the box asks for itself is answered only where a rule says so.
fn an_answer_needs_a_rule(mode: Mode) {
    for (more, answered) in [
        ("", false),
        (
            "-A INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT\n",
            true,
        ),
    ] {
        let script = script(mode, more).unwrap_or_else(|error| panic!("no rules: {error:#}"));
        play(&script, |stage| {
            let mut curl = lab::web::curl(&stage.lab.fw);
            curl.args(["--max-time", "3", &format!("http://{SERVER}/page.html")]);
            let said = output(&mut curl)?;
            ensure!(said.status.success() == answered, "curl: {said:?}");
            let ping = format!("ping -c 1 -W 2 {SERVER}");
            ensure!(stage.lab.fw.run(&ping).is_ok() == answered, "ping");
            ensure!(
                stage
                    .lab
                    .client
                    .run(&format!("ping -c 1 -W 2 {FW_INTRA}"))
                    .is_err()
            );
            Ok(())
        });
    }
}
