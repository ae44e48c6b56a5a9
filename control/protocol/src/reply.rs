//! What is answered.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{
    Explanation, Flow, LogEntry, Port, Registration, Rules, RulesChecked, RulesLoaded, Stats,
    Status, ZoneMatrix,
};

/// What is answered. One line for one request; only `flows`, `registrations`, `rules` and `log`
/// come in several lines, and lines of `progress` before what they lead to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To `status`.
    Status(Box<Status>),
    /// To `ports`.
    Ports {
        /// In the order of the configuration.
        ports: Vec<Port>,
    },
    /// To `stats`.
    Stats(Stats),
    /// To `flows_list`.
    Flows {
        /// Some of them.
        flows: Vec<Flow>,
        /// Whether another line of this kind follows.
        more: bool,
    },
    /// To `flows_count`, `flows_kill` and `flows_flush`.
    Count {
        /// How many flows matched, or were removed.
        count: u64,
    },
    /// To `rules_show`.
    Rules {
        /// Some of them: see [`Rules::pages`].
        #[serde(flatten)]
        rules: Rules,
        /// Whether another line of this kind follows.
        #[serde(default)]
        more: bool,
    },
    /// Before the answer to `rules_load` and `rules_check`, any number of times.
    Progress {
        /// What is being done, in a word or two.
        stage: String,
        /// How much of it is done.
        done: u64,
        /// How much there is to do; 0: nobody knows.
        total: u64,
    },
    /// To `rules_load`.
    RulesLoaded(RulesLoaded),
    /// To `rules_check`.
    RulesChecked(RulesChecked),
    /// To `rules_keep` and `rules_revert`.
    Done,
    /// To `rules_explain`.
    Explained(Explanation),
    /// To `zones`.
    Zones(ZoneMatrix),
    /// To `log`.
    Log {
        /// The next entries, oldest first; none is a sign of life.
        entries: Vec<LogEntry>,
        /// Whether another line of this kind follows; to one who follows, always.
        more: bool,
    },
    /// To `original_destination`.
    OriginalDestination {
        /// The client's true address and port.
        source: SocketAddr,
        /// What the client wanted to reach.
        destination: SocketAddr,
    },
    /// To `registrations`.
    Registrations {
        /// Some of them: as many as fit [`REPLY_MAX_BYTES`](crate::REPLY_MAX_BYTES) with ease.
        registrations: Vec<Registration>,
        /// Whether another line of this kind follows.
        #[serde(default)]
        more: bool,
    },
    /// To a request that was not done.
    Error(Failure),
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub kind: ErrorKind,
    /// For people: one line.
    pub message: String,
}

impl Failure {
    /// A failure of `kind`, told in one line.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        let message = if message.contains('\n') {
            message.replace('\n', " ")
        } else {
            message
        };
        Self { kind, message }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The line is no request. The connection is closed.
    Malformed,
    /// The line is too long. The connection is closed.
    TooLong,
    /// The version is not spoken here.
    Version,
    /// No request of this name.
    UnknownRequest,
    /// This user, or this socket, may not ask this. The connection is closed.
    Forbidden,
    /// Too many connections. The connection is closed.
    Busy,
    /// A line was begun and not finished in time. The connection is closed.
    Timeout,
    /// The request cannot be done as it stands.
    Refused,
    /// What came with the request is not the socket of an accepted TCP connection
    /// of the daemon's network namespace.
    BadSocket,
    /// No redirected flow ends at this socket.
    NotRedirected,
    /// The daemon failed.
    Internal,
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::new(ErrorKind::Refused, "one\ntwo");
        let line = crate::line(&Reply::Error(failure)).unwrap();
        let text = r#"{"reply":"error","kind":"refused","message":"one two"}"#;
        assert_eq!(str::from_utf8(&line).unwrap(), format!("{text}\n"));
    }

    #[test]
    fn kinds_of_a_later_daemon_are_tolerated() {
        let text = r#"{"reply":"error","kind":"out_of_tea","message":"later","cure":"tea"}"#;
        let reply: Reply = serde_json::from_str(text).unwrap();
        assert_eq!(
            reply,
            Reply::Error(Failure::new(ErrorKind::Unknown, "later"))
        );
    }
}
