//! A transparent FTP proxy: a model for protocols that agree on further connections.
//!
//! Control connections come by a rule that redirects them. For the data of a passive
//! transfer the proxy listens at the server's address, for that of an active one at the
//! client's; and it goes on as the one that the other end expects. docs/ftp-proxy.md shows
//! it at work.
//!
//! | file | job |
//! |---|---|
//! | `accept`, `copy` | the relay's: connections come, bytes go |
//! | `line`, `urgent` | bounded lines, urgent bytes among them |
//! | `command`, `reply` | what they say, as far as a proxy must know |
//! | `turns` | which reply answers which command |
//! | `session` | one conversation |
//! | `data` | its data connections |

#[path = "../relay/accept.rs"]
mod accept;
mod command;
#[path = "../relay/copy.rs"]
mod copy;
mod data;
mod line;
mod reply;
mod session;
mod turns;
mod urgent;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use rustix::net::sockopt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{info, warn};
use xtproxy_client::{AsyncClient, Registrar};

use crate::accept::Acceptor;
use crate::data::{ipv4, reset};

/// Passes FTP on between clients and servers that know nothing of it, data included.
#[derive(Parser)]
#[command(name = "ftp-proxy")]
struct Arguments {
    /// Where to listen: the address and port that the rules redirect to.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddrV4,
    /// Connect to servers with the client's address instead of the box's own.
    #[arg(long)]
    as_client: bool,
    /// The box's address for data connections with clients; without it, the one that the
    /// control connection came to, or the one that the route to the client has.
    #[arg(long, value_name = "ADDR")]
    local_client_side: Option<Ipv4Addr>,
    /// The same towards servers.
    #[arg(long, value_name = "ADDR")]
    local_server_side: Option<Ipv4Addr>,
    /// The daemon's runtime directory.
    #[arg(long, value_name = "DIR", default_value_os_t = xtproxy_client::runtime_dir())]
    runtime_dir: PathBuf,
    /// How many clients may be served at once.
    #[arg(long, value_name = "COUNT", default_value_t = 500)]
    sessions: usize,
    /// How many seconds a connection onward may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    connect_timeout: u64,
    /// How many seconds to wait for a data connection that was agreed on.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    data_timeout: u64,
    /// After how many seconds without a word, or a byte, a connection is given up.
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    idle_timeout: u64,
    /// After SIGTERM, how many seconds sessions may still take to finish.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_timeout: u64,
}

/// Why something could not be done, in one line.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What every session needs.
struct Proxy {
    arguments: Arguments,
    client: AsyncClient,
    registrar: Registrar,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ftp-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let client = AsyncClient::connect_to(&arguments.runtime_dir).await?;
    let registrar = Registrar::connect_to(&arguments.runtime_dir)?;
    let acceptor = Acceptor::listen(arguments.listen.into())?;
    info!("listening on {}", acceptor.local_addr()?);
    let (most, drain_timeout) = (arguments.sessions, arguments.drain_timeout);
    let proxy = Arc::new(Proxy {
        arguments,
        client,
        registrar,
    });
    let serve = |stream, peer, others| {
        let proxy = Arc::clone(&proxy);
        async move {
            if others < most {
                return proxy.serve(stream).await;
            }
            warn!("{peer} refused: there are {others} sessions");
            refuse(stream, "421 Too many sessions, try again later.\r\n").await;
        }
    };
    acceptor
        .run(Duration::from_secs(drain_timeout), serve)
        .await;
    Ok(())
}

/// Tells a client why, in the place of its server's greeting.
async fn refuse(mut stream: TcpStream, why: &'static str) {
    let told = async {
        stream.write_all(why.as_bytes()).await?;
        stream.shutdown().await
    };
    let _ = timeout(Duration::from_secs(1), told).await;
}

impl Proxy {
    async fn serve(self: Arc<Self>, accepted: TcpStream) {
        let (client, server) = match self.original(&accepted).await {
            Ok(both) => both,
            Err(error) => {
                warn!("refused: {error}");
                return reset(accepted);
            }
        };
        let in_name_of = self.arguments.as_client.then_some(*client.ip());
        let onward = match self.connect_to_server(server, in_name_of).await {
            Ok(onward) => onward,
            Err(error) => {
                warn!("{client} refused: {error}");
                return refuse(accepted, "421 The server does not answer.\r\n").await;
            }
        };
        info!("{client} -> {server}: begins");
        let talked = match prepare(&accepted).and_then(|()| prepare(&onward)) {
            Ok(()) => session::talk(self, (accepted, client), (onward, server)).await,
            Err(error) => Err(error),
        };
        let end = talked.map_or_else(|e| format!("aborted: {e}"), |()| "done".to_owned());
        info!("{client} -> {server}: {end}");
    }

    /// Who is it, and where did it want to go?
    async fn original(
        &self,
        accepted: &TcpStream,
    ) -> Result<(SocketAddrV4, SocketAddrV4), Failure> {
        let original = self.client.original_destination(accepted).await?;
        let server = original.destination;
        if server == accepted.local_addr()? {
            return Err(format!("{server} is this proxy: going on would loop").into());
        }
        Ok((ipv4(original.source)?, ipv4(server)?))
    }

    fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.arguments.connect_timeout)
    }

    fn data_timeout(&self) -> Duration {
        Duration::from_secs(self.arguments.data_timeout)
    }

    fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.arguments.idle_timeout)
    }
}

/// For a connection of commands: short lines leave at once, and a dead end is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}
