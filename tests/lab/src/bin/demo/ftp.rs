//! FTP: each file comes over a connection of its own, which the commands only announce. So the
//! proxy listens and connects with addresses of others.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::program::PATIENCE;
use lab::topology::{CLIENT, FW_INTRA, SERVER};
use lab::web::curl;
use lab::{Daemon, FtpServer, Lab, Program, Relay, files};
use serde_json::Value;

use crate::screen::{self, did, note, row, step};

/// Where the FTP proxy listens.
const PROXY: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 50021);
/// Where the server takes commands.
const SERVICE: SocketAddrV4 = SocketAddrV4::new(SERVER, 21);
/// Where the server opens active data connections.
const ACTIVE: SocketAddrV4 = SocketAddrV4::new(SERVER, 20);
/// Size of the file, and bytes per second: it takes long enough to look at.
const BYTES: u64 = 4 << 20;
const RATE: &str = "3M";

/// Who opens the data connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Data {
    /// The client.
    Passive,
    /// The server.
    Active,
}

/// What runs for this scene.
pub struct Ftp {
    server: FtpServer,
    proxy: Relay,
    sum: String,
}

impl Ftp {
    /// Plays the scene.
    pub fn show(lab: &Lab, daemon: &Daemon) -> Result<Self> {
        step("FTP: the proxy listens as the server and connects as the client, and the reverse");
        let server = FtpServer::start(&lab.server, lab.dir())?;
        did(&format!("vsftpd serves at {SERVICE}"));
        let proxy = Relay::start_as(lab, "ftp-proxy", PROXY, &["--as-client"])?;
        did(&format!(
            "ftp-proxy listens at {PROXY}, where a rule sends port 21"
        ));
        let sum = files::sha256(&server.add_random("file", BYTES)?)?;
        let ftp = Ftp { server, proxy, sum };
        ftp.fetch(lab, daemon, Data::Passive)?;
        ftp.fetch(lab, daemon, Data::Active)?;
        ftp.show_log()?;
        Ok(ftp)
    }

    /// Leaves both running.
    pub fn release(mut self) {
        self.proxy.program().release();
        // Its end would be the server's.
        std::mem::forget(self.server);
    }

    fn fetch(&self, lab: &Lab, daemon: &Daemon, data: Data) -> Result<()> {
        let (name, options): (_, &[&str]) = match data {
            Data::Passive => ("passive", &["--disable-epsv"]),
            Data::Active => ("active", &["--ftp-port", "-", "--disable-eprt"]),
        };
        let (url, words) = (format!("ftp://{SERVER}/file"), options.join(" "));
        screen::command(&format!("curl {words} {url}        # {name} data"));
        let copy = lab.dir().join(format!("file.{name}"));
        let mut command = curl(&lab.client);
        command.args(["--verbose", "--limit-rate", RATE]);
        command.args(options).arg("--output").arg(&copy).arg(&url);
        let mut client = Program::start(lab.dir(), &format!("curl-{name}"), command)?;
        let (here, there) = connected(lab, &mut client)?;
        show_connection(&client, data, here, there)?;
        show_registrations(daemon, data, here, there)?;
        let status = client.wait()?;
        ensure!(status.success(), "curl: {status}: {}", client.stderr());
        let came = files::sha256(&copy)?;
        ensure!(came == self.sum, "it came as {came}, but left otherwise");
        let words = [&format!("{name} data"), "done"];
        let told = self.proxy.wait_line(&words)?;
        note(&format!("proxy's log: {}", told.trim()));
        did("the file is equal at both ends");
        Ok(())
    }

    /// The server's log, which must know the client alone.
    fn show_log(&self) -> Result<()> {
        let wanted = BTreeMap::from([(CLIENT, 2)]);
        let event = "OK DOWNLOAD";
        wait("the server logs both files", || {
            let clients = self.server.clients(event)?;
            Ok((clients.values().sum::<usize>() == 2).then_some(clients))
        })
        .and_then(|clients| {
            ensure!(clients == wanted, "the server logged {clients:?}");
            Ok(())
        })?;
        note("vsftpd's log:");
        for line in self.server.log()?.lines() {
            if line.contains(event) {
                note(&format!("  {line}"));
            }
        }
        did(&format!("the server knows {CLIENT}, not the proxy"));
        Ok(())
    }
}

/// The client's ends of its data connection, once there is one: its own and the other.
fn connected(lab: &Lab, client: &mut Program) -> Result<(SocketAddrV4, SocketAddrV4)> {
    let query = format!("ss -Htn state established dst {SERVER}");
    wait("the client has a data connection", || {
        let sockets = lab.client.run(&query)?;
        for line in sockets.lines() {
            let mut words = line.split_whitespace().skip(2);
            let here = words.next().context("ss")?.parse()?;
            let there: SocketAddrV4 = words.next().context("ss")?.parse()?;
            if there != SERVICE {
                return Ok(Some((here, there)));
            }
        }
        match client.ended()? {
            Some(status) => bail!("curl: {status}: {}", client.stderr()),
            None => Ok(None),
        }
    })
}

/// What the client and its peer said of the data connection, and what it became.
fn show_connection(
    client: &Program,
    data: Data,
    here: SocketAddrV4,
    there: SocketAddrV4,
) -> Result<()> {
    let (words, announced): ([&str; 2], _) = match data {
        Data::Passive => (["> PASV", "< 227"], there),
        Data::Active => (["> PORT", "< 200 PORT"], here),
    };
    let said = client.stderr();
    let about = |line: &&str| words.iter().any(|word| line.starts_with(word));
    let lines: Vec<&str> = said.lines().filter(about).collect();
    for line in &lines {
        note(line.trim());
    }
    let [a, b, c, d] = announced.ip().octets();
    let [high, low] = announced.port().to_be_bytes();
    let numbers = format!("{a},{b},{c},{d},{high},{low}");
    ensure!(
        lines.iter().any(|line| line.contains(&numbers)),
        "{announced} was not announced: {said}"
    );
    let (arrow, meaning) = match data {
        Data::Passive => ("->", "where it was told to: the proxy listens there"),
        Data::Active => ("<-", "from the server's port 20: the proxy connects so"),
    };
    ensure!(*there.ip() == SERVER, "the data come from {there}");
    ensure!(
        data == Data::Passive || there == ACTIVE,
        "active data come from {there}"
    );
    row("client's socket", here, arrow, there, meaning);
    Ok(())
}

/// The registrations in the middle of the transfer.
fn show_registrations(
    daemon: &Daemon,
    data: Data,
    here: SocketAddrV4,
    there: SocketAddrV4,
) -> Result<()> {
    let (here, there) = (here.to_string(), there.to_string());
    let is = |row: &Value, key: &str, text: &str| row[key].as_str() == Some(text);
    // Towards the client, and towards the server.
    let both = |rows: &[Value]| match data {
        Data::Passive => {
            rows.iter().any(|row| is(row, "foreign", &there))
                && rows.iter().any(|row| is(row, "peer", &there))
        }
        Data::Active => {
            rows.iter().any(|row| is(row, "foreign", &here))
                && rows
                    .iter()
                    .any(|row| is(row, "foreign", &there) && is(row, "peer", &here))
        }
    };
    wait("both ends' data are registered", || {
        let document = daemon.json(&["registrations"])?;
        let rows = document["registrations"].as_array();
        Ok(both(rows.context("registrations is no list")?).then_some(()))
    })?;
    let words = match data {
        Data::Passive => vec!["registrations"],
        // Those of the first transfer linger as long as their connections do.
        Data::Active => vec!["registrations", "--foreign", &there],
    };
    screen::command(&format!("xtproxy {}", words.join(" ")));
    for line in daemon.ask(&words)?.lines() {
        note(line);
    }
    if data == Data::Passive {
        note("an orphan is one whose socket is closed: it stays for the connections that it has");
    }
    Ok(())
}

/// Waits until `look` has something.
fn wait<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "in vain waited until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
