//! UDP at both ends: a server that answers, and a socket that talks to one address.

use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::connection::TIMEOUT;
use crate::namespace::Namespace;

/// How often the server looks whether it shall end.
const LOOK: Duration = Duration::from_millis(100);

/// A socket inside `namespace` that sends to `to` and hears nobody else.
pub fn connected(namespace: &Namespace, to: SocketAddrV4) -> Result<UdpSocket> {
    namespace.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.connect(to)?;
        Ok(socket)
    })
}

/// Sends a datagram and returns the answer; a refusal by ICMP is the error.
pub fn ask(socket: &UdpSocket, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut answer = vec![0; 1 << 16];
    socket.send(question)?;
    let len = socket.recv(&mut answer)?;
    answer.truncate(len);
    Ok(answer)
}

/// Sends back what it gets; its thread ends on drop.
#[derive(Debug)]
pub struct DatagramEcho {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    askers: Mutex<Vec<SocketAddr>>,
}

impl DatagramEcho {
    /// Answers at `address` inside `namespace`.
    pub fn listen(namespace: &Namespace, address: SocketAddrV4) -> Result<Self> {
        let socket = namespace
            .enter(|| Ok(UdpSocket::bind(address)?))
            .with_context(|| format!("cannot listen at {address}"))?;
        socket.set_read_timeout(Some(LOOK))?;
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = namespace.spawn(move || answer(&socket, &seen))?;
        Ok(DatagramEcho {
            shared,
            thread: Some(thread),
        })
    }

    /// Who asked, as the server saw them, in order.
    pub fn askers(&self) -> Vec<SocketAddr> {
        let askers = self.shared.askers.lock();
        askers.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for DatagramEcho {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(socket: &UdpSocket, shared: &Shared) {
    let mut bytes = vec![0; 1 << 16];
    while !shared.stop.load(Ordering::Acquire) {
        // Nobody asked for a while, or an asker could not be answered: the next one counts.
        let Ok((len, from)) = socket.recv_from(&mut bytes) else {
            continue;
        };
        let askers = shared.askers.lock();
        askers.unwrap_or_else(PoisonError::into_inner).push(from);
        let _ = socket.send_to(bytes.get(..len).unwrap_or_default(), from);
    }
}
