//! A TCP server with manners of one's choice, in threads of the test.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use socket2::SockRef;

use crate::connection::{Digest, reset};
use crate::namespace::Namespace;

/// What the server does with a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Behaviour {
    /// Sends back what it gets, closes when the client has.
    Echo,
    /// Reads to the end, then answers with the digest of all that came, then closes.
    Digest,
    /// Says `bye`, closes its sending side at once, reads to the end.
    EarlyBye,
    /// Resets the connection at the first byte.
    Reset,
    /// Sends a numbered line every 20 ms, until the client goes.
    Chatty,
}

/// How a connection ended, as the server saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It is open.
    Open,
    /// The client closed.
    Closed,
    /// The client reset it.
    Reset,
    /// Something else went wrong.
    Broken(io::ErrorKind),
}

/// One connection that the server had.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    /// Who came.
    pub from: SocketAddr,
    /// What was read.
    pub digest: Digest,
    /// How it ended.
    pub ending: Ending,
}

/// The server; gone when dropped.
#[derive(Debug)]
pub struct Peer {
    /// Where it listens.
    pub address: SocketAddrV4,
    listener: TcpListener,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    // With a second handle of each connection that is open, to end it from outside.
    visits: Mutex<Vec<(Visit, Option<TcpStream>)>>,
}

impl Shared {
    fn visits(&self) -> MutexGuard<'_, Vec<(Visit, Option<TcpStream>)>> {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Listens at `address` inside `namespace`.
    pub fn listen(
        namespace: &Namespace,
        address: SocketAddrV4,
        behaviour: Behaviour,
    ) -> Result<Self> {
        let listener = namespace
            .enter(|| Ok(TcpListener::bind(address)?))
            .with_context(|| format!("cannot listen at {address}"))?;
        let shared = Arc::new(Shared::default());
        let peer = Peer {
            address,
            listener: listener.try_clone()?,
            shared: Arc::clone(&shared),
        };
        namespace.spawn(move || accept(&listener, behaviour, &shared))?;
        Ok(peer)
    }

    /// The connections so far.
    pub fn visits(&self) -> Vec<Visit> {
        self.shared
            .visits()
            .iter()
            .map(|(visit, _)| *visit)
            .collect()
    }

    /// Waits until `count` connections have ended and returns them.
    pub fn wait_ended(&self, count: usize) -> Result<Vec<Visit>> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let mut visits = self.visits();
            visits.retain(|visit| visit.ending != Ending::Open);
            if visits.len() >= count {
                return Ok(visits);
            }
            if Instant::now() > until {
                bail!(
                    "{} of {count} connections ended: {:?}",
                    visits.len(),
                    self.visits()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Wakes the thread that accepts; its error is its end.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        for stream in self.shared.visits().iter().filter_map(|(_, s)| s.as_ref()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, behaviour: Behaviour, shared: &Arc<Shared>) {
    while let Ok((stream, from)) = listener.accept() {
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        let Ok(second) = stream.try_clone() else {
            return;
        };
        let mut visits = shared.visits();
        let number = visits.len();
        let digest = Digest::default();
        let ending = Ending::Open;
        visits.push((
            Visit {
                from,
                digest,
                ending,
            },
            Some(second),
        ));
        drop(visits);
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let mut digest = Digest::default();
            let result = serve(&stream, behaviour, &mut digest);
            let ending = match result.map_err(|error| error.kind()) {
                Ok(()) => Ending::Closed,
                Err(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => Ending::Reset,
                Err(kind) => Ending::Broken(kind),
            };
            if let Some((visit, second)) = shared.visits().get_mut(number) {
                (visit.digest, visit.ending) = (digest, ending);
                *second = None;
            }
            // Now the last handle, so that closing it is what the client sees.
            if behaviour == Behaviour::Reset {
                let _ = reset(stream);
            }
        });
    }
}

fn serve(mut stream: &TcpStream, behaviour: Behaviour, digest: &mut Digest) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match behaviour {
        Behaviour::Echo => read_all(stream, digest, |bytes| {
            let mut back = stream;
            back.write_all(bytes)
        })?,
        Behaviour::Digest => {
            read_all(stream, digest, |_| Ok(()))?;
            stream.write_all(digest.to_string().as_bytes())?;
        }
        Behaviour::EarlyBye => {
            stream.write_all(b"bye\n")?;
            stream.shutdown(Shutdown::Write)?;
            read_all(stream, digest, |_| Ok(()))?;
        }
        Behaviour::Reset => {
            let mut byte = [0];
            let read = stream.read(&mut byte)?;
            digest.add(byte.get(..read).unwrap_or_default());
            return Ok(());
        }
        Behaviour::Chatty => {
            for number in 0_u64.. {
                writeln!(stream, "{number}")?;
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
    // Both sides may have closed already.
    let _ = stream.shutdown(Shutdown::Both);
    Ok(())
}

fn read_all(
    mut stream: &TcpStream,
    digest: &mut Digest,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let bytes = match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => buffer.get(..read).unwrap_or_default(),
        };
        digest.add(bytes);
        each(bytes)?;
    }
}
