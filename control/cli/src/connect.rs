//! `xtproxy connect`: a connection from a foreign address, joined with input and output.

use std::fs::File;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::thread;

use xtproxy_client::{Error, Registrar, foreign_connect};

use crate::arguments::Connect;
use crate::hold::Child;
use crate::run::Failed;

/// Connects, and joins.
pub(crate) fn run(runtime_dir: &Path, connect: &Connect) -> Result<ExitCode, Failed> {
    let registrar = Registrar::connect_to(runtime_dir)?;
    let stream = open(&registrar, connect)?;
    if connect.command.is_empty() {
        join(stream)?;
        return Ok(ExitCode::SUCCESS);
    }
    let stdin = OwnedFd::from(stream);
    let told = |e| Failed::Told(format!("the connection: {e}"));
    let stdout = stdin.try_clone().map_err(told)?;
    // The registration is the socket's, which from now on is the command's alone.
    let child = Child::start_with(&connect.command, |command| {
        command.stdin(stdin).stdout(stdout);
    })?;
    child.map_or(Ok(ExitCode::SUCCESS), Child::wait)
}

/// Connects to the first of the host's addresses that takes it.
fn open(registrar: &Registrar, connect: &Connect) -> Result<TcpStream, Failed> {
    let (host, port) = &connect.to;
    let mut last = None;
    for to in addresses(host, *port)? {
        match foreign_connect(
            registrar,
            connect.foreign,
            to,
            connect.local,
            connect.timeout,
        ) {
            Ok(stream) => return Ok(stream),
            // Another address changes nothing about a refusal.
            Err(error @ Error::Refused { .. }) => return Err(error.into()),
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(error) => error.into(),
        None => Failed::Told(format!("{host} has no IPv4 address")),
    })
}

fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddrV4>, Failed> {
    let found = (host, port).to_socket_addrs();
    let found = found.map_err(|e| Failed::Told(format!("{host}: no such host: {e}")))?;
    let ipv4 = |address| match address {
        SocketAddr::V4(v4) => Some(v4),
        SocketAddr::V6(_) => None,
    };
    Ok(found.filter_map(ipv4).collect())
}

/// Sends the input, prints what comes, until the other side closes.
fn join(stream: TcpStream) -> Result<(), Failed> {
    let told = |e: io::Error| Failed::Told(format!("the connection: {e}"));
    // Not by the standard library's handles: what they keep back would come late.
    let input = io::stdin().as_fd().try_clone_to_owned().map_err(told)?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let (mut input, mut output) = (File::from(input), File::from(output));
    let mut there = stream.try_clone().map_err(told)?;
    // Not waited for: it may sleep on the terminal. It fails only if reading does too.
    thread::spawn(move || {
        let _ = io::copy(&mut input, &mut there);
        let _ = there.shutdown(Shutdown::Write);
    });
    let mut buffer = [0; 64 * 1024];
    loop {
        match io::Read::read(&mut &stream, &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => output.write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(told(error)),
        }
    }
}
