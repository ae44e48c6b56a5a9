//! Accepts connections until SIGTERM, then lets what was begun finish.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// A listener that ends in good order.
pub(crate) struct Acceptor {
    listener: TcpListener,
    terminate: Signal,
}

impl Acceptor {
    /// Listens there; from now on SIGTERM is noticed.
    pub(crate) fn listen(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        let listener = socket.bind(address).and_then(|()| socket.listen(BACKLOG));
        Ok(Self {
            listener: listener.map_err(|e| io::Error::new(e.kind(), format!("{address}: {e}")))?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Where it listens.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves every connection in a task of its own; `serve` is also told how many there
    /// are. After SIGTERM they may take another `drain_time`.
    pub(crate) async fn run<F>(
        mut self,
        drain_time: Duration,
        serve: impl Fn(TcpStream, SocketAddr, usize) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        connections.spawn(serve(stream, peer, connections.len()));
                    }
                    Err(error) => {
                        // No file descriptor left, most likely: let some connection end first.
                        warn!("accept: {error}");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
                _ = self.terminate.recv() => break,
            }
        }
        drop(self.listener);
        info!("draining {} connections", connections.len());
        let drained = async { while connections.join_next().await.is_some() {} };
        tokio::select! {
            done = timeout(drain_time, drained) => match done {
                Ok(()) => info!("drained"),
                Err(_) => warn!("cut off what was not finished in time"),
            },
            _ = self.terminate.recv() => warn!("cut off by a second SIGTERM"),
        }
    }
}
