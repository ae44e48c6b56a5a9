//! The calls that are measured, on one socket of the box.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::topology::{CLIENT, FW_INTER};
use socket2::{Domain, Socket, Type};
use xtproxy_client::{Flags, Registrar};

/// What a proxy that connects as its client asks for.
pub const FOREIGN: SocketAddrV4 = SocketAddrV4::new(CLIENT, 0);

/// One kind of call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// The yardstick: `setsockopt(IP_TTL)`.
    SetTtl,
    /// The other: `getsockopt(IP_TTL)`.
    GetTtl,
    /// Which foreign address has the socket?
    Query,
    /// A foreign address and what to do with it. Each is undone, outside of the time.
    Assign,
}

/// All of them; the yardstick comes first.
pub const CALLS: [Call; 4] = [Call::SetTtl, Call::GetTtl, Call::Query, Call::Assign];

impl Call {
    /// What it is called in the report.
    pub fn name(self) -> &'static str {
        match self {
            Call::SetTtl => "setsockopt(IP_TTL)",
            Call::GetTtl => "getsockopt(IP_TTL)",
            Call::Query => "query",
            Call::Assign => "assign+flags",
        }
    }

    /// Whether the daemon has a part in it.
    pub fn asks_daemon(self) -> bool {
        !matches!(self, Call::SetTtl | Call::GetTtl)
    }

    /// The name where the undoing cannot be told from the doing.
    pub fn cycle_name(self) -> &'static str {
        match self {
            Call::Assign => "assign+flags and unassign",
            _ => self.name(),
        }
    }
}

/// The sockets that the calls are about.
pub struct Subject<'a> {
    registrar: &'a Registrar,
    /// Registered throughout.
    known: Socket,
    /// Registered for a moment at a time.
    fresh: Socket,
}

impl<'a> Subject<'a> {
    /// Makes the sockets, inside the namespace of this thread.
    pub fn new(registrar: &'a Registrar) -> Result<Self> {
        let (known, fresh) = (bound()?, bound()?);
        registrar.assign_with(&known, FOREIGN, None, Flags::CONNECT)?;
        Ok(Subject {
            registrar,
            known,
            fresh,
        })
    }

    /// How long one call took, on the average of so many.
    pub fn time(&self, call: Call, calls: u32) -> Result<Duration> {
        let total = match call {
            Call::SetTtl => timed(calls, || Ok(self.fresh.set_ttl_v4(64)?))?,
            Call::GetTtl => timed(calls, || Ok(self.fresh.ttl_v4().map(drop)?))?,
            Call::Query => timed(calls, || Ok(self.registrar.query(&self.known).map(drop)?))?,
            Call::Assign => {
                let mut total = Duration::ZERO;
                for _ in 0..calls {
                    total += timed(1, || self.assign())?;
                    self.registrar.unassign(&self.fresh)?;
                }
                total
            }
        };
        Ok(total / calls)
    }

    fn assign(&self) -> Result<()> {
        let registrar = self.registrar;
        Ok(registrar.assign_with(&self.fresh, FOREIGN, None, Flags::CONNECT)?)
    }
}

fn timed(calls: u32, mut act: impl FnMut() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..calls {
        act()?;
    }
    Ok(start.elapsed())
}

/// A TCP socket at the box's address, with a port of the kernel's choice.
pub fn bound() -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&std::net::SocketAddr::from((FW_INTER, 0)).into())?;
    Ok(socket)
}
