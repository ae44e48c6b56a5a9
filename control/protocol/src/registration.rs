//! A registration as the control socket tells it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::flow::names;

/// A local endpoint that a proxy's socket is bound to, and the foreign one that stands for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// `tcp` or `udp`.
    pub proto: String,
    /// What others see. Address 0.0.0.0: nothing, the socket is only marked. Port 0: chosen
    /// when the socket connects.
    pub foreign: SocketAddr,
    /// Where the socket is bound.
    pub local: SocketAddr,
    /// The one host and port that this is about; none: everybody.
    pub peer: Option<SocketAddr>,
    /// The bits of TPROXY_FLAGS.
    pub flags: u32,
    /// The same as [`FlagName`]s; a later daemon may have more.
    pub uses: Vec<String>,
    /// Whether its socket is still there.
    pub state: RegistrationState,
    /// Its live flows.
    pub flows: u32,
    /// The process that registered it.
    pub pid: u32,
    /// That process's user.
    pub uid: u32,
    /// The user's name; the daemon leaves it out, `xtproxy` fills it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The process's name.
    pub command: String,
    /// Nanoseconds since it was made.
    pub age_ns: u64,
}

names! {
    /// Whether a registration's socket is still there.
    RegistrationState, "state" {
        /// It is.
        Live = "live",
        /// The listener is closed; its connections go on, new ones are not made.
        Orphan = "orphan",
    }
}

names! {
    /// The bits of TPROXY_FLAGS by name.
    FlagName, "flag" {
        /// Connections from the local endpoint carry the foreign one.
        Connect = "connect",
        /// Connections to the foreign endpoint reach the local one.
        Listen = "listen",
        /// Both, for a connected UDP socket.
        Established = "established",
        /// Stored, without effect.
        Once = "once",
        /// Told only: the socket is marked, and has no foreign address.
        Mark = "mark",
        /// Told only: a flow was made by it.
        Applied = "applied",
        /// Listening UDP, each datagram on its own.
        Unidir = "unidir",
    }
}

impl FlagName {
    /// Its bit.
    #[must_use]
    pub const fn bit(self) -> u32 {
        match self {
            Self::Connect => 1,
            Self::Listen => 2,
            Self::Established => 4,
            Self::Once => 0x1_0000,
            Self::Mark => 0x2_0000,
            Self::Applied => 0x4_0000,
            Self::Unidir => 0x8_0000,
        }
    }

    /// The names of the bits that are set, for [`Registration::uses`].
    #[must_use]
    pub fn list(bits: u32) -> Vec<String> {
        let set = Self::ALL.iter().filter(|flag| bits & flag.bit() != 0);
        set.map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reply;

    fn registration() -> Registration {
        Registration {
            proto: "tcp".into(),
            foreign: "203.0.113.5:2121".parse().unwrap(),
            local: "10.0.0.1:50021".parse().unwrap(),
            peer: None,
            flags: 0x4_0003,
            uses: FlagName::list(0x4_0003),
            state: RegistrationState::Live,
            flows: 2,
            pid: 4711,
            uid: 13,
            user: None,
            command: "ftp-proxy".into(),
            age_ns: 7,
        }
    }

    #[test]
    fn its_line_is_as_documented() {
        let reply = Reply::Registrations {
            registrations: vec![registration()],
            more: false,
        };
        let line = crate::line(&reply).unwrap();
        let text = concat!(
            r#"{"reply":"registrations","registrations":[{"proto":"tcp","#,
            r#""foreign":"203.0.113.5:2121","local":"10.0.0.1:50021","peer":null,"#,
            r#""flags":262147,"uses":["connect","listen","applied"],"state":"live","#,
            r#""flows":2,"pid":4711,"uid":13,"command":"ftp-proxy","age_ns":7}],"more":false}"#,
            "\n"
        );
        assert_eq!(str::from_utf8(&line).unwrap(), text);
        assert_eq!(serde_json::from_slice::<Reply>(&line).unwrap(), reply);
    }

    #[test]
    fn a_reply_without_more_is_the_last() {
        let reply: Reply =
            serde_json::from_str(r#"{"reply":"registrations","registrations":[]}"#).unwrap();
        let registrations = Vec::new();
        let more = false;
        assert_eq!(
            reply,
            Reply::Registrations {
                registrations,
                more
            }
        );
    }

    #[test]
    fn every_flag_has_a_bit_of_its_own() {
        let all = FlagName::ALL.iter().fold(0, |bits, flag| {
            assert_eq!(bits & flag.bit(), 0, "{flag}");
            assert_eq!(flag.name().parse(), Ok(*flag));
            bits | flag.bit()
        });
        assert_eq!(all, 0xf_0007);
        assert_eq!(FlagName::list(all).len(), FlagName::ALL.len());
        assert_eq!(FlagName::list(0), Vec::<String>::new());
    }
}
