//! A packet's way through the rules in force, told rule by rule. Nothing is sent, and nothing
//! counted.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use nix::unistd::{Group, User};
use pipeline::View;
use policy::capture::{Node, Question, Step};
use policy::{
    Arrival, ConnState, MAX_OWNERS, NoListener, Packet, Policy, PortId, RejectWith, RuleId, Sink,
    Stop,
};
use protocol::{ErrorKind, ExplainStep, Explanation, Failure, Probe};
use rules::Ruleset;
use wire::{Endpoint, MacAddr, Protocol, TcpFlags, Tuple};
use xdp_prog::Management;

use crate::config::Port;
use crate::listeners::is_listening;
use crate::machine::Facts;

/// What ICMP types are called, as far as one asks with them.
const ICMP_TYPES: [(&str, (u8, u8)); 6] = [
    ("echo-reply", (0, 0)),
    ("port-unreachable", (3, 3)),
    ("destination-unreachable", (3, 0)),
    ("echo-request", (8, 0)),
    ("time-exceeded", (11, 0)),
    ("timestamp-request", (13, 0)),
];
/// Protocols by name, besides those of [`Protocol::name`].
const PROTOCOLS: [(&str, u8); 14] = [
    ("igmp", 2),
    ("ipencap", 4),
    ("ipv6", 41),
    ("rsvp", 46),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ospf", 89),
    ("ipip", 94),
    ("pim", 103),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
    ("udplite", 136),
];
/// The ports of DHCP: a server's and a client's.
const DHCP: (u16, u16) = (67, 68);
/// TCP's flags by name.
const TCP_FLAGS: [(&str, u8); 6] = [
    ("FIN", TcpFlags::FIN),
    ("SYN", TcpFlags::SYN),
    ("RST", TcpFlags::RST),
    ("PSH", 0x08),
    ("ACK", TcpFlags::ACK),
    ("URG", 0x20),
];

fn wrong(message: String) -> Failure {
    Failure::new(ErrorKind::Malformed, message)
}

/// Walks a packet through the rules.
pub fn explain(facts: &Facts, probe: &Probe) -> Result<Explanation, Failure> {
    let (view, book) = facts.view_and_book();
    let packet = packet(&facts.config.ports, &view.policy, probe)?;
    let sender = Sender::of(probe)?;
    let way = Way {
        view: &view,
        ruleset: &book.ruleset,
        management: &facts.config.steered_management(),
        steps: Vec::new(),
        notes: Vec::new(),
        proxy: None,
    };
    Ok(way.walk(packet, &facts.listeners.nodes(), &sender))
}

struct Way<'a> {
    view: &'a View,
    ruleset: &'a Ruleset,
    management: &'a [Management],
    steps: Vec<ExplainStep>,
    notes: Vec<String>,
    proxy: Option<Endpoint>,
}

impl Sink for Way<'_> {
    fn matched(&mut self, rule: RuleId, _: &Packet) {
        let action = self.ruleset.verdict_text(rule);
        let step = match self.ruleset.rule(rule) {
            Some((table, chain, placed)) => ExplainStep {
                table: table.as_str().to_owned(),
                chain: chain.name.clone(),
                line: Some(placed.place.line),
                text: placed.value.to_string(),
                action: action.unwrap_or_else(|| "counts".to_owned()),
            },
            None => {
                let mut chains = self.ruleset.chains();
                let Some(chain) = chains.find(|chain| chain.policy_id == Some(rule)) else {
                    return;
                };
                ExplainStep {
                    table: chain.table.to_owned(),
                    chain: chain.chain,
                    line: None,
                    text: String::new(),
                    action: action.unwrap_or_default(),
                }
            }
        };
        self.steps.push(step);
    }

    fn log(&mut self, _: RuleId, _: &Packet) {}
}

impl Way<'_> {
    fn walk(mut self, mut packet: Packet, nodes: &[Node], sender: &Sender) -> Explanation {
        let verdict = if packet.in_port.is_some() {
            self.arrives(&mut packet)
        } else {
            self.leaves(nodes, sender, &mut packet)
        };
        Explanation {
            steps: self.steps,
            verdict,
            proxy: self.proxy.map(|at| at.to_string()),
            note: (!self.notes.is_empty()).then(|| self.notes.join("; ")),
        }
    }

    fn arrives(&mut self, packet: &mut Packet) -> String {
        let view = self.view;
        let Tuple { proto, src, dst } = packet.tuple;
        let is_group = is_group(view, dst.addr);
        if view.own.contains(&dst.addr) || is_group {
            if self.is_management(proto, dst.port, src.addr) {
                return self.passes_before_rules("management");
            }
            if proto == Protocol::UDP && (src.port, dst.port) == DHCP {
                return self.passes_before_rules("an answer of DHCP");
            }
        } else if packet.state == ConnState::Established && is_redirectable(proto) {
            if let Some(proxy) = self.proxy_of_flow(packet) {
                return self.goes_on(packet, proxy);
            }
            self.notes.push(
                "no rule would redirect its flow: what belongs to a redirected one is asked \
                 about by INPUT, and -m tproxy holds"
                    .to_owned(),
            );
        }
        if is_group {
            return self.comes_to_group(packet);
        }
        match view.policy.arrive(packet, false, self) {
            Arrival::Stop(stop) => return stopped(stop),
            Arrival::NoLocalAddress => {
                self.notes
                    .push("the port has no address, and the rule no --on-ip".to_owned());
                return "refused".to_owned();
            }
            Arrival::Redirect { to, otherwise } => {
                let listens = is_listening(&view.listening, packet.tuple.proto, to);
                match otherwise {
                    NoListener::Drop if !listens => {
                        self.notes.push(format!("nobody listens at {to}"));
                        return "dropped".to_owned();
                    }
                    NoListener::Accept if !listens => {
                        self.notes
                            .push(format!("nobody listens at {to}: it goes on as it is"));
                    }
                    NoListener::Reject | NoListener::Drop | NoListener::Accept => {
                        return self.redirected(packet, to);
                    }
                }
            }
            Arrival::Goes => {}
        }
        if view.own.contains(&packet.tuple.dst.addr) {
            return self.input(packet, "accepted");
        }
        match view.policy.forward(packet, self) {
            Ok(()) => {
                self.notes
                    .push("FORWARD accepts it, but there is no forwarding yet".to_owned());
                "dropped".to_owned()
            }
            Err(stop) => stopped(stop),
        }
    }

    fn redirected(&mut self, packet: &mut Packet, to: Endpoint) -> String {
        self.proxy = Some(to);
        let view = self.view;
        let zones = view.policy.zones();
        let Tuple { src, dst, .. } = packet.tuple;
        if let Err(denial) = zones.judge(src.addr, packet.in_port, dst.addr, to) {
            let name = |zone: Option<_>| zone.map_or("no zone", |zone| zones.name(zone)).to_owned();
            let (from, into) = (name(denial.from), name(denial.to));
            let service = denial.service.map(|service| zones.service_name(service));
            let service = service.unwrap_or("that belongs to no service");
            self.notes
                .push(format!("{from} may not reach {into} with {service}"));
            return "refused".to_owned();
        }
        if !view.own.contains(&to.addr) {
            self.notes
                .push(format!("{} is no address of this box", to.addr));
            return "refused".to_owned();
        }
        self.comes_to_proxy(packet, to)
    }

    /// INPUT is asked with where the packet goes now.
    fn comes_to_proxy(&mut self, packet: &mut Packet, to: Endpoint) -> String {
        packet.tuple.dst = to;
        packet.is_tproxy = true;
        packet.is_dnat = true;
        self.input(packet, "redirected")
    }

    fn input(&mut self, packet: &mut Packet, verdict: &str) -> String {
        match self.view.policy.input(packet, self) {
            Ok(()) => verdict.to_owned(),
            Err(stop) => stopped(stop),
        }
    }

    /// What is for many hosts, the box among them, is never redirected and has no flow.
    fn comes_to_group(&mut self, packet: &mut Packet) -> String {
        if packet.state != ConnState::New {
            packet.state = ConnState::New;
            self.notes
                .push("a packet to a group of hosts has no flow: it is NEW".to_owned());
        }
        match self.view.policy.arrive(packet, true, self) {
            Arrival::Stop(stop) => stopped(stop),
            Arrival::Goes | Arrival::Redirect { .. } | Arrival::NoLocalAddress => {
                self.input(packet, "accepted")
            }
        }
    }

    /// Where rules redirect the flow that this packet belongs to, if it has one.
    fn proxy_of_flow(&self, packet: &Packet) -> Option<Endpoint> {
        let view = self.view;
        let proto = packet.tuple.proto;
        let mut first = Packet {
            state: ConnState::New,
            tcp_flags: packet.tcp_flags.map(|_| TcpFlags::SYN),
            ..*packet
        };
        let arrival = view.policy.arrive(&mut first, false, &mut ());
        let Arrival::Redirect { to, otherwise } = arrival else {
            return None;
        };
        let is_led = otherwise == NoListener::Reject || is_listening(&view.listening, proto, to);
        (is_led && view.own.contains(&to.addr)).then_some(to)
    }

    /// A later packet of a flow that is redirected.
    fn goes_on(&mut self, packet: &mut Packet, proxy: Endpoint) -> String {
        self.proxy = Some(proxy);
        self.notes.push(format!(
            "taken as one of a flow that is redirected to {proxy}: INPUT is asked, and -m tproxy \
             holds"
        ));
        match self.view.policy.arrive(packet, true, self) {
            Arrival::Stop(stop) => stopped(stop),
            Arrival::Goes | Arrival::Redirect { .. } | Arrival::NoLocalAddress => {
                self.comes_to_proxy(packet, proxy)
            }
        }
    }

    /// Whether this is a service of the box's, at this port, that this peer always reaches.
    fn is_management(&self, proto: Protocol, port: u16, peer: Ipv4Addr) -> bool {
        self.management.iter().any(|entry| {
            let network = Ipv4Net::new(entry.network, entry.prefix_len);
            (entry.proto == 0 || entry.proto == proto.0)
                && entry.ports.contains(&port)
                && network.is_ok_and(|network| network.contains(&peer))
        })
    }

    fn passes_before_rules(&mut self, what: &str) -> String {
        self.notes.push(format!("{what}: passes before all rules"));
        "accepted".to_owned()
    }

    /// What a program on the box opens is asked about at connect(), and then at each of its
    /// packets' way out.
    fn leaves(&mut self, nodes: &[Node], sender: &Sender, packet: &mut Packet) -> String {
        if packet.tuple.proto == Protocol::TCP && packet.state == ConnState::New {
            let mut at = 0;
            // Each step leads to later ones.
            while let Some(Node { step, rule }) = nodes.get(at) {
                if let Some(rule) = rule {
                    self.matched(*rule, packet);
                }
                at = match step {
                    Step::Ask {
                        question,
                        then,
                        otherwise,
                    } if sender.is(question, packet) => usize::from(*then),
                    Step::Ask { otherwise, .. } => usize::from(*otherwise),
                    Step::Pass { then } => usize::from(*then),
                    Step::Go => break,
                    Step::Refuse(_) => return "refused at connect()".to_owned(),
                    Step::Redirect {
                        addr,
                        port,
                        otherwise,
                    } => {
                        let to = Endpoint::new(*addr, port.unwrap_or(packet.tuple.dst.port));
                        let listens = is_listening(&self.view.listening, Protocol::TCP, to);
                        if listens {
                            self.proxy = Some(to);
                            self.notes
                                .push("what the proxy itself opens is not redirected".to_owned());
                            return "redirected at connect()".to_owned();
                        }
                        self.notes.push(format!("nobody listens at {to}"));
                        match otherwise {
                            NoListener::Accept => break,
                            NoListener::Reject | NoListener::Drop => {
                                return "refused at connect()".to_owned();
                            }
                        }
                    }
                };
            }
        }
        let Tuple { proto, src, dst } = packet.tuple;
        let is_own = self.view.own.contains(&src.addr);
        if is_own && self.is_management(proto, src.port, dst.addr) {
            return self.passes_before_rules("management");
        }
        if proto == Protocol::UDP && (dst.port, src.port) == DHCP && dst.addr.is_broadcast() {
            return self.passes_before_rules("a question of DHCP");
        }
        match self.view.policy.leave(packet, self) {
            Ok(()) => "accepted".to_owned(),
            Err(stop) => stopped(stop),
        }
    }
}

/// Who opens a connection.
struct Sender {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Sender {
    fn of(probe: &Probe) -> Result<Self, Failure> {
        let gid = match &probe.gid {
            None => None,
            Some(text) => {
                let named = || Group::from_name(text).ok()?.map(|group| group.gid.as_raw());
                let gid = text.parse().ok().or_else(named);
                Some(gid.ok_or_else(|| wrong(format!("there is no group {text:?}")))?)
            }
        };
        Ok(Self {
            uid: uid(probe.uid.as_deref())?,
            gid,
        })
    }

    fn is(&self, question: &Question, packet: &Packet) -> bool {
        let dst = packet.tuple.dst;
        match question {
            Question::Network(network) => network.contains(dst.addr),
            Question::Range(range) => range.contains(&dst.addr),
            Question::Ports(range) => range.contains(&dst.port),
            Question::Users(range) => self.uid.is_some_and(|uid| range.contains(&uid)),
            Question::Groups(range) => self.gid.is_some_and(|gid| range.contains(&gid)),
            Question::Mark { value, mask } => packet.mark & mask == *value,
        }
    }
}

/// Whether an address is that of many hosts.
fn is_group(view: &View, addr: Ipv4Addr) -> bool {
    addr.is_multicast() || addr.is_broadcast() || view.broadcasts.contains(&addr)
}

/// Only what has ports can be redirected.
const fn is_redirectable(proto: Protocol) -> bool {
    matches!(proto, Protocol::TCP | Protocol::UDP)
}

fn stopped(stop: Stop) -> String {
    match stop {
        Stop::Drop => "dropped".to_owned(),
        Stop::Reject(RejectWith::TcpReset) => "rejected by a reset".to_owned(),
        Stop::Reject(_) => "rejected".to_owned(),
        Stop::Nat => "dropped: a nat rule takes it, and there is no translation yet".to_owned(),
    }
}

/// The packet that is asked about.
fn packet(ports: &[Port], policy: &Policy, probe: &Probe) -> Result<Packet, Failure> {
    let port = |name: &Option<String>| match name {
        None => Ok(None),
        Some(name) => {
            let numbered = (0..=u8::MAX).map(PortId).zip(ports);
            let found = numbered
                .into_iter()
                .find(|(_, port)| port.interface == *name);
            let known = ports.iter().map(|port| port.interface.as_str());
            match found {
                Some((id, _)) => Ok(Some(id)),
                None => Err(wrong(format!(
                    "{name:?} is no port: there are {}",
                    known.collect::<Vec<_>>().join(", ")
                ))),
            }
        }
    };
    let proto = protocol_number(&probe.proto)?;
    let has_ports = is_redirectable(proto);
    let tuple = Tuple {
        proto,
        src: endpoint(&probe.src, has_ports)?,
        dst: endpoint(&probe.dst, has_ports)?,
    };
    let state = state(probe.state.as_deref())?;
    let icmp = match (&probe.icmp_type, proto) {
        (None, Protocol::ICMP) => Some((8, 0)),
        (Some(text), Protocol::ICMP) => Some(icmp(text)?),
        (None, _) => None,
        (Some(_), _) => return Err(wrong("an ICMP type needs --proto icmp".to_owned())),
    };
    let tcp_flags = match (&probe.tcp_flags, proto) {
        (None, Protocol::TCP) if state == ConnState::New => Some(TcpFlags::SYN),
        (None, Protocol::TCP) => Some(TcpFlags::ACK),
        (Some(text), Protocol::TCP) => Some(flags(text)?),
        (None, _) => None,
        (Some(_), _) => return Err(wrong("TCP flags need --proto tcp".to_owned())),
    };
    let in_port = port(&probe.in_interface)?;
    Ok(Packet {
        in_port,
        out_port: port(&probe.out_interface)?,
        tuple,
        icmp,
        tcp_flags,
        is_tail: false,
        source_mac: probe.mac.as_deref().map(mac).transpose()?,
        state,
        is_tproxy: false,
        is_snat: false,
        is_dnat: false,
        mark: probe.mark.unwrap_or(0),
        owners: owners(policy, probe.uid.as_deref())?,
        bytes: 60,
        now_ns: worker::monotonic_ns(),
        // What limits have left is for real packets.
        is_rejudged: true,
    })
}

fn endpoint(text: &str, has_ports: bool) -> Result<Endpoint, Failure> {
    let (addr, port) = match text.split_once(':') {
        Some((addr, port)) => (addr, port.parse().ok()),
        None => (text, Some(0)),
    };
    match (addr.parse::<Ipv4Addr>(), port) {
        (Ok(addr), Some(0)) if has_ports => {
            Err(wrong(format!("{addr} needs a port, as in {addr}:80")))
        }
        (Ok(addr), Some(port)) => Ok(Endpoint::new(addr, port)),
        _ => Err(wrong(format!(
            "{text:?} is no ADDRESS:PORT such as 192.168.1.9:40000"
        ))),
    }
}

fn protocol_number(text: &str) -> Result<Protocol, Failure> {
    let name = text.to_lowercase();
    let named = [Protocol::TCP, Protocol::UDP, Protocol::ICMP]
        .into_iter()
        .find(|known| known.name() == Some(&name));
    let rare = || PROTOCOLS.iter().find(|(known, _)| *known == name);
    named
        .or_else(|| rare().map(|(_, number)| Protocol(*number)))
        .or_else(|| text.parse().ok().map(Protocol))
        .ok_or_else(|| {
            let known: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
            let known = known.join(", ");
            wrong(format!(
                "{text:?} is no protocol: tcp, udp, icmp, {known} or a number"
            ))
        })
}

fn state(text: Option<&str>) -> Result<ConnState, Failure> {
    Ok(match text.map(str::to_lowercase).as_deref() {
        None | Some("new") => ConnState::New,
        Some("established") => ConnState::Established,
        Some("related") => ConnState::Related,
        Some("invalid") => ConnState::Invalid,
        Some("untracked") => ConnState::Untracked,
        Some(other) => {
            return Err(wrong(format!(
                "{other:?} is no state: new, established, related, invalid or untracked"
            )));
        }
    })
}

fn icmp(text: &str) -> Result<(u8, u8), Failure> {
    let known = ICMP_TYPES.iter().find(|(name, _)| *name == text);
    let number = || {
        let (kind, code) = text.split_once('/').unwrap_or((text, "0"));
        Some((kind.parse().ok()?, code.parse().ok()?))
    };
    known
        .map(|(_, found)| *found)
        .or_else(number)
        .ok_or_else(|| {
            wrong(format!(
                "{text:?} is no ICMP type: a name or TYPE/CODE, as in 8/0"
            ))
        })
}

fn flags(text: &str) -> Result<u8, Failure> {
    let one = |name: &str| {
        let known = TCP_FLAGS
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        known.map(|(_, bit)| *bit).ok_or_else(|| {
            wrong(format!(
                "{name:?} is no TCP flag: FIN, SYN, RST, PSH, ACK or URG"
            ))
        })
    };
    text.split(',')
        .try_fold(0, |flags, name| Ok(flags | one(name)?))
}

fn mac(text: &str) -> Result<[u8; 6], Failure> {
    let bytes: Vec<u8> = text
        .split(':')
        .map_while(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    let known = bytes.try_into().ok().map(|bytes| MacAddr(bytes).0);
    known.ok_or_else(|| {
        wrong(format!(
            "{text:?} is no MAC address such as 02:00:00:00:00:01"
        ))
    })
}

fn uid(user: Option<&str>) -> Result<Option<u32>, Failure> {
    let Some(user) = user else { return Ok(None) };
    let named = || User::from_name(user).ok()?.map(|user| user.uid.as_raw());
    let uid = user.parse().ok().or_else(named);
    let uid = uid.ok_or_else(|| wrong(format!("there is no user {user:?}")))?;
    Ok(Some(uid))
}

/// Which of the policy's owner tests hold for a user.
fn owners(policy: &Policy, user: Option<&str>) -> Result<u8, Failure> {
    let Some(uid) = uid(user)? else { return Ok(0) };
    let tests = policy.owners().iter().take(MAX_OWNERS).zip(0..);
    Ok(tests.fold(0, |owners, (test, bit)| {
        owners | u8::from(test.uids.contains(&uid)) << bit
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use pipeline::Marks;
    use rules::Interface;

    use super::*;
    use crate::config::Mode;
    use crate::rulebook::Rulebook;

    const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
    const RULES: &str = "*tproxy
:PREROUTING ACCEPT [0:0]
-A PREROUTING -i eth1 -p tcp --dport 80 -j TPROXY --on-port 50080
-A PREROUTING -i eth1 -p tcp --dport 81 -j TPROXY --on-port 50081 --on-no-listener drop
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT DROP [0:0]
-A INPUT -m tproxy -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A INPUT -d 224.0.0.18 -p vrrp -j ACCEPT
-A INPUT -p udp --dport 137 -j ACCEPT
COMMIT
";

    fn explained(rules: &str, probe: &Probe) -> Explanation {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("iptables.conf");
        fs::write(&path, rules).unwrap();
        let book = Rulebook::read(&path, None, 1, &mut |_, _| {}).unwrap();
        let interface = Interface {
            name: "eth1".into(),
            port: PortId(0),
            first_address: Some(OWN),
        };
        let compiled = book.compile(&[interface], &Arc::default(), 1).unwrap();
        let view = View {
            policy: Arc::new(compiled.policy),
            rule_hits: Arc::clone(&book.hits),
            own: [OWN].into_iter().collect(),
            proxies: Vec::new(),
            ports: Vec::new(),
            marks: Marks::new([1, 2, 3]),
            broadcasts: [Ipv4Addr::new(192, 168, 1, 255)].into_iter().collect(),
            listening: Default::default(),
            keep_established: false,
            epoch: false,
        };
        let management = Management {
            network: Ipv4Addr::new(192, 168, 1, 0),
            prefix_len: 28,
            proto: Protocol::TCP.0,
            ports: 22..=22,
        };
        let port = Port {
            interface: "eth1".into(),
            zone: None,
            mode: Mode::Auto,
        };
        let way = Way {
            view: &view,
            ruleset: &book.ruleset,
            management: &[management],
            steps: Vec::new(),
            notes: Vec::new(),
            proxy: None,
        };
        let packet = packet(&[port], &view.policy, probe).unwrap();
        way.walk(packet, &compiled.capture, &Sender::of(probe).unwrap())
    }

    fn probe(src: &str, dst: &str, proto: &str) -> Probe {
        Probe {
            in_interface: Some("eth1".into()),
            src: src.into(),
            dst: dst.into(),
            proto: proto.into(),
            ..Probe::default()
        }
    }

    fn chains(explanation: &Explanation) -> Vec<&str> {
        let steps = explanation.steps.iter();
        steps.map(|step| step.chain.as_str()).collect()
    }

    #[test]
    fn management_passes_before_all_rules() {
        let way_in = probe("192.168.1.9:40000", "192.168.1.1:22", "tcp");
        let mut way_out = probe("192.168.1.1:22", "192.168.1.9:40000", "tcp");
        way_out.in_interface = None;
        way_out.state = Some("established".into());
        for probe in [way_in, way_out] {
            let told = explained(RULES, &probe);
            assert_eq!((told.verdict.as_str(), told.steps.len()), ("accepted", 0));
            let note = told.note.as_deref();
            assert_eq!(note, Some("management: passes before all rules"));
        }
        for (src, dst, proto) in [
            ("192.168.1.16:40000", "192.168.1.1:22", "tcp"),
            ("192.168.1.9:40000", "192.168.1.1:23", "tcp"),
            ("192.168.1.9:40000", "192.168.1.1:22", "udp"),
            ("192.168.1.9:40000", "192.168.2.2:22", "tcp"),
        ] {
            let told = explained(RULES, &probe(src, dst, proto));
            assert_eq!(
                (told.verdict.as_str(), told.note),
                ("dropped", None),
                "{dst}"
            );
        }
    }

    #[test]
    fn groups_of_hosts_are_a_matter_of_input() {
        for (dst, proto) in [
            ("224.0.0.18", "vrrp"),
            ("192.168.1.255:137", "udp"),
            ("255.255.255.255:137", "udp"),
        ] {
            let told = explained(RULES, &probe("192.168.1.9:137", dst, proto));
            assert_eq!(
                (told.verdict.as_str(), chains(&told)),
                ("accepted", vec!["INPUT"])
            );
        }
        let told = explained(RULES, &probe("192.168.1.9", "224.0.0.5", "ospf"));
        assert_eq!(
            (told.verdict.as_str(), chains(&told)),
            ("dropped", vec!["INPUT"])
        );
        let offer = probe("192.168.1.9:67", "255.255.255.255:68", "udp");
        let told = explained(RULES, &offer);
        assert_eq!((told.verdict.as_str(), told.steps.len()), ("accepted", 0));
    }

    #[test]
    fn packets_of_redirected_flows_are_a_matter_of_input() {
        let later = |dst| Probe {
            state: Some("established".into()),
            ..probe("192.168.1.99:40000", dst, "tcp")
        };
        let told = explained(RULES, &later("1.2.3.4:80"));
        assert_eq!(
            (told.verdict.as_str(), chains(&told)),
            ("redirected", vec!["INPUT"])
        );
        assert_eq!(told.proxy.as_deref(), Some("192.168.1.1:50080"));
        assert!(
            told.note
                .unwrap()
                .contains("redirected to 192.168.1.1:50080")
        );
        // 81: nobody listens there, so that there is no such flow.
        for dst in ["1.2.3.4:81", "1.2.3.4:443"] {
            let told = explained(RULES, &later(dst));
            assert_eq!((told.verdict.as_str(), told.proxy), ("dropped", None));
            assert_eq!(told.steps.last().unwrap().chain, "FORWARD");
            assert!(told.note.unwrap().starts_with("no rule would redirect"));
        }
    }

    #[test]
    fn protocols_have_names() {
        for (name, number) in [
            ("tcp", 6),
            ("GRE", 47),
            ("vrrp", 112),
            ("ipv6", 41),
            ("254", 254),
        ] {
            assert_eq!(protocol_number(name).unwrap(), Protocol(number));
        }
        let refused = protocol_number("tpc").unwrap_err();
        assert!(
            refused.message.contains("gre, esp, ah"),
            "{}",
            refused.message
        );
    }
}
