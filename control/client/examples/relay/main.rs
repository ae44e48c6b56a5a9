//! A small transparent TCP relay: every redirected connection goes on to where its
//! client wanted to go, and the bytes pass as they are.
//!
//! `relay --listen 10.1.0.1:3128` beside a rule `-j TPROXY --on-port 3128`. With `--as-client`
//! a web server behind it sees and logs its clients instead of the relay.

mod accept;
mod copy;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{info, warn};
use xtproxy_client::asynchronous::foreign_connect;
use xtproxy_client::{AsyncClient, OriginalDestination, Registrar};

use crate::accept::Acceptor;
use crate::copy::{Ended, copy_both};

/// Relays redirected TCP connections to where their clients wanted to go.
#[derive(Parser)]
struct Arguments {
    /// Where to listen: the address and port that the rules redirect to.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Connect onward with the client's address, and a port that xtproxy chooses.
    #[arg(long)]
    as_client: bool,
    /// Connect onward with the client's address and port.
    #[arg(long, conflicts_with = "as_client")]
    as_client_port: bool,
    /// The daemon's runtime directory.
    #[arg(long, value_name = "DIR", default_value_os_t = xtproxy_client::runtime_dir())]
    runtime_dir: PathBuf,
    /// How many seconds a server may take to accept.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    connect_timeout: u64,
    /// After SIGTERM, how many seconds connections may still take to finish.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_timeout: u64,
}

/// What every connection needs.
struct Relay {
    client: AsyncClient,
    listening: SocketAddr,
    connect_timeout: Duration,
    /// `None`: the relay goes on as itself.
    in_name_of_client: Option<Impersonation>,
}

/// How to go on in the client's name.
struct Impersonation {
    registrar: Registrar,
    with_port: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let client = AsyncClient::connect_to(&arguments.runtime_dir).await?;
    let (address, with_port) = (arguments.as_client, arguments.as_client_port);
    let in_name_of_client = match address || with_port {
        true => Some(Impersonation {
            registrar: Registrar::connect_to(&arguments.runtime_dir)?,
            with_port,
        }),
        false => None,
    };
    let acceptor = Acceptor::listen(arguments.listen)?;
    let relay = Arc::new(Relay {
        client,
        in_name_of_client,
        listening: acceptor.local_addr()?,
        connect_timeout: Duration::from_secs(arguments.connect_timeout),
    });
    info!("listening on {}", relay.listening);
    let drain_time = Duration::from_secs(arguments.drain_timeout);
    let serve = |stream, peer, _| Arc::clone(&relay).serve(stream, peer);
    acceptor.run(drain_time, serve).await;
    Ok(())
}

impl Relay {
    async fn serve(self: Arc<Self>, accepted: TcpStream, peer: SocketAddr) {
        let begun = Instant::now();
        let (original, onward) = match self.go_on(&accepted).await {
            Ok(both) => both,
            Err(reason) => {
                // A reset, so that the client learns at once that nobody serves it.
                let _ = accepted.set_zero_linger();
                warn!("{peer} refused: {reason}");
                return;
            }
        };
        let OriginalDestination {
            source,
            destination,
        } = original;
        let via = accepted.local_addr().unwrap_or(self.listening);
        let Ended { up, down, error } = copy_both(accepted, onward, None).await;
        let end = error.map_or_else(|| "done".to_owned(), |e| format!("aborted: {e}"));
        let ms = begun.elapsed().as_millis();
        info!("{source} -> {destination} via {via}: {up} bytes up, {down} down, {ms} ms, {end}");
    }

    /// Finds out where the client wanted to go, and connects there.
    async fn go_on(
        &self,
        accepted: &TcpStream,
    ) -> Result<(OriginalDestination, TcpStream), Box<dyn std::error::Error + Send + Sync>> {
        let original = self.client.original_destination(accepted).await?;
        let wanted = original.destination;
        if wanted == self.listening || Some(wanted) == accepted.local_addr().ok() {
            return Err(format!("{wanted} is this relay: going on would loop").into());
        }
        let onward = match &self.in_name_of_client {
            None => timeout(self.connect_timeout, TcpStream::connect(wanted))
                .await
                .map_err(|_| format!("{wanted} does not accept in time"))?
                .map_err(|e| format!("{wanted}: {e}"))?,
            Some(as_client) => {
                let onward = as_client.connect(original, self.connect_timeout);
                onward.await.map_err(|e| format!("{wanted}: {e}"))?
            }
        };
        accepted.set_nodelay(true)?;
        onward.set_nodelay(true)?;
        Ok((original, onward))
    }
}

impl Impersonation {
    async fn connect(
        &self,
        original: OriginalDestination,
        patience: Duration,
    ) -> Result<TcpStream, Box<dyn std::error::Error + Send + Sync>> {
        let (SocketAddr::V4(mut client), SocketAddr::V4(wanted)) =
            (original.source, original.destination)
        else {
            return Err("only IPv4 can be reached in the client's name".into());
        };
        if !self.with_port {
            client.set_port(0);
        }
        Ok(foreign_connect(&self.registrar, client, wanted, None, patience).await?)
    }
}
