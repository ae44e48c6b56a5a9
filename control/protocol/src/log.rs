//! What the packet path logs: LOG rules, refusals between zones, drops.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// One entry. Its text form is a line like those of the kernel's LOG target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// Why it is told.
    pub kind: LogKind,
    /// The generation of the rules that were asked.
    #[serde(default)]
    pub generation: u32,
    /// The LOG rule's prefix; the name of a drop's reason.
    #[serde(default)]
    pub prefix: String,
    /// How many packets this stands for: entries are limited in rate.
    #[serde(default)]
    pub count: u64,
    /// The LOG rule's table.
    #[serde(default)]
    pub table: Option<String>,
    /// Its chain.
    #[serde(default)]
    pub chain: Option<String>,
    /// Its line.
    #[serde(default)]
    pub line: Option<u32>,
    /// The client's zone, where zones refused.
    #[serde(default)]
    pub from_zone: Option<String>,
    /// The server's zone.
    #[serde(default)]
    pub to_zone: Option<String>,
    /// The service.
    #[serde(default)]
    pub service: Option<String>,
    /// The interface that the packet came in by.
    #[serde(default)]
    pub in_interface: Option<String>,
    /// The interface that it would go out by.
    #[serde(default)]
    pub out_interface: Option<String>,
    /// The mark that rules gave it.
    #[serde(default)]
    pub mark: u32,
    /// The packet, as far as it was kept and understood.
    #[serde(default)]
    pub packet: Option<LogPacket>,
}

/// Why an entry is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogKind {
    /// A LOG rule matched.
    #[default]
    Rule,
    /// The zones refuse a redirected connection.
    Zone,
    /// A frame was dropped.
    Drop,
    /// Entries were lost: `count` of them.
    Lost,
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// The head of an IPv4 packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPacket {
    /// Destination, source and type of the frame, in hexadecimal with colons.
    #[serde(default)]
    pub mac: Option<String>,
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Total length.
    pub length: u16,
    /// Type of service, precedence included.
    pub tos: u8,
    /// Time to live.
    pub ttl: u8,
    /// Identification.
    pub id: u16,
    /// Whether it must not be fragmented.
    #[serde(default)]
    pub is_df: bool,
    /// Whether fragments follow.
    #[serde(default)]
    pub is_mf: bool,
    /// The fragment's offset in units of eight bytes.
    #[serde(default)]
    pub fragment: u16,
    /// The protocol: a name in lower case, or a number.
    pub proto: String,
    /// Source port.
    #[serde(default)]
    pub sport: Option<u16>,
    /// Destination port.
    #[serde(default)]
    pub dport: Option<u16>,
    /// TCP's window.
    #[serde(default)]
    pub window: Option<u16>,
    /// TCP's flags as on the wire: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128.
    #[serde(default)]
    pub tcp_flags: Option<u8>,
    /// ICMP's type.
    #[serde(default)]
    pub icmp_type: Option<u8>,
    /// ICMP's code.
    #[serde(default)]
    pub icmp_code: Option<u8>,
}

impl fmt::Display for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |name: &Option<String>| one_line(name.as_deref().unwrap_or("-"));
        match self.kind {
            LogKind::Lost => return write!(f, "{} log entries lost", self.count),
            // The kernel puts nothing behind the prefix: that blank is the rule's own.
            LogKind::Rule | LogKind::Unknown => f.write_str(&one_line(&self.prefix))?,
            LogKind::Zone => {
                let (from, to) = (name(&self.from_zone), name(&self.to_zone));
                write!(f, "zone_denied: {from} to {to}, ")?;
                match &self.service {
                    Some(service) => write!(f, "service {} ", one_line(service))?,
                    None => f.write_str("no service ")?,
                }
            }
            LogKind::Drop => {
                write!(f, "drop {} ", one_line(&self.prefix))?;
                if self.count > 1 {
                    write!(f, "(and {} more) ", self.count - 1)?;
                }
            }
        }
        let interface = |name: &Option<String>| one_line(name.as_deref().unwrap_or_default());
        let (inward, outward) = (
            interface(&self.in_interface),
            interface(&self.out_interface),
        );
        write!(f, "IN={inward} OUT={outward}")?;
        if let Some(packet) = &self.packet {
            packet.fmt(f)?;
        }
        if self.mark != 0 {
            write!(f, " MARK={:#x}", self.mark)?;
        }
        Ok(())
    }
}

impl fmt::Display for LogPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(mac) = &self.mac {
            write!(f, " MAC={}", one_line(mac))?;
        }
        let Self { src, dst, .. } = self;
        write!(f, " SRC={src} DST={dst} LEN={}", self.length)?;
        let (tos, precedence) = (self.tos & 0x1e, self.tos & 0xe0);
        write!(f, " TOS=0x{tos:02X} PREC=0x{precedence:02X}")?;
        write!(f, " TTL={} ID={}", self.ttl, self.id)?;
        for (is_set, word) in [(self.is_df, " DF"), (self.is_mf, " MF")] {
            f.write_str(if is_set { word } else { "" })?;
        }
        if self.fragment != 0 {
            write!(f, " FRAG:{}", self.fragment)?;
        }
        write!(f, " PROTO={}", one_line(&self.proto).to_uppercase())?;
        if let (Some(source), Some(destination)) = (self.sport, self.dport) {
            write!(f, " SPT={source} DPT={destination}")?;
        }
        if let Some(window) = self.window {
            write!(f, " WINDOW={window} RES=0x00")?;
        }
        let flags = self.tcp_flags.unwrap_or(0);
        for (bit, word) in TCP_FLAGS {
            f.write_str(if flags & bit != 0 { word } else { "" })?;
        }
        if let Some(kind) = self.icmp_type {
            write!(f, " TYPE={kind} CODE={}", self.icmp_code.unwrap_or(0))?;
        }
        Ok(())
    }
}

/// In the order of the kernel's lines.
const TCP_FLAGS: [(u8, &str); 8] = [
    (128, " CWR"),
    (64, " ECE"),
    (32, " URG"),
    (16, " ACK"),
    (8, " PSH"),
    (4, " RST"),
    (2, " SYN"),
    (1, " FIN"),
];

/// Names come from files: none makes a second line, or speaks to the terminal.
fn one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '?' } else { c };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Reply;

    fn syn() -> LogPacket {
        LogPacket {
            mac: Some("02:00:00:00:00:01:02:00:00:00:00:02:08:00".into()),
            src: [192, 168, 1, 9].into(),
            dst: [1, 2, 3, 4].into(),
            length: 60,
            tos: 0x10,
            ttl: 64,
            id: 4711,
            is_df: true,
            is_mf: false,
            fragment: 0,
            proto: "tcp".into(),
            sport: Some(40_000),
            dport: Some(80),
            window: Some(64_240),
            tcp_flags: Some(2),
            icmp_type: None,
            icmp_code: None,
        }
    }

    fn entry() -> LogEntry {
        LogEntry {
            at_ns: 1_700_000_000_000_000_000,
            prefix: "LOintra: ".into(),
            count: 1,
            in_interface: Some("eth1".into()),
            packet: Some(syn()),
            ..LogEntry::default()
        }
    }

    #[test]
    fn lines_are_like_the_kernels() {
        let tail = "IN=eth1 OUT= MAC=02:00:00:00:00:01:02:00:00:00:00:02:08:00 SRC=192.168.1.9 \
            DST=1.2.3.4 LEN=60 TOS=0x10 PREC=0x00 TTL=64 ID=4711 DF PROTO=TCP SPT=40000 DPT=80 \
            WINDOW=64240 RES=0x00 SYN";
        assert_eq!(entry().to_string(), format!("LOintra: {tail}"));
        let zone = LogEntry {
            kind: LogKind::Zone,
            from_zone: Some("intra".into()),
            service: Some("http".into()),
            mark: 16,
            ..entry()
        };
        let text = format!("zone_denied: intra to -, service http {tail} MARK=0x10");
        assert_eq!(zone.to_string(), text);
        let drop = LogEntry {
            kind: LogKind::Drop,
            prefix: "input_denied".into(),
            count: 7,
            ..entry()
        };
        let text = format!("drop input_denied (and 6 more) {tail}");
        assert_eq!(drop.to_string(), text);
        let ping = LogPacket {
            mac: None,
            proto: "icmp".into(),
            sport: None,
            dport: None,
            window: None,
            tcp_flags: None,
            icmp_type: Some(8),
            is_df: false,
            is_mf: true,
            fragment: 185,
            ..syn()
        };
        let text = " SRC=192.168.1.9 DST=1.2.3.4 LEN=60 TOS=0x10 PREC=0x00 TTL=64 ID=4711 MF \
            FRAG:185 PROTO=ICMP TYPE=8 CODE=0";
        assert_eq!(ping.to_string(), text);
        let lost = LogEntry {
            kind: LogKind::Lost,
            count: 12,
            ..LogEntry::default()
        };
        assert_eq!(lost.to_string(), "12 log entries lost");
    }

    #[test]
    fn its_line_is_as_documented() {
        let reply = Reply::Log {
            entries: vec![LogEntry {
                packet: None,
                ..entry()
            }],
            more: true,
        };
        let line = crate::line(&reply).unwrap();
        let text = concat!(
            r#"{"reply":"log","entries":[{"at_ns":1700000000000000000,"kind":"rule","#,
            r#""generation":0,"prefix":"LOintra: ","count":1,"table":null,"chain":null,"#,
            r#""line":null,"from_zone":null,"to_zone":null,"service":null,"#,
            r#""in_interface":"eth1","out_interface":null,"mark":0,"packet":null}],"more":true}"#,
            "\n"
        );
        assert_eq!(str::from_utf8(&line).unwrap(), text);
        assert_eq!(serde_json::from_slice::<Reply>(&line).unwrap(), reply);
        let later = r#"{"reply":"log","entries":[{"at_ns":1,"kind":"omen"}],"more":false}"#;
        let reply: Reply = serde_json::from_str(later).unwrap();
        assert!(matches!(reply, Reply::Log { entries, .. } if entries[0].kind == LogKind::Unknown));
    }

    proptest! {
        #[test]
        fn no_name_makes_a_second_line(prefix: String, zone: String, kind in 0..4_usize) {
            let kinds = [LogKind::Rule, LogKind::Zone, LogKind::Drop, LogKind::Unknown];
            let entry = LogEntry {
                kind: kinds[kind],
                prefix,
                from_zone: Some(zone.clone()),
                in_interface: Some(zone),
                ..entry()
            };
            prop_assert!(!entry.to_string().contains(char::is_control));
        }
    }
}
