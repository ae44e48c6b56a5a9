//! Registrations as the control socket tells them.

use std::net::SocketAddr;

use protocol::{FlagName, Registration, RegistrationState};
use registry::Row;

use crate::answers::Answers;

/// All of them, as of one moment.
pub(crate) fn all(answers: &Answers) -> Vec<Registration> {
    let rows = answers.registry().rows(answers.now_ns());
    rows.into_iter().map(tell).collect()
}

fn tell(row: Row) -> Registration {
    Registration {
        proto: row.proto.to_string(),
        foreign: SocketAddr::V4(row.foreign),
        local: SocketAddr::V4(row.local),
        peer: row.peer.map(SocketAddr::V4),
        flags: row.flags,
        uses: FlagName::list(row.flags),
        state: if row.is_orphan {
            RegistrationState::Orphan
        } else {
            RegistrationState::Live
        },
        flows: row.flows,
        pid: row.pid,
        uid: row.uid,
        user: None,
        command: row.command,
        age_ns: row.age_ns,
    }
}
