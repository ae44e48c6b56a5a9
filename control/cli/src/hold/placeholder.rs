//! A TCP socket that is bound beside whoever listens, and never listens itself.

use std::io;
use std::net::SocketAddrV4;

use nix::sys::socket::{setsockopt, sockopt::TcpRepair};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::run::Failed;

/// Binds one. A listener that sets `SO_REUSEADDR` can come later, and come again.
pub(super) fn bind(local: SocketAddrV4) -> Result<Socket, Failed> {
    let failed = |error: io::Error| Failed::Told(format!("--local {local}: {}", cure(&error)));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
    socket.set_reuse_address(true).map_err(failed)?;
    match socket.bind(&local.into()) {
        Err(error) if is(&error, Errno::ADDRINUSE) => {
            bind_beside(&socket, local).map_err(failed)?
        }
        bound => bound.map_err(failed)?,
    }
    Ok(socket)
}

/// Binds where somebody listens already. A socket in repair mode may: the kernel takes it for one
/// that is being restored. Out of that mode it is like any other, and in nobody's way.
fn bind_beside(socket: &Socket, local: SocketAddrV4) -> io::Result<()> {
    setsockopt(socket, TcpRepair, &1).map_err(|errno| match errno {
        nix::Error::EPERM => io::Error::from(Errno::ADDRINUSE),
        other => other.into(),
    })?;
    socket.bind(&local.into())?;
    setsockopt(socket, TcpRepair, &0)?;
    // Repair mode has taken it away.
    socket.set_reuse_address(true)
}

/// Does what must find the socket without `SO_REUSEADDR`. A server that wants to bind at this
/// very moment is refused.
pub(super) fn unshared<T>(socket: &Socket, act: impl FnOnce() -> T) -> Result<T, Failed> {
    let failed = |error: io::Error| Failed::Told(format!("SO_REUSEADDR: {error}"));
    socket.set_reuse_address(false).map_err(failed)?;
    let done = act();
    socket.set_reuse_address(true).map_err(failed)?;
    Ok(done)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn cure(error: &io::Error) -> String {
    match () {
        () if is(error, Errno::ADDRNOTAVAIL) => {
            "no address of this box: 'ip address' lists them".into()
        }
        () if is(error, Errno::ADDRINUSE) => {
            "somebody listens there already, and only root may register beside: run this as \
             root, or start the server after it"
                .into()
        }
        () if is(error, Errno::ACCESS) => {
            "only root may use this port: run this as root, or choose one above 1023".into()
        }
        () => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    fn listener(at: SocketAddrV4, reuse: bool) -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(reuse)?;
        socket.bind(&at.into())?;
        socket.listen(8)?;
        Ok(socket.into())
    }

    fn at(ip: Ipv4Addr, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(ip, port)
    }

    fn free_port() -> u16 {
        let any = TcpListener::bind("127.0.0.1:0").unwrap();
        any.local_addr().unwrap().port()
    }

    fn serves(server: &TcpListener, port: u16) {
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        client.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        server.accept().unwrap().0.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
    }

    #[test]
    fn a_server_comes_before_or_after() {
        let here = Ipv4Addr::LOCALHOST;
        for ip in [here, Ipv4Addr::UNSPECIFIED] {
            let port = free_port();
            let socket = bind(at(here, port)).unwrap();
            serves(&listener(at(ip, port), true).unwrap(), port);
            // And again, after it was restarted.
            serves(&listener(at(ip, port), true).unwrap(), port);
            drop(socket);

            for reuse in [true, false] {
                let port = free_port();
                let server = listener(at(ip, port), reuse).unwrap();
                let socket = bind(at(here, port)).unwrap();
                assert!(socket.reuse_address().unwrap());
                let bound = socket.local_addr().unwrap().as_socket_ipv4();
                assert_eq!(bound, Some(at(here, port)));
                serves(&server, port);
            }
        }
    }

    #[test]
    fn what_is_wrong_is_one_line() {
        let error = bind("192.0.2.77:80".parse().unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--local 192.0.2.77:80: no address of this box: 'ip address' lists them"
        );
    }
}
