//! FTP with real clients and a real server through the transparent FTP proxy.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Script, Stage, play};
use lab::command::run;
use lab::topology::{CLIENT, FW_INTER, FW_INTRA, SERVER};
use lab::{FtpServer, Mode};

const PROXY: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 50021);
const LARGE: u64 = 100_000_000;
const SMALL: u64 = 300_000;

/// As whom the proxy goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    Itself,
    Client,
}

/// How a client of FTP wants its data.
#[derive(Clone, Copy, Debug)]
enum Data {
    Epsv,
    Pasv,
    Eprt,
    Port,
}

const WAYS: [Data; 4] = [Data::Epsv, Data::Pasv, Data::Eprt, Data::Port];

#[test]
fn large_files_native() {
    large_files(Mode::Auto, As::Client);
}

#[test]
fn large_files_generic() {
    large_files(Mode::Generic, As::Client);
}

#[test]
fn large_files_as_the_proxy() {
    large_files(Mode::Auto, As::Itself);
}

#[test]
fn small_files_as_the_proxy_generic() {
    every_way(Mode::Generic, As::Itself, SMALL);
}

#[test]
fn fifty_at_once_as_clients() {
    fifty_at_once(Mode::Auto, As::Client);
}

#[test]
fn fifty_at_once_as_the_proxy() {
    fifty_at_once(Mode::Auto, As::Itself);
}

fn script(mode: Mode) -> Script {
    Script::new(mode)
        .with_rules(&["-A PREROUTING -i eth1 -p tcp --dport 21 -j TPROXY --on-port 50021"])
        .with_relays(&[])
        .with_timeouts(e2e::SHORT_ENDINGS)
}

/// Plays with a server and the proxy; afterwards the server's log must show the right
/// addresses, and nothing else must have been seen on its wire.
fn with_proxy(mode: Mode, who: As, act: impl FnOnce(&Stage, &FtpServer) -> Result<()>) {
    let reports = play(&script(mode), |stage| {
        let ftp = FtpServer::start(&stage.lab.server, stage.lab.dir())?;
        let (options, seen): (&[&str], _) = match who {
            As::Itself => (&[], FW_INTER),
            As::Client => (&["--as-client"], CLIENT),
        };
        stage.proxy("ftp-proxy", PROXY, options)?;
        stage.servers_see_only(&[seen]);
        stage.clients_see_ports([20, 21].into_iter().chain(30_000..31_000));
        act(stage, &ftp)?;
        for event in ["CONNECT", "OK DOWNLOAD", "OK UPLOAD"] {
            let clients = ftp.clients(event)?;
            let all: Vec<&Ipv4Addr> = clients.keys().collect();
            ensure!(all == [&seen], "{event}: {clients:?}");
        }
        stage.registrations_end()
    });
    // Active data came to the client from the server's port 20.
    let from_twenty = |tcp: &BTreeMap<(SocketAddrV4, SocketAddrV4), u64>| {
        tcp.keys()
            .any(|(from, _)| *from == SocketAddrV4::new(SERVER, 20))
    };
    assert!(
        from_twenty(&reports.client.tcp),
        "{:?}",
        reports.client.kinds
    );
}

fn large_files(mode: Mode, who: As) {
    every_way(mode, who, LARGE);
}

/// curl in every way, then lftp in both modes; the large file once each way, the others small.
fn every_way(mode: Mode, who: As, bytes: u64) {
    with_proxy(mode, who, |stage, ftp| {
        let small = ftp.add_random("small", SMALL)?;
        let large = ftp.add_random("large", bytes)?;
        for data in WAYS {
            let (name, file) = match data {
                Data::Epsv | Data::Port => ("large", &large),
                Data::Pasv | Data::Eprt => ("small", &small),
            };
            round_trip(stage, ftp, data, (name, file), &format!("{data:?}"))?;
        }
        for (passive, name, file) in [("on", "large", &large), ("off", "small", &small)] {
            lftp(stage, ftp, passive, (name, file))?;
        }
        Ok(())
    });
}

fn curl(stage: &Stage, data: Data) -> Command {
    let mut curl = lab::web::curl(&stage.lab.client);
    curl.args(match data {
        Data::Epsv => [].as_slice(),
        Data::Pasv => &["--disable-epsv"],
        Data::Eprt => &["--ftp-port", "-"],
        Data::Port => &["--ftp-port", "-", "--disable-eprt"],
    });
    curl
}

/// Downloads the server's file `name`, and uploads it again as `/in/MARK`.
fn round_trip(
    stage: &Stage,
    ftp: &FtpServer,
    data: Data,
    (name, file): (&str, &Path),
    mark: &str,
) -> Result<()> {
    let came = stage.lab.dir().join(format!("came-{mark}"));
    let url = format!("ftp://{SERVER}/{name}");
    run(curl(stage, data).arg("--output").arg(&came).arg(url))
        .with_context(|| format!("{data:?} {name} down"))?;
    same(file, &came).with_context(|| format!("{data:?} {name} down"))?;
    let url = format!("ftp://{SERVER}/in/{mark}");
    run(curl(stage, data).arg("--upload-file").arg(&came).arg(url))
        .with_context(|| format!("{data:?} {name} up"))?;
    same(file, &ftp.uploaded(mark)).with_context(|| format!("{data:?} {name} up"))?;
    fs::remove_file(&came)?;
    Ok(())
}

fn lftp(stage: &Stage, ftp: &FtpServer, passive: &str, (name, file): (&str, &Path)) -> Result<()> {
    let came = stage.lab.dir().join(format!("lftp-{passive}"));
    let script = format!(
        "set net:max-retries 1; set net:timeout 20; set ftp:passive-mode {passive}; set xfer:clobber on; \
         open {SERVER}; ls; get {name} -o {came}; put -O in {came} -o lftp-{passive}; ls in; quit",
        came = came.display()
    );
    let mut command = stage.lab.client.command("timeout");
    command.args(["120", "lftp", "--norc", "-c", &script]);
    let case = || format!("lftp, passive {passive}");
    // Not the files of the administrator.
    let said = run(command.env("HOME", stage.lab.dir())).with_context(case)?;
    ensure!(said.contains(name), "{}: no listing: {said}", case());
    same(file, &came).with_context(case)?;
    same(file, &ftp.uploaded(&format!("lftp-{passive}"))).with_context(case)?;
    fs::remove_file(&came)?;
    Ok(())
}

/// Fails unless both files have the same bytes. The server may still be writing the last.
fn same(one: &Path, other: &Path) -> Result<()> {
    let compare = || run(Command::new("cmp").arg(one).arg(other)).map(drop);
    for _ in 0..50 {
        if compare().is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    compare()
}

/// Fifty clients together, in every way of data, each with a file down and up.
fn fifty_at_once(mode: Mode, who: As) {
    with_proxy(mode, who, |stage, ftp| {
        let file = ftp.add_random("file", 1_000_000)?;
        thread::scope(|scope| {
            let clients: Vec<_> = (0..50)
                .map(|number| {
                    let file = &file;
                    scope.spawn(move || {
                        let data = WAYS[number % WAYS.len()];
                        let mark = format!("at-once-{number}");
                        round_trip(stage, ftp, data, ("file", file), &mark)
                    })
                })
                .collect();
            clients.into_iter().try_for_each(|client| {
                let ended = client.join();
                ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        // Two connections of commands for each.
        let connected: usize = ftp.clients("CONNECT")?.values().sum();
        ensure!(connected == 100, "{connected} sessions");
        Ok(())
    });
}
