//! All registrations of the daemon, which can be too many for one line.

use std::path::Path;

use protocol::{Registration, Reply, Request};

use crate::conversation::{Conversation, SILENCE};
use crate::run::{Failed, unexpected};

/// Asks for all of them.
pub(crate) fn all(runtime_dir: &Path) -> Result<Vec<Registration>, Failed> {
    let mut daemon = Conversation::open(runtime_dir)?;
    daemon.send(Request::Registrations)?;
    let mut all = Vec::new();
    loop {
        match daemon.await_next(SILENCE)? {
            Reply::Registrations {
                registrations,
                more,
            } => {
                all.extend(registrations);
                if !more {
                    return Ok(all);
                }
            }
            other => return Err(unexpected(&other)),
        }
    }
}
