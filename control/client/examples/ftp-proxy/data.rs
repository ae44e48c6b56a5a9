//! Data connections: listens where one end expects the other, and goes on in its name.
//!
//! Invariant: only the end whose address was agreed on gets through a listener.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use xtproxy_client::asynchronous::{ForeignListener, foreign_connect};

use crate::copy::{Ended, copy_both};
use crate::{Failure, Proxy};

/// How many data connections may wait at a listener: one is expected.
const BACKLOG: u32 = 8;

/// How a data connection goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Onward {
    /// The client has come; on to the server, in the client's name or the proxy's own.
    ToServer {
        /// Where the server listens.
        to: SocketAddrV4,
        /// The client's address, if the server shall see it.
        in_name_of: Option<Ipv4Addr>,
    },
    /// The server has come; on to the client, which shall see the server.
    ToClient {
        /// Where the client listens.
        to: SocketAddrV4,
    },
}

/// A listener for one data connection.
pub(crate) enum Door {
    /// Its address is the box's own.
    Own(TcpListener),
    /// Its address is that of the other end.
    Foreign(ForeignListener),
}

/// Ends with the awaited connection and its true source, or with `None` when it was too late.
/// To drop it is to stop listening.
pub(crate) type Visit = Pin<Box<dyn Future<Output = Option<(TcpStream, SocketAddrV4)>> + Send>>;

impl Door {
    /// Listens at an address of the box; the port is chosen.
    pub(crate) fn own(at: Ipv4Addr) -> io::Result<(Self, SocketAddrV4)> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddrV4::new(at, 0).into())?;
        let listener = socket.listen(BACKLOG)?;
        let at = ipv4(listener.local_addr()?)?;
        Ok((Self::Own(listener), at))
    }

    /// Waits for a connection from `expected` and turns all others away.
    pub(crate) fn wait(self, expected: Ipv4Addr, patience: Duration) -> Visit {
        Box::pin(async move {
            timeout(patience, async {
                loop {
                    match self.accept().await {
                        Ok((stream, source)) if *source.ip() == expected => {
                            return (stream, source);
                        }
                        Ok((stream, source)) => {
                            warn!("turned {source} away: data is expected from {expected}");
                            reset(stream);
                        }
                        Err(error) => {
                            warn!("data connection from {expected}: {error}");
                            sleep(Duration::from_millis(100)).await;
                        }
                    }
                }
            })
            .await
            .ok()
        })
    }

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddrV4)> {
        match self {
            Self::Own(listener) => {
                let (stream, source) = listener.accept().await?;
                Ok((stream, ipv4(source)?))
            }
            Self::Foreign(listener) => Ok(listener.accept().await?),
        }
    }
}

impl Proxy {
    /// Listens at somebody else's address, by a socket at `local`.
    pub(crate) async fn listen_at(
        &self,
        foreign: SocketAddrV4,
        local: Ipv4Addr,
    ) -> Result<Door, Failure> {
        let listener = ForeignListener::bind(&self.registrar, foreign, local).await?;
        Ok(Door::Foreign(listener))
    }

    /// Connects to a server, in the client's name (with a port of xtproxy's choice) or as
    /// the box itself.
    pub(crate) async fn connect_to_server(
        &self,
        to: SocketAddrV4,
        in_name_of: Option<Ipv4Addr>,
    ) -> Result<TcpStream, Failure> {
        let (patience, local) = (self.connect_timeout(), self.arguments.local_server_side);
        if let Some(client) = in_name_of {
            let client = SocketAddrV4::new(client, 0);
            return Ok(foreign_connect(&self.registrar, client, to, local, patience).await?);
        }
        let socket = TcpSocket::new_v4()?;
        if let Some(local) = local {
            socket.bind(SocketAddrV4::new(local, 0).into())?;
        }
        let connected = timeout(patience, socket.connect(to.into())).await;
        let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        Ok(connected.map_err(|e| format!("cannot connect to {to}: {e}"))?)
    }

    /// Connects to a client in the server's name. `server` is where its connection came
    /// from: port 20 most of the time, and some clients insist on it.
    async fn connect_to_client(
        &self,
        to: SocketAddrV4,
        server: SocketAddrV4,
    ) -> Result<TcpStream, Failure> {
        let (patience, local) = (self.connect_timeout(), self.arguments.local_client_side);
        let connect = |foreign| foreign_connect(&self.registrar, foreign, to, local, patience);
        match connect(server).await {
            Err(error) if error.errno() == Errno::ADDRINUSE.raw_os_error() => {
                Ok(connect(SocketAddrV4::new(*server.ip(), 0)).await?)
            }
            connected => Ok(connected?),
        }
    }

    /// Carries one transfer from its first end's connection to its last byte.
    pub(crate) async fn transfer(
        self: Arc<Self>,
        came: TcpStream,
        source: SocketAddrV4,
        onward: Onward,
    ) {
        let begun = Instant::now();
        let connected = match onward {
            Onward::ToServer { to, in_name_of } => self.connect_to_server(to, in_name_of).await,
            Onward::ToClient { to } => self.connect_to_client(to, source).await,
        };
        let (to, went) = match connected {
            Ok(went) => (onward.to(), went),
            Err(error) => {
                warn!("{onward} data from {source}: {error}");
                return reset(came);
            }
        };
        let idle = Some(self.idle_timeout());
        let Ended { up, down, error } = copy_both(came, went, idle).await;
        let end = error.map_or_else(|| "done".to_owned(), |e| format!("aborted: {e}"));
        let ms = begun.elapsed().as_millis();
        info!("{onward} data {source} -> {to}: {up} bytes on, {down} back, {ms} ms, {end}");
    }
}

impl Onward {
    fn to(self) -> SocketAddrV4 {
        match self {
            Self::ToServer { to, .. } | Self::ToClient { to } => to,
        }
    }
}

/// What FTP calls it.
impl fmt::Display for Onward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ToServer { .. } => "passive",
            Self::ToClient { .. } => "active",
        })
    }
}

/// Closes with a reset, so that the other end learns at once that it went wrong.
pub(crate) fn reset(stream: TcpStream) {
    let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
}

/// An address that this proxy can speak of.
pub(crate) fn ipv4(address: SocketAddr) -> io::Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(address) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{address} is not of IPv4"),
        )),
    }
}
