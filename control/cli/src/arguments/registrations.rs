//! The arguments of the commands about registrations.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use nix::unistd::User;
use protocol::{Network, Registration, RegistrationState};
use xtproxy_client::Flags;

/// Shows what proxies have registered.
#[derive(Args)]
#[command(after_help = "\
FOREIGN is what others see, LOCAL where the proxy's socket is bound. Port * is chosen when the
socket connects. Every option given must match.

Examples:
  xtproxy registrations --foreign 203.0.113.0/24 --user proxy
  xtproxy registrations --local 10.0.0.1:50021
  xtproxy registrations --watch --for 60    what comes, changes and goes within a minute
  xtproxy --json registrations | jq '.registrations[] | select(.state == \"orphan\")'")]
pub(crate) struct Registrations {
    #[command(flatten)]
    pub(crate) filter: RegistrationFilter,
    /// Look every second, and tell what came, changed and went.
    #[arg(long)]
    pub(crate) watch: bool,
    /// With --watch: end when so many changes were told.
    #[arg(long, value_name = "N", requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// With --watch: end after so many seconds.
    #[arg(long = "for", value_name = "SECONDS", requires = "watch")]
    pub(crate) seconds: Option<u32>,
}

/// Which registrations.
#[derive(Args)]
pub(crate) struct RegistrationFilter {
    /// The protocol.
    #[arg(long, value_parser = ["tcp", "udp"])]
    proto: Option<String>,
    /// The foreign address.
    #[arg(long, value_name = "ADDRESS[/PREFIX][:PORT]")]
    foreign: Option<Place>,
    /// The local address.
    #[arg(long, value_name = "ADDRESS[/PREFIX][:PORT]")]
    local: Option<Place>,
    /// The process that registered it.
    #[arg(long)]
    pid: Option<u32>,
    /// That process's user, by name or number.
    #[arg(long, value_parser = uid)]
    user: Option<u32>,
    /// The state: live or orphan.
    #[arg(long)]
    state: Option<RegistrationState>,
}

impl RegistrationFilter {
    pub(crate) fn matches(&self, one: &Registration) -> bool {
        let place = |place: &Option<Place>, at| place.as_ref().is_none_or(|p| p.contains(at));
        self.proto.as_ref().is_none_or(|proto| *proto == one.proto)
            && place(&self.foreign, one.foreign)
            && place(&self.local, one.local)
            && self.pid.is_none_or(|pid| pid == one.pid)
            && self.user.is_none_or(|uid| uid == one.uid)
            && self.state.is_none_or(|state| state == one.state)
    }
}

/// A network, and a port of it or all.
#[derive(Clone)]
struct Place {
    network: Network,
    port: Option<u16>,
}

impl Place {
    fn contains(&self, at: SocketAddr) -> bool {
        self.network.contains(at.ip()) && self.port.is_none_or(|port| port == at.port())
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not ADDRESS[/PREFIX][:PORT]");
        let (network, port) = match text.split_once(':') {
            Some((network, port)) => (network, Some(port.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let network = network.parse().map_err(|_| wrong())?;
        Ok(Self { network, port })
    }
}

fn uid(text: &str) -> Result<u32, String> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(format!("there is no user '{text}'")),
        Err(errno) => Err(errno.desc().into()),
    }
}

/// Holds a foreign address for whoever listens on a local one.
#[derive(Args)]
#[command(after_help = "\
TCP: start the server before or after this, as you like; before, if it does not set
SO_REUSEADDR. UDP: as soon as a socket is bound to the local address, it is registered.
\"listening\" on the output (with COMMAND: on the error output) says that it stands. SIGINT and
SIGTERM end it; COMMAND gets them too, and its exit code becomes this one's.

Examples:
  xtproxy listen --foreign 203.0.113.5:2121 --local 10.0.0.1:50021
  xtproxy listen --foreign 203.0.113.5:80 --local 10.0.0.1:8080 -- \\
      python3 -m http.server --bind 10.0.0.1 8080
  xtproxy listen --udp --foreign 203.0.113.5:53 --local 10.0.0.1:5353")]
pub(crate) struct Listen {
    /// What clients connect to.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = place)]
    pub(crate) foreign: SocketAddrV4,
    /// Where the server listens: an address of this box.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = place)]
    pub(crate) local: SocketAddrV4,
    /// Only for this client.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = place)]
    pub(crate) peer: Option<SocketAddrV4>,
    /// UDP instead of TCP.
    #[arg(long)]
    pub(crate) udp: bool,
    /// What to run as long as it stands.
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}

/// Holds a foreign address for a local one, with any flags.
#[derive(Args)]
#[command(after_help = "\
The operations ASSIGN, CONNECT (with --peer) and FLAGS of TProxy 2.0, for scripts. TCP: programs
that set SO_REUSEADDR can use the local address beside this. UDP: as soon as a socket is bound to
the local address, it is registered. It ends as 'xtproxy listen' does.

Examples:
  xtproxy assign --foreign 198.51.100.7 --local 10.0.0.1:4000 --flags connect -- \\
      nc -s 10.0.0.1 -p 4000 192.0.2.1 80
  xtproxy assign --foreign 203.0.113.5:20 --local 10.0.0.1:2020 --flags connect,listen")]
pub(crate) struct Assign {
    /// What others see; without a port it is chosen at connect. 0.0.0.0: only mark it.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = perhaps_port)]
    pub(crate) foreign: SocketAddrV4,
    /// The local address: one of this box.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = place)]
    pub(crate) local: SocketAddrV4,
    /// What to do with it: connect, listen, established, once, unidir; commas between them.
    #[arg(long)]
    pub(crate) flags: Flags,
    /// The one host and port that it is for.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = place)]
    pub(crate) peer: Option<SocketAddrV4>,
    /// UDP instead of TCP.
    #[arg(long)]
    pub(crate) udp: bool,
    /// What to run as long as it stands.
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}

/// Connects from a foreign address, and joins the connection with input and output.
#[derive(Args)]
#[command(after_help = "\
Without COMMAND, the input is sent, what comes is printed, and it ends when the other side closes.
With COMMAND, the connection is its input and output, and its exit code becomes this one's.

Examples:
  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | xtproxy connect --foreign 198.51.100.7 www.example.org:80
  xtproxy connect --foreign 198.51.100.7:20 192.0.2.1:4021 -- cat /srv/file")]
pub(crate) struct Connect {
    /// What the server sees; without a port one that is free is chosen.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = perhaps_port)]
    pub(crate) foreign: SocketAddrV4,
    /// The box's own address to use; by default the one that leads there.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) local: Option<Ipv4Addr>,
    /// How long connecting may take.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// The server.
    #[arg(value_name = "HOST:PORT", value_parser = host)]
    pub(crate) to: (String, u16),
    /// What to run on the connection.
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}

fn place(text: &str) -> Result<SocketAddrV4, String> {
    let parsed = text.parse().ok();
    let parsed = parsed.filter(|at: &SocketAddrV4| at.port() != 0);
    parsed.ok_or_else(|| "wanted: an IPv4 address and a port, like 203.0.113.5:2121".into())
}

fn perhaps_port(text: &str) -> Result<SocketAddrV4, String> {
    let alone = text.parse().map(|ip| SocketAddrV4::new(ip, 0));
    let wrong = |_| "wanted: an IPv4 address, with or without a port, like 198.51.100.7:20".into();
    alone.or_else(|_| text.parse()).map_err(wrong)
}

fn host(text: &str) -> Result<(String, u16), String> {
    let parts = text.rsplit_once(':').and_then(|(host, port)| {
        let port = port.parse().ok().filter(|port| *port != 0)?;
        (!host.is_empty() && !host.contains(':')).then(|| (host.to_owned(), port))
    });
    parts.ok_or_else(|| "wanted: a name or IPv4 address and a port, like 192.0.2.1:80".into())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse()
        .ok()
        .filter(|seconds| (1..=3600).contains(seconds));
    let seconds = seconds.ok_or("wanted: seconds from 1 to 3600")?;
    Ok(Duration::from_secs(seconds))
}
