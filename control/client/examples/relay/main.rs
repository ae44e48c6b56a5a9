//! A small transparent TCP relay: every redirected connection goes on to where its
//! client wanted to go, and the bytes pass as they are.
//!
//! `relay --listen 10.1.0.1:3128` beside a rule `-j TPROXY --on-port 3128`.

mod copy;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use xtproxy_client::{AsyncClient, OriginalDestination};

use crate::copy::{Ended, copy_both};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Relays redirected TCP connections to where their clients wanted to go.
#[derive(Parser)]
struct Arguments {
    /// Where to listen: the address and port that the rules redirect to.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
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
    let mut terminate = signal(SignalKind::terminate())?;
    let client = AsyncClient::connect_to(&arguments.runtime_dir).await?;
    let listener = listen(arguments.listen).map_err(|e| format!("{}: {e}", arguments.listen))?;
    let relay = Arc::new(Relay {
        client,
        listening: listener.local_addr()?,
        connect_timeout: Duration::from_secs(arguments.connect_timeout),
    });
    info!("listening on {}", relay.listening);
    let mut connections = JoinSet::new();
    accept_until(&mut terminate, listener, &relay, &mut connections).await;
    info!("draining {} connections", connections.len());
    let drained = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        done = timeout(Duration::from_secs(arguments.drain_timeout), drained) => match done {
            Ok(()) => info!("drained"),
            Err(_) => warn!("cut off what was not finished in time"),
        },
        _ = terminate.recv() => warn!("cut off by a second SIGTERM"),
    }
    Ok(())
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept_until(
    stop: &mut Signal,
    listener: TcpListener,
    relay: &Arc<Relay>,
    connections: &mut JoinSet<()>,
) {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(Arc::clone(relay).serve(stream, peer));
                }
                Err(error) => {
                    // No file descriptor left, most likely: let some connection end first.
                    warn!("accept: {error}");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            _ = stop.recv() => return,
        }
    }
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
        let Ended { up, down, error } = copy_both(accepted, onward).await;
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
        let connecting = timeout(self.connect_timeout, TcpStream::connect(wanted));
        let onward = connecting
            .await
            .map_err(|_| format!("{wanted} does not accept in time"))?
            .map_err(|e| format!("{wanted}: {e}"))?;
        accepted.set_nodelay(true)?;
        onward.set_nodelay(true)?;
        Ok((original, onward))
    }
}
