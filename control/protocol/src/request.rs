//! What can be asked.

use serde::{Deserialize, Serialize};

use crate::{ErrorKind, Failure, FlowFilter, Probe, VERSION};

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// What the daemon is and does.
    Status,
    /// The ports and how they are bound.
    Ports,
    /// All counters.
    Stats {
        /// Also the latest example of each drop.
        #[serde(default)]
        examples: bool,
    },
    /// The flows that match.
    FlowsList {
        /// Which flows.
        #[serde(default)]
        filter: FlowFilter,
    },
    /// How many flows match.
    FlowsCount {
        /// Which flows.
        #[serde(default)]
        filter: FlowFilter,
    },
    /// Removes the flows that match; an empty filter is refused.
    FlowsKill {
        /// Which flows.
        filter: FlowFilter,
    },
    /// Removes every flow.
    FlowsFlush,
    /// The rules in force, with their counters.
    RulesShow,
    /// Puts a ruleset in force, whole or not at all.
    RulesLoad {
        /// The file: an absolute path.
        ruleset: String,
        /// The file of its sets; without: none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sets: Option<String>,
        /// A trial: after so many milliseconds the former rules come back, whatever became of
        /// the client, unless they are kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        try_ms: Option<u64>,
        /// The file that gets the same text, in one step, once it is in force.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replace: Option<String>,
    },
    /// Keeps the rules of a trial.
    RulesKeep {
        /// The trial's name.
        ticket: u64,
    },
    /// Ends a trial: the former rules come back at once.
    RulesRevert {
        /// The trial's name.
        ticket: u64,
    },
    /// Reads and compiles a ruleset as `rules_load` would, and does nothing with it.
    RulesCheck {
        /// The file: an absolute path.
        ruleset: String,
        /// The file of its sets; without: none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sets: Option<String>,
    },
    /// What the rules would do with a packet.
    RulesExplain {
        /// The packet.
        packet: Probe,
    },
    /// Zones, services, and who may reach whom.
    Zones,
    /// What was logged.
    Log {
        /// So many of the latest entries first.
        #[serde(default)]
        tail: u32,
        /// Then what comes, until the client hangs up.
        #[serde(default)]
        follow: bool,
    },
    /// Which address the client of an accepted socket wanted. The socket's file
    /// descriptor travels with the line (`SCM_RIGHTS`).
    OriginalDestination,
    /// What proxies have registered.
    Registrations,
    /// Shared memory for registrations. The answer is no line: it is the message of
    /// `docs/shm-protocol.md` with two descriptors, and from then on the connection carries
    /// nothing. Only a refusal is a line.
    Channel,
}

impl Request {
    /// The name of every request.
    pub const NAMES: [&str; 18] = [
        "status",
        "ports",
        "stats",
        "flows_list",
        "flows_count",
        "flows_kill",
        "flows_flush",
        "rules_show",
        "rules_load",
        "rules_keep",
        "rules_revert",
        "rules_check",
        "rules_explain",
        "zones",
        "log",
        "original_destination",
        "registrations",
        "channel",
    ];
}

/// A request as it stands on its line: with the version of the words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Envelope {
    version: u32,
    #[serde(flatten)]
    request: Request,
}

/// What is read before the request itself, to tell an unknown request from a broken one.
#[derive(Deserialize)]
struct Head {
    version: u32,
    request: String,
}

impl Envelope {
    /// `request` in the words of this version.
    #[must_use]
    pub const fn new(request: Request) -> Self {
        Self {
            version: VERSION,
            request,
        }
    }

    /// Reads one line, its newline left out or not.
    ///
    /// # Errors
    /// What to answer the client when the line is no request that this version knows.
    pub fn parse(line: &[u8]) -> Result<Request, Failure> {
        let malformed = |e: serde_json::Error| {
            Failure::new(ErrorKind::Malformed, format!("not a request: {e}"))
        };
        let head: Head = serde_json::from_slice(line).map_err(malformed)?;
        if head.version != VERSION {
            return Err(Failure::new(
                ErrorKind::Version,
                format!(
                    "version {} is not spoken here, only {VERSION}",
                    head.version
                ),
            ));
        }
        if !Request::NAMES.contains(&head.request.as_str()) {
            let name: String = head.request.chars().take(64).collect();
            return Err(Failure::new(
                ErrorKind::UnknownRequest,
                format!(
                    "unknown request {name:?}: one of {}",
                    Request::NAMES.join(", ")
                ),
            ));
        }
        serde_json::from_slice(line).map_err(malformed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn every_request() -> Vec<Request> {
        let filter = FlowFilter {
            id: Some(3),
            ..FlowFilter::default()
        };
        vec![
            Request::Status,
            Request::Ports,
            Request::Stats { examples: true },
            Request::FlowsList {
                filter: filter.clone(),
            },
            Request::FlowsCount {
                filter: FlowFilter::default(),
            },
            Request::FlowsKill { filter },
            Request::FlowsFlush,
            Request::RulesShow,
            Request::RulesLoad {
                ruleset: "/etc/xtproxy/iptables.conf.new".into(),
                sets: Some("/etc/xtproxy/ipset.conf".into()),
                try_ms: Some(15_000),
                replace: Some("/etc/xtproxy/iptables.conf".into()),
            },
            Request::RulesKeep { ticket: u64::MAX },
            Request::RulesRevert { ticket: 1 },
            Request::RulesCheck {
                ruleset: "/etc/xtproxy/iptables.conf.new".into(),
                sets: None,
            },
            Request::RulesExplain {
                packet: Probe {
                    in_interface: Some("eth1".into()),
                    src: "192.168.1.9:40000".into(),
                    dst: "1.2.3.4:80".into(),
                    proto: "tcp".into(),
                    mark: Some(1),
                    ..Probe::default()
                },
            },
            Request::Zones,
            Request::Log {
                tail: 100,
                follow: true,
            },
            Request::OriginalDestination,
            Request::Registrations,
            Request::Channel,
        ]
    }

    #[test]
    fn every_request_survives_its_line() {
        assert_eq!(every_request().len(), Request::NAMES.len());
        for (request, name) in every_request().into_iter().zip(Request::NAMES) {
            let line = crate::line(&Envelope::new(request.clone())).unwrap();
            let text = str::from_utf8(&line).unwrap();
            assert!(
                text.contains(&format!(r#""version":1,"request":"{name}""#)),
                "{text}"
            );
            assert_eq!(Envelope::parse(&line), Ok(request));
        }
    }

    #[test]
    fn short_forms_are_understood() {
        let request = Envelope::parse(br#"{"version":1,"request":"flows_list"}"#);
        assert_eq!(
            request,
            Ok(Request::FlowsList {
                filter: FlowFilter::default()
            })
        );
        let request = Envelope::parse(br#"{"version":1,"request":"stats"}"#);
        assert_eq!(request, Ok(Request::Stats { examples: false }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, kind, words) in [
            ("", ErrorKind::Malformed, "EOF"),
            ("[]", ErrorKind::Malformed, "not a request"),
            (r#"{"request":"status"}"#, ErrorKind::Malformed, "version"),
            (
                r#"{"version":2,"request":"status"}"#,
                ErrorKind::Version,
                "version 2",
            ),
            (
                r#"{"version":1,"request":"sing"}"#,
                ErrorKind::UnknownRequest,
                "\"sing\"",
            ),
            (
                r#"{"version":1,"request":"flows_kill"}"#,
                ErrorKind::Malformed,
                "filter",
            ),
            (
                r#"{"version":1,"request":"flows_kill","filter":{"dports":"1"}}"#,
                ErrorKind::Malformed,
                "dports",
            ),
        ] {
            let failure = Envelope::parse(line.as_bytes()).unwrap_err();
            assert_eq!(failure.kind, kind, "{line}");
            assert!(
                failure.message.contains(words),
                "{line}: {}",
                failure.message
            );
        }
    }

    #[test]
    fn deep_nesting_is_an_error() {
        let line = "[".repeat(60_000);
        assert_eq!(
            Envelope::parse(line.as_bytes()).unwrap_err().kind,
            ErrorKind::Malformed
        );
        let line = format!(r#"{{"version":1,"request":"status","x":{line}"#);
        assert_eq!(
            Envelope::parse(line.as_bytes()).unwrap_err().kind,
            ErrorKind::Malformed
        );
    }

    proptest! {
        #[test]
        fn no_bytes_stop_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = Envelope::parse(&bytes);
        }

        #[test]
        fn no_mutation_stops_the_parser(which in 0..Request::NAMES.len(), at in 0..200_usize, to: u8, cut: bool) {
            let mut line = crate::line(&Envelope::new(every_request()[which].clone())).unwrap();
            let at = at % line.len();
            line[at] = to;
            if cut {
                line.truncate(at);
            }
            if let Err(failure) = Envelope::parse(&line) {
                prop_assert!(!failure.message.contains('\n'), "{}", failure.message);
            }
        }
    }
}
