//! The stage of an end-to-end test: a lab with captures on every wire, a web server, and on
//! the firewall a relay and the daemon.
//!
//! Invariant: a test that gets a stage ends with the audit of all captures and of all frames.

pub mod administrator;

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::audit::audit;
use lab::command::run;
use lab::connection::connect;
use lab::topology::{CLIENT, CLIENT_TWO, FW_DMZ, FW_INTER, FW_INTRA, SERVER, SERVER_TWO};
use lab::{Behaviour, Capture, Config, Daemon, Lab, Link, Mode, Peer, Plan, Relay, Report, Web};
use xtproxy_client::Registrar;

/// Where the usual relay listens.
pub const RELAY: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 50080);

/// The usual rules: what clients open to the web or to a test's own servers goes to the relay.
pub const RULES: &str = "\
*tproxy
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:PRintra - [0:0]
-A PREROUTING -i eth1 ! -d 192.168.1.1 -j PRintra
-A PRintra -p tcp --dport 80 -j TPROXY --on-port 50080
-A PRintra -p tcp --dport 7000:7099 -j TPROXY --on-port 50080
COMMIT
";

/// Timeouts with which nothing is left soon after a connection has ended.
pub const SHORT_ENDINGS: &str = "tcp_closed = 1\ntcp_transitory = 4";

/// What to build.
#[derive(Clone, Debug)]
pub struct Script {
    /// The lab.
    pub plan: Plan,
    /// How the cards are bound.
    pub mode: Mode,
    /// The rules.
    pub ruleset: String,
    /// More lines for the top of the configuration.
    pub top: String,
    /// The tables of zones and services, where the usual ones are not wanted.
    pub zones: Option<String>,
    /// More tables for the configuration.
    pub tables: String,
    /// Where relays listen.
    pub relays: Vec<SocketAddrV4>,
    /// Words for `ip` on the firewall before anything starts there.
    pub addresses: Vec<String>,
}

impl Script {
    /// The usual stage.
    pub fn new(mode: Mode) -> Self {
        Script {
            plan: Plan::default(),
            mode,
            ruleset: RULES.to_owned(),
            top: String::new(),
            zones: None,
            tables: String::new(),
            relays: vec![RELAY],
            addresses: Vec::new(),
        }
    }

    /// The same with the rules `lines` in place of the usual ones.
    pub fn with_rules(mut self, lines: &[&str]) -> Self {
        let lines = lines.join("\n");
        self.ruleset = format!("*tproxy\n:PREROUTING ACCEPT [0:0]\n{lines}\nCOMMIT\n");
        self
    }

    /// The same with all of this ruleset.
    pub fn with_ruleset(mut self, ruleset: &str) -> Self {
        self.ruleset = ruleset.to_owned();
        self
    }

    /// The same with relays at `relays` only.
    pub fn with_relays(mut self, relays: &[SocketAddrV4]) -> Self {
        self.relays = relays.to_vec();
        self
    }

    /// The same with these timeouts.
    pub fn with_timeouts(mut self, lines: &str) -> Self {
        self.tables += &format!("\n[timeouts]\n{lines}\n");
        self
    }
}

/// The stage, in the order in which its parts may go.
#[derive(Debug)]
pub struct Stage {
    /// The daemon.
    pub daemon: Daemon,
    /// The relays.
    pub relays: Vec<Relay>,
    /// The web server.
    pub web: Web,
    captures: Option<[Capture; 2]>,
    /// What may be seen on the client's wire.
    pub client_link: Link,
    /// What may be seen on the server's wire.
    pub server_link: Link,
    /// The only addresses that servers may see; `None`: any that is not hidden from them.
    pub servers_see: Option<BTreeSet<Ipv4Addr>>,
    /// The lab.
    pub lab: Lab,
}

/// What the captures held.
#[derive(Debug)]
pub struct Reports {
    /// On the client's wire.
    pub client: Report,
    /// On the server's wire.
    pub server: Report,
}

/// Plays `act` on a stage. Afterwards every frame must be accounted for and every captured
/// packet be right; returns what was captured. With `XTPROXY_E2E_KEEP=DIR` in the environment
/// a failed test leaves its logs and captures there.
pub fn play(script: &Script, act: impl FnOnce(&mut Stage) -> Result<()>) -> Reports {
    let mut stage = Stage::build(script).unwrap_or_else(|error| panic!("no stage: {error:#}"));
    let acted = catch_unwind(AssertUnwindSafe(|| act(&mut stage)));
    let reports = stage.end();
    let mut failures = Vec::new();
    match &acted {
        Ok(Ok(())) => {}
        Ok(Err(error)) => failures.push(format!("{error:#}")),
        Err(_) => failures.push("an assertion failed, see above".to_owned()),
    }
    if let Err(error) = &reports {
        failures.push(format!("{error:#}"));
    }
    match (failures.as_slice(), reports) {
        ([], Ok(reports)) => reports,
        _ => panic!("{}\n{}", failures.join("\n"), stage.last_words()),
    }
}

impl Stage {
    fn build(script: &Script) -> Result<Self> {
        let lab = Lab::build(&script.plan)?;
        for words in &script.addresses {
            lab.fw.ip(words)?;
        }
        let web = Web::start(&lab.server, lab.dir())?;
        let captures = [
            Capture::start(&lab.client, lab.dir())?,
            Capture::start(&lab.server, lab.dir())?,
        ];
        let mut config = Config::new(script.mode, script.ruleset.clone());
        config.top += &script.top;
        config.zones.clone_from(&script.zones);
        config.tables += &script.tables;
        let daemon = Daemon::start(&lab, &config)?;
        let relays = script.relays.iter();
        let relays = relays
            .map(|address| Relay::start(&lab, *address))
            .collect::<Result<_>>()?;
        Ok(Stage {
            client_link: client_link(&lab, script)?,
            server_link: server_link(&lab)?,
            daemon,
            relays,
            web,
            captures: Some(captures),
            servers_see: None,
            lab,
        })
    }

    /// Connects from the client, from a port of the kernel's choice.
    pub fn connect(&self, to: SocketAddrV4) -> io::Result<TcpStream> {
        connect(&self.lab.client, None, to, lab::connection::TIMEOUT)
    }

    /// Connects from a fixed address and port of the client.
    pub fn connect_from(&self, from: SocketAddrV4, to: SocketAddrV4) -> io::Result<TcpStream> {
        connect(&self.lab.client, Some(from), to, lab::connection::TIMEOUT)
    }

    /// Whether a connection is silently dropped, as far as two seconds can tell.
    pub fn is_dropped(&self, from: Option<SocketAddrV4>, to: SocketAddrV4) -> Result<bool> {
        match connect(&self.lab.client, from, to, Duration::from_secs(2)) {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(true),
            Err(error) => Err(error).context("neither connected nor dropped"),
        }
    }

    /// A server at `port` of the server's first address.
    pub fn peer(&self, port: u16, behaviour: Behaviour) -> Result<Peer> {
        Peer::listen(&self.lab.server, server(port), behaviour)
    }

    /// All that the relays said.
    pub fn relay_log(&self) -> String {
        self.relays.iter().map(Relay::log).collect()
    }

    /// Lets `endpoint` of the box speak TCP to the client.
    pub fn allow_service(&mut self, endpoint: SocketAddrV4) {
        let services = &mut self.client_link.services;
        services.get_or_insert_default().insert(endpoint);
    }

    /// Servers may see these addresses and no other, in the whole test, the box's own neither.
    pub fn servers_see_only(&mut self, addresses: &[Ipv4Addr]) {
        self.server_link.hidden.clear();
        self.servers_see = Some(addresses.iter().copied().collect());
    }

    /// Clients may see these ports of the server's first address too.
    pub fn clients_see_ports(&mut self, ports: impl IntoIterator<Item = u16>) {
        let servers = self.client_link.servers.get_or_insert_default();
        servers.extend(ports.into_iter().map(server));
    }

    /// Clients may see this foreign endpoint too.
    pub fn clients_see(&mut self, foreign: SocketAddrV4) {
        self.client_link
            .servers
            .get_or_insert_default()
            .insert(foreign);
    }

    /// Starts an example proxy with `options` on the firewall.
    pub fn proxy(&mut self, program: &str, at: SocketAddrV4, options: &[&str]) -> Result<()> {
        let proxy = Relay::start_as(&self.lab, program, at, options)?;
        self.client_link.proxies.insert(at);
        self.relays.push(proxy);
        Ok(())
    }

    /// The registrations, as `xtproxy registrations` lists them.
    pub fn registrations(&self) -> Result<Vec<serde_json::Value>> {
        let document = self.daemon.json(&["registrations"])?;
        let list = document["registrations"].as_array().cloned();
        list.with_context(|| format!("no list of registrations: {document}"))
    }

    /// Waits until no registration is left, orphans neither.
    pub fn registrations_end(&self) -> Result<()> {
        let all = || self.registrations();
        self.daemon
            .wait_until("registrations end", |_| Ok(all()?.is_empty()))
            .with_context(|| format!("{:?}", all()))
    }

    /// A program of the folder `programs`, compiled.
    pub fn compile(&self, source: &str) -> Result<PathBuf> {
        let rooms = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let path = rooms.join("tests/e2e/programs").join(source);
        let include = rooms.join("control/capi/include");
        lab::source::compile(&self.lab, &path, &include)
    }

    /// The raw interface to this stage's daemon.
    pub fn registrar(&self) -> Result<Registrar> {
        Ok(Registrar::connect_to(lab::daemon::runtime_dir(&self.lab))?)
    }

    /// Every frame accounted for, every captured packet right.
    fn end(&mut self) -> Result<Reports> {
        // A test may end without a daemon, when that is its theme.
        let frames = match self.daemon.program().ended()? {
            None => self.daemon.check_frames(),
            Some(_) => Ok(()),
        };
        let [client, server] = self.captures.take().context("the captures have ended")?;
        let (client, server) = (client.stop()?, server.stop()?);
        frames?;
        let reports = Reports {
            client: audit(&client, &self.client_link)?,
            server: audit(&server, &self.server_link)?,
        };
        reports.client.check()?;
        reports.server.check()?;
        if let Some(only) = &self.servers_see {
            let seen = reports.server.check_sources(only);
            seen.context("on the server's wire")?;
        }
        Ok(reports)
    }

    /// What the programs said; keeps the lab's files where that was asked for.
    fn last_words(&self) -> String {
        let mut words = format!(
            "daemon:\n{}relays:\n{}",
            self.daemon.log(),
            self.relay_log()
        );
        if let Some(dir) = std::env::var_os("XTPROXY_E2E_KEEP") {
            let copied = run(Command::new("cp").arg("-r").arg(self.lab.dir()).arg(dir));
            words += &copied.map_or_else(|error| format!("{error:#}"), |_| String::new());
        }
        words
    }
}

/// An endpoint of the server's first address.
pub fn server(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(SERVER, port)
}

fn own(lab: &Lab) -> BTreeSet<Ipv4Addr> {
    let mut own = BTreeSet::from([FW_INTRA, FW_INTER]);
    own.extend(lab.dmz.is_some().then_some(FW_DMZ));
    own
}

fn client_link(lab: &Lab, script: &Script) -> Result<Link> {
    let ports = || [80, 8080].into_iter().chain(7000..7100);
    let servers = [SERVER, SERVER_TWO].into_iter();
    let servers = servers.flat_map(|ip| ports().map(move |port| SocketAddrV4::new(ip, port)));
    let mut own = own(lab);
    own.extend(script.relays.iter().map(|relay| *relay.ip()));
    Ok(Link {
        name: "client",
        macs: vec![lab.fw.mac("eth1")?],
        own,
        services: Some(BTreeSet::new()),
        servers: Some(servers.collect()),
        hidden: BTreeSet::new(),
        proxies: script.relays.iter().copied().collect(),
        merged: lab.plan().offloads == lab::Offloads::All,
    })
}

fn server_link(lab: &Lab) -> Result<Link> {
    Ok(Link {
        name: "server",
        macs: vec![lab.fw.mac("eth2")?],
        own: own(lab),
        services: None,
        servers: None,
        hidden: [CLIENT, CLIENT_TWO].into(),
        proxies: BTreeSet::new(),
        merged: lab.plan().offloads == lab::Offloads::All,
    })
}

/// Makes of each function a test per mode of the cards.
#[macro_export]
macro_rules! in_both_modes {
    ($($name:ident,)+) => {
        mod native {
            $(#[test] fn $name() { super::$name(lab::Mode::Auto); })+
        }
        mod generic {
            $(#[test] fn $name() { super::$name(lab::Mode::Generic); })+
        }
    };
}
