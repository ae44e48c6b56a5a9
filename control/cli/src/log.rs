//! `xtproxy log`: what LOG rules, zones and drops had to say.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::{LogEntry, Reply, Request};

use crate::arguments::Log;
use crate::conversation::{Conversation, SILENCE};
use crate::document;
use crate::run::{Failed, unexpected};
use crate::signals::{ENDING, Signals};

/// Does what the arguments say.
pub(crate) fn run(
    runtime_dir: &Path,
    arguments: &Log,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failed> {
    let mut daemon = Conversation::open(runtime_dir)?;
    let Log { tail, follow } = *arguments;
    if follow {
        let signals = Signals::take().map_err(|errno| Failed::Told(format!("signals: {errno}")))?;
        daemon.send(Request::Log { tail, follow })?;
        return self::follow(&mut daemon, &signals, json, out);
    }
    daemon.send(Request::Log { tail, follow })?;
    let mut all = Vec::new();
    loop {
        let (entries, more) = page(daemon.await_next(SILENCE)?)?;
        if json {
            all.extend(entries);
        } else {
            entries.iter().try_for_each(|entry| print(entry, out))?;
        }
        if !more {
            break;
        }
    }
    if json {
        document::print(out, &all)?;
    }
    Ok(())
}

/// Prints what comes until a signal does.
fn follow(
    daemon: &mut Conversation,
    signals: &Signals,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failed> {
    loop {
        if !daemon.is_ahead() {
            let mut ready = [
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(daemon.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Failed::Told(format!("waiting: {errno}"))),
            }
        }
        match signals.wait(Duration::ZERO) {
            Ok(Some(signal)) if ENDING.contains(&signal) => return Ok(()),
            Ok(_) => {}
            Err(errno) => return Err(Failed::Told(format!("signals: {errno}"))),
        }
        // Part of a line may have come; the rest is waited for above.
        let Some(reply) = daemon.next(Duration::ZERO)? else {
            continue;
        };
        let (entries, more) = page(reply)?;
        for entry in &entries {
            if json {
                let line = protocol::line(entry).map_err(std::io::Error::from)?;
                out.write_all(&line)?;
            } else {
                print(entry, out)?;
            }
        }
        out.flush()?;
        if !more {
            return Ok(());
        }
    }
}

fn page(reply: Reply) -> Result<(Vec<LogEntry>, bool), Failed> {
    match reply {
        Reply::Log { entries, more } => Ok((entries, more)),
        other => Err(unexpected(&other)),
    }
}

fn print(entry: &LogEntry, out: &mut impl Write) -> Result<(), Failed> {
    let time = UNIX_EPOCH + Duration::from_nanos(entry.at_ns);
    let time = humantime::format_rfc3339_micros(time);
    Ok(writeln!(out, "{time} {entry}")?)
}
