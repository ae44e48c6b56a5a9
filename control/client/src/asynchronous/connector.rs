//! Connecting from a foreign address.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use crate::connector::{TRIES, cannot_connect, is_port_shared, local_towards, register};
use crate::{Registrar, Result};

/// As [`foreign_connect`](crate::foreign_connect).
///
/// # Errors
/// The same.
pub async fn foreign_connect(
    registrar: &Registrar,
    foreign: SocketAddrV4,
    to: SocketAddrV4,
    local: Option<Ipv4Addr>,
    timeout: Duration,
) -> Result<TcpStream> {
    let limit = Instant::now() + timeout;
    let local = local.map_or_else(|| local_towards(to), Ok)?;
    let mut tries = 0;
    loop {
        tries += 1;
        let outcome = attempt(registrar, foreign, to, local, limit).await;
        let is_over = tries == TRIES || Instant::now() >= limit;
        match outcome {
            Err(error) if !is_over && is_port_shared(&error) => {}
            outcome => return outcome,
        }
    }
}

async fn attempt(
    registrar: &Registrar,
    foreign: SocketAddrV4,
    to: SocketAddrV4,
    local: Ipv4Addr,
    limit: Instant,
) -> Result<TcpStream> {
    let failed = |e| cannot_connect(foreign, to, e);
    // A daemon that hangs must not hang the runtime too.
    let asking = {
        let registrar = registrar.clone();
        spawn_blocking(move || register(&registrar, foreign, to, local))
    };
    let socket = asking.await.map_err(|e| failed(e.into()))??;
    socket.set_nonblocking(true).map_err(failed)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let connecting = timeout_at(limit, socket.connect(to.into())).await;
    connecting
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .map_err(failed)
}
