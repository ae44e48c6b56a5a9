//! Listening on a foreign address.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::listener::{Unjudged, judge};
use crate::{Error, Registrar, Result};

/// As [`ForeignListener`](crate::ForeignListener).
#[derive(Debug)]
pub struct ForeignListener {
    listener: TcpListener,
    registrar: Registrar,
    local: SocketAddrV4,
    foreign: SocketAddrV4,
    /// The accepted connection about which the daemon is being asked. It stays here when
    /// `accept` is cancelled.
    judged: Mutex<Judged>,
}

/// What is between the kernel and the caller.
#[derive(Debug, Default)]
struct Judged {
    asking: Option<JoinHandle<Judgement>>,
    /// Accepted, but the daemon did not answer.
    kept: Option<std::net::TcpStream>,
}

type Judgement = std::result::Result<Option<(std::net::TcpStream, SocketAddrV4)>, Unjudged>;

impl ForeignListener {
    /// As [`bind`](crate::ForeignListener::bind).
    ///
    /// # Errors
    /// The same.
    pub async fn bind(
        registrar: &Registrar,
        foreign: SocketAddrV4,
        local: Ipv4Addr,
    ) -> Result<Self> {
        Self::bind_at(registrar, foreign, SocketAddrV4::new(local, 0)).await
    }

    /// As [`bind_at`](crate::ForeignListener::bind_at).
    ///
    /// # Errors
    /// The same.
    pub async fn bind_at(
        registrar: &Registrar,
        foreign: SocketAddrV4,
        local: SocketAddrV4,
    ) -> Result<Self> {
        Self::open(registrar, move |registrar| {
            crate::ForeignListener::bind_at(&registrar, foreign, local)
        })
        .await
    }

    /// As [`with_peer`](crate::ForeignListener::with_peer).
    ///
    /// # Errors
    /// The same.
    pub async fn with_peer(
        registrar: &Registrar,
        foreign: SocketAddrV4,
        local: Option<SocketAddrV4>,
        peer: SocketAddrV4,
    ) -> Result<Self> {
        Self::open(registrar, move |registrar| {
            crate::ForeignListener::with_peer(&registrar, foreign, local, peer)
        })
        .await
    }

    async fn open(
        registrar: &Registrar,
        open: impl FnOnce(Registrar) -> Result<crate::ForeignListener> + Send + 'static,
    ) -> Result<Self> {
        let failed = |e| Error::socket("listen on a foreign address", e);
        let registrar = registrar.clone();
        // A daemon that hangs must not hang the runtime too.
        let asking = spawn_blocking({
            let registrar = registrar.clone();
            move || open(registrar)
        });
        let opened = asking.await.map_err(|e| failed(e.into()))??;
        let (local, foreign) = (opened.local_addr(), opened.foreign_addr());
        let listener = TcpListener::from_std(OwnedFd::from(opened).into()).map_err(failed)?;
        Ok(Self {
            listener,
            registrar,
            local,
            foreign,
            judged: Mutex::default(),
        })
    }

    /// As [`accept`](crate::ForeignListener::accept). When it is cancelled or fails, no
    /// connection is lost: the next call goes on.
    ///
    /// # Errors
    /// The same.
    pub async fn accept(&self) -> Result<(TcpStream, SocketAddrV4)> {
        let failed = |e| Error::socket("accept a connection", e);
        let mut judged = self.judged.lock().await;
        loop {
            let Judged { asking, kept } = &mut *judged;
            let under_way = match asking {
                Some(under_way) => under_way,
                None => {
                    let stream = match kept.take() {
                        Some(stream) => stream,
                        None => self.next().await?,
                    };
                    asking.insert(self.judging(stream))
                }
            };
            let judgement = under_way.await;
            *asking = None;
            let judgement = judgement.map_err(|e| failed(e.into()))?;
            let accepted = judgement.map_err(|unjudged| {
                *kept = unjudged.stream;
                unjudged.error
            })?;
            if let Some((stream, client)) = accepted {
                let stream = TcpStream::from_std(stream).map_err(failed)?;
                return Ok((stream, client));
            }
        }
    }

    /// As [`local_addr`](crate::ForeignListener::local_addr).
    #[must_use]
    pub fn local_addr(&self) -> SocketAddrV4 {
        self.local
    }

    /// As [`foreign_addr`](crate::ForeignListener::foreign_addr).
    #[must_use]
    pub fn foreign_addr(&self) -> SocketAddrV4 {
        self.foreign
    }

    /// Has a connection judged.
    fn judging(&self, stream: std::net::TcpStream) -> JoinHandle<Judgement> {
        let (registrar, foreign) = (self.registrar.clone(), self.foreign);
        spawn_blocking(move || judge(&registrar, foreign, stream))
    }

    /// Waits for a connection.
    async fn next(&self) -> Result<std::net::TcpStream> {
        let failed = |e| Error::socket("accept a connection", e);
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream.into_std().map_err(failed),
                // A client that has left already.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => return Err(failed(e)),
            }
        }
    }
}

impl AsFd for ForeignListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
