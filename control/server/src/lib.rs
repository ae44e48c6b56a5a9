//! The control thread: answers `xtproxy` and proxies, expires flows and registrations,
//! collects examples of drops and what is to be logged.
//!
//! Invariants: whatever comes in by the sockets is hostile and can neither stop the
//! daemon nor hold up its workers; every file descriptor that a client sends or names is
//! closed; nobody waits for a client while he holds the registry; what takes its time, as
//! loading rules does, has a thread of its own.
//! Never here: packets, netlink writes, files but the sockets.
//!
//! Two sockets: `control.sock` for root, whose conversations are tasks of the control
//! thread, and `client.sock` for proxies of any user, whose conversations have threads
//! of their own. Closing what a stranger sent can block (a lingering socket, a file of a
//! FUSE file system), and then it may only block the stranger. A conversation there can
//! become a channel: shared memory by which a proxy registers its sockets.

mod answers;
mod channel;
mod clients;
mod control;
mod credentials;
mod decode;
mod drops;
mod examples;
mod flows;
mod following;
mod gathering;
mod journal;
mod lines;
mod listening;
mod machine;
mod original;
mod pace;
mod packet;
mod pages;
mod places;
mod registrations;
mod rulesets;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pipeline::{Examples, Logs};
use protocol::{CLIENT_SOCKET, CONTROL_SOCKET};
use registry::Registry;
use tables::{FlowTable, Timeouts};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::answers::Answers;
use crate::clients::Clients;
use crate::listening::Listening;

pub use crate::machine::{LoadOrder, LogWords, Machine};

/// How often flows are expired and examples are collected.
const UPKEEP_EVERY: Duration = Duration::from_millis(100);
/// How many control connections there may be at once.
const CONTROL_CONNECTIONS_MAX: usize = 32;

/// What the server reads of one worker.
#[derive(Clone, Debug)]
pub struct WorkerSource {
    /// Its number.
    pub id: u32,
    /// Its core, if it is pinned.
    pub core: Option<u32>,
    /// Its counters.
    pub counters: Arc<pipeline::Counters>,
    /// Where it leaves examples of drops. The server takes them out.
    pub examples: Arc<Examples>,
    /// Where it leaves what is to be logged. Likewise.
    pub logs: Arc<Logs>,
}

/// All that answers are made of.
#[derive(Clone)]
pub struct Sources {
    /// The flow table.
    pub flows: Arc<FlowTable>,
    /// What proxies have registered. Locked for one request at a time.
    pub registry: Arc<Mutex<Registry>>,
    /// How long idle flows live.
    pub timeouts: Timeouts,
    /// The workers.
    pub workers: Vec<WorkerSource>,
    /// The rest.
    pub machine: Arc<dyn Machine>,
}

/// Why the server cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A socket could not be made.
    #[error("{}: {source}: is the runtime directory there, and writable?", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Something else stands where a socket should be.
    #[error("{}: is no socket: move it away, or choose another runtime directory", path.display())]
    Occupied {
        /// Where.
        path: PathBuf,
    },
    /// The kernel cannot be asked about sockets.
    #[error(
        "the kernel does not answer questions about sockets ({0}): it needs CONFIG_INET_TCP_DIAG and CONFIG_INET_UDP_DIAG (modules tcp_diag and udp_diag)"
    )]
    NoSocketDiag(io::Error),
}

/// The control sockets, and what stands behind them.
pub struct Server {
    control: Listening,
    client: Listening,
    answers: Arc<Answers>,
}

impl Server {
    /// Makes the sockets in `dir`, in place of stale ones. The caller holds the lock of
    /// the directory, so that no other daemon lives there.
    ///
    /// # Errors
    /// When a socket cannot be made, or the kernel lacks what tells of closed sockets.
    pub fn bind(dir: &Path, sources: Sources) -> Result<Self, Error> {
        sockets::probe().map_err(Error::NoSocketDiag)?;
        places::raise_limit();
        Ok(Self {
            control: Listening::bind(&dir.join(CONTROL_SOCKET), 0o600)?,
            client: Listening::bind(&dir.join(CLIENT_SOCKET), 0o666)?,
            answers: Arc::new(Answers::new(sources)),
        })
    }

    /// Serves until `shutdown` is done; then the sockets are gone and every connection is
    /// closed. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// When the runtime cannot watch the sockets.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let Self {
            control,
            client,
            answers,
        } = self;
        let control_listener = control.listener()?;
        let client_listener = client.listener()?;
        let clients = Clients::new(Arc::clone(&answers));
        let mut conversations = JoinSet::new();
        let mut upkeep = interval(UPKEEP_EVERY);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut cursor = 0;
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                _ = upkeep.tick() => answers.upkeep(&mut cursor),
                accepted = control_listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let busy = conversations.len() >= CONTROL_CONNECTIONS_MAX;
                        conversations.spawn(control::converse(stream, Arc::clone(&answers), busy));
                    }
                    Err(error) => listening::rest_after(&error).await,
                },
                accepted = client_listener.accept() => match accepted {
                    Ok((stream, _)) => clients.begin(stream),
                    Err(error) => listening::rest_after(&error).await,
                },
                Some(_) = conversations.join_next() => {}
            }
        }
        clients.end();
        Ok(())
    }
}
