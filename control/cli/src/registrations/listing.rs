//! All registrations of the daemon, which can be too many for one line.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use protocol::{CONTROL_SOCKET, Envelope, REPLY_MAX_BYTES, Registration, Reply, Request};
use xtproxy_client::{Control, Error};

use crate::run::Failed;

/// How long the daemon may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// Asks for all of them.
pub(crate) fn all(runtime_dir: &Path) -> Result<Vec<Registration>, Failed> {
    // Says best what is wrong if nobody answers.
    drop(Control::connect_to(runtime_dir)?);
    let socket = runtime_dir.join(CONTROL_SOCKET);
    let mut all = Vec::new();
    let asked = ask(&socket, |reply| match reply {
        Reply::Registrations {
            registrations,
            more,
        } => {
            all.extend(registrations);
            Ok(more)
        }
        Reply::Error(failure) => Err(failure.into()),
        _ => Err(Error::Nonsense("another reply".into())),
    });
    match asked {
        Ok(told) => told?,
        Err(source) => return Err(Error::Io { socket, source }.into()),
    }
    Ok(all)
}

/// Asks, and takes replies as long as there are more.
fn ask(
    socket: &Path,
    mut take: impl FnMut(Reply) -> Result<bool, Error>,
) -> io::Result<Result<(), Error>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    stream.write_all(&protocol::line(&Envelope::new(Request::Registrations))?)?;
    let mut stream = BufReader::with_capacity(64 * 1024, stream);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut stream).take(REPLY_MAX_BYTES as u64);
        limited.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::Error::other("the daemon closed the connection"));
        }
        let told = match serde_json::from_slice(&line) {
            Ok(reply) => take(reply),
            Err(error) => Err(Error::Nonsense(error.to_string())),
        };
        match told {
            Ok(true) => {}
            Ok(false) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        }
    }
}
