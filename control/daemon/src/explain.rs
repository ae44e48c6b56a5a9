//! A packet's way through the rules in force, told rule by rule. Nothing is sent, and nothing
//! counted.

use std::net::Ipv4Addr;

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
    let mut packet = packet(facts, &view.policy, probe)?;
    let mut way = Way {
        view: &view,
        ruleset: &book.ruleset,
        steps: Vec::new(),
        notes: Vec::new(),
        proxy: None,
    };
    let verdict = if packet.in_port.is_some() {
        way.arrives(&mut packet)
    } else {
        let sender = Sender::of(probe)?;
        way.leaves(&facts.listeners.nodes(), &sender, &mut packet)
    };
    Ok(Explanation {
        steps: way.steps,
        verdict,
        proxy: way.proxy.map(|at| at.to_string()),
        note: (!way.notes.is_empty()).then(|| way.notes.join("; ")),
    })
}

struct Way<'a> {
    view: &'a View,
    ruleset: &'a Ruleset,
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
    fn arrives(&mut self, packet: &mut Packet) -> String {
        let view = self.view;
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
            return match view.policy.input(packet, self) {
                Ok(()) => "accepted".to_owned(),
                Err(stop) => stopped(stop),
            };
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
        packet.tuple.dst = to;
        packet.is_tproxy = true;
        match view.policy.input(packet, self) {
            Ok(()) => "redirected".to_owned(),
            Err(stop) => stopped(stop),
        }
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

fn stopped(stop: Stop) -> String {
    match stop {
        Stop::Drop => "dropped".to_owned(),
        Stop::Reject(RejectWith::TcpReset) => "rejected by a reset".to_owned(),
        Stop::Reject(_) => "rejected".to_owned(),
        Stop::Nat => "dropped: a nat rule takes it, and there is no translation yet".to_owned(),
    }
}

/// The packet that is asked about.
fn packet(facts: &Facts, policy: &Policy, probe: &Probe) -> Result<Packet, Failure> {
    let port = |name: &Option<String>| match name {
        None => Ok(None),
        Some(name) => {
            let ports = (0..=u8::MAX).map(PortId).zip(&facts.config.ports);
            let found = ports.into_iter().find(|(_, port)| port.interface == *name);
            let known = facts
                .config
                .ports
                .iter()
                .map(|port| port.interface.as_str());
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
    let has_ports = matches!(proto, Protocol::TCP | Protocol::UDP);
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
    let named = [Protocol::TCP, Protocol::UDP, Protocol::ICMP]
        .into_iter()
        .find(|known| known.name() == Some(&text.to_lowercase()));
    named
        .or_else(|| text.parse().ok().map(Protocol))
        .ok_or_else(|| {
            wrong(format!(
                "{text:?} is no protocol: tcp, udp, icmp or a number"
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
