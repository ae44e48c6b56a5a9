//! Names of protocols and services, as the files of the usual distributions have them. Files of
//! the box are not asked: a ruleset means the same wherever it is loaded.

use std::fmt;

use wire::Protocol;

/// The names that iptables-save prints, and the numbers.
const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("ggp", 3),
    ("ipencap", 4),
    ("st", 5),
    ("tcp", 6),
    ("egp", 8),
    ("igp", 9),
    ("pup", 12),
    ("udp", 17),
    ("hmp", 20),
    ("xns-idp", 22),
    ("rdp", 27),
    ("iso-tp4", 29),
    ("dccp", 33),
    ("xtp", 36),
    ("ddp", 37),
    ("idpr-cmtp", 38),
    ("ipv6", 41),
    ("ipv6-route", 43),
    ("ipv6-frag", 44),
    ("idrp", 45),
    ("rsvp", 46),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("skip", 57),
    ("ipv6-icmp", 58),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("rspf", 73),
    ("vmtp", 81),
    ("eigrp", 88),
    ("ospf", 89),
    ("ax.25", 93),
    ("ipip", 94),
    ("etherip", 97),
    ("encap", 98),
    ("pim", 103),
    ("ipcomp", 108),
    ("vrrp", 112),
    ("l2tp", 115),
    ("isis", 124),
    ("sctp", 132),
    ("fc", 133),
    ("mobility-header", 135),
    ("udplite", 136),
    ("mpls-in-ip", 137),
    ("manet", 138),
    ("hip", 139),
    ("shim6", 140),
    ("wesp", 141),
    ("rohc", 142),
    ("ethernet", 143),
];

/// Other names that are read.
const PROTOCOL_ALIASES: &[(&str, u8)] = &[
    ("all", 0),
    ("ip", 0),
    ("ip-encap", 4),
    ("ipv4", 4),
    ("ipsec-esp", 50),
    ("ipsec-ah", 51),
    ("icmpv6", 58),
    ("ttp", 84),
    ("tcf", 87),
    ("ospfigp", 89),
    ("ipv6-mh", 135),
    ("mh", 135),
];

/// Those that a typing error is likely to mean. Many others differ by a letter only.
pub(crate) const COMMON_PROTOCOLS: [&str; 8] = [
    "tcp", "udp", "icmp", "all", "igmp", "gre", "sctp", "udplite",
];

/// Services by name. A name has one number, whatever the protocol.
const SERVICES: &[(&str, u16)] = &[
    ("echo", 7),
    ("discard", 9),
    ("daytime", 13),
    ("chargen", 19),
    ("ftp-data", 20),
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("time", 37),
    ("whois", 43),
    ("tacacs", 49),
    ("domain", 53),
    ("bootps", 67),
    ("bootpc", 68),
    ("tftp", 69),
    ("gopher", 70),
    ("finger", 79),
    ("http", 80),
    ("www", 80),
    ("kerberos", 88),
    ("pop3", 110),
    ("portmapper", 111),
    ("sunrpc", 111),
    ("auth", 113),
    ("ident", 113),
    ("nntp", 119),
    ("ntp", 123),
    ("netbios-ns", 137),
    ("netbios-dgm", 138),
    ("netbios-ssn", 139),
    ("imap", 143),
    ("imap2", 143),
    ("snmp", 161),
    ("snmp-trap", 162),
    ("snmptrap", 162),
    ("xdmcp", 177),
    ("bgp", 179),
    ("ldap", 389),
    ("https", 443),
    ("microsoft-ds", 445),
    ("smtps", 465),
    ("ssmtp", 465),
    ("submissions", 465),
    ("isakmp", 500),
    ("exec", 512),
    ("login", 513),
    ("shell", 514),
    ("syslog", 514),
    ("printer", 515),
    ("route", 520),
    ("rtsp", 554),
    ("nntps", 563),
    ("snntp", 563),
    ("submission", 587),
    ("ipp", 631),
    ("ldaps", 636),
    ("domain-s", 853),
    ("rsync", 873),
    ("ftps-data", 989),
    ("ftps", 990),
    ("telnets", 992),
    ("imaps", 993),
    ("pop3s", 995),
    ("socks", 1080),
    ("openvpn", 1194),
    ("ms-sql-s", 1433),
    ("ms-sql-m", 1434),
    ("l2f", 1701),
    ("l2tp", 1701),
    ("pptp", 1723),
    ("radius", 1812),
    ("radius-acct", 1813),
    ("nfs", 2049),
    ("squid", 3128),
    ("mysql", 3306),
    ("ms-wbt-server", 3389),
    ("subversion", 3690),
    ("svn", 3690),
    ("ipsec-nat-t", 4500),
    ("sip", 5060),
    ("sip-tls", 5061),
    ("jabber-client", 5222),
    ("xmpp-client", 5222),
    ("jabber-server", 5269),
    ("xmpp-server", 5269),
    ("mdns", 5353),
    ("postgres", 5432),
    ("postgresql", 5432),
    ("amqps", 5671),
    ("amqp", 5672),
    ("x11", 6000),
    ("http-alt", 8080),
    ("webcache", 8080),
    ("git", 9418),
];

/// The number of the protocol with this name in small letters; 0 stands for all.
pub(crate) fn protocol(name: &str) -> Option<u8> {
    let mut known = PROTOCOLS.iter().chain(PROTOCOL_ALIASES);
    known.find(|(of, _)| *of == name).map(|(_, number)| *number)
}

/// The port of the service with this name.
pub(crate) fn service(name: &str) -> Option<u16> {
    let mut known = SERVICES.iter();
    known.find(|(of, _)| *of == name).map(|(_, port)| *port)
}

/// A protocol as iptables-save prints it: by its name if it has one.
pub(crate) struct Named(pub(crate) Protocol);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOLS.iter().find(|(_, number)| *number == self.0.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0.0),
        }
    }
}
