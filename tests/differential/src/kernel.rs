//! The kernel's own firewall: a namespace with a wire on both sides, where iptables decides.
//!
//! Everything runs on one processor, so that packets are handled in the order in which they are
//! sent; an answered ARP request then proves that all before it has been handled.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use lab::Namespace;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::conntrack::Conntrack;
use crate::made_up;
use crate::outcome::{Outcome, Seen};
use crate::packet::{Packet, Sender, Side};
use crate::tap::Tap;

/// Ports where programs of the box swallow whatever comes, and never answer.
pub const DEAF: std::ops::Range<u16> = 40_000..40_060;
/// The same, where clients go.
pub const SERVICES: [u16; 7] = [21, 22, 53, 80, 123, 443, 8080];
/// A protocol that is neither TCP, UDP nor ICMP (ESP).
pub const OTHER: u8 = 50;
/// Everybody near the firewall's ends.
const NEIGHBOURS: std::ops::RangeInclusive<u8> = 10..=19;

/// The kernel as a firewall.
#[derive(Debug)]
pub struct Kernel {
    /// The far ends of both sides.
    taps: [Tap; 2],
    /// Raw sockets: what is delivered to the box is seen here.
    ears: Vec<Socket>,
    /// What the box sends.
    mouth: Socket,
    _deaf: Vec<Socket>,
    conntrack: Conntrack,
    iptables: &'static str,
    fw: Namespace,
    _far: Namespace,
}

/// Packets by the name of what counted them.
pub type Counts = BTreeMap<String, u64>;

impl Kernel {
    /// Builds it; the calling thread stays on one processor from now on.
    pub fn build() -> Result<Self> {
        lab::command::require()?;
        let mut one = CpuSet::new();
        one.set(0)?;
        sched_setaffinity(Pid::from_raw(0), &one)?;
        static BUILT: AtomicU32 = AtomicU32::new(0);
        let number = BUILT.fetch_add(1, Ordering::Relaxed);
        let name = |role| format!("xtd{}-{number}-{role}", std::process::id());
        let (fw, far) = (
            Namespace::create(&name("fw"))?,
            Namespace::create(&name("far"))?,
        );
        settle(&fw, &far)?;
        let taps = Side::ALL.map(|side| Tap::open(&fw, &far, side));
        let [intra, inter] = taps;
        let (ears, mouth, deaf, conntrack) = fw.enter(|| {
            let ears = [1, 6, 17, i32::from(OTHER)].map(raw);
            let ears = ears.into_iter().collect::<Result<Vec<_>>>()?;
            let mouth = raw(255)?;
            mouth.set_header_included_v4(true)?;
            Ok((ears, mouth, deaf()?, Conntrack::open()?))
        })?;
        Ok(Kernel {
            taps: [intra?, inter?],
            ears,
            mouth,
            _deaf: deaf,
            conntrack,
            iptables: backend(&fw)?,
            fw,
            _far: far,
        })
    }

    /// The firewall's hardware address at a side.
    pub fn mac(&self, side: Side) -> [u8; 6] {
        self.taps[side as usize].near
    }

    /// Replaces all rules, counters and known connections.
    pub fn load(&self, ruleset: &str) -> Result<()> {
        // A table that is not named would stay as it is.
        let all = made_up::TABLES.iter();
        let absent = all.filter(|(table, _)| !ruleset.contains(&format!("*{table}\n")));
        let whole = absent.fold(ruleset.to_owned(), |mut text, (table, chains)| {
            text += &format!("*{table}\n");
            for chain in *chains {
                text += &format!(":{chain} ACCEPT [0:0]\n");
            }
            text + "COMMIT\n"
        });
        restore(&self.fw, self.iptables, &[], &whole)?;
        self.conntrack.flush()
    }

    /// Whether iptables would take these rules.
    pub fn check(&self, ruleset: &str) -> Result<()> {
        restore(&self.fw, self.iptables, &["--test"], ruleset)
    }

    /// What rules have matched, by their comment, and what was left to policies.
    pub fn counts(&self) -> Result<Counts> {
        let save = format!("{}-save", self.iptables);
        let text = lab::command::run(self.fw.command(save).arg("-c"))?;
        let mut counts = Counts::new();
        let mut table = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(chain) = line.strip_prefix(':') {
                let mut words = chain.split_whitespace();
                let (chain, policy) = (words.next(), words.next());
                if policy != Some("-") {
                    let name = format!("{table} {}", chain.context("no chain")?);
                    *counts.entry(name).or_default() += packets(words.next())?;
                }
            } else if let Some((before, after)) = line.split_once(" --comment ") {
                let name = after.split_whitespace().next().context("no comment")?;
                let name = name.trim_matches('"').to_owned();
                *counts.entry(name).or_default() += packets(before.split(' ').next())?;
            }
        }
        Ok(counts)
    }

    /// Sends packets in their order, and says what became of each.
    pub fn exchange(&self, packets: &[Packet]) -> Result<Vec<Outcome>> {
        for packet in packets {
            match packet.sender {
                Sender::Wire(side) => self.taps[side as usize].send(packet)?,
                Sender::Box => self.speak(packet)?,
            }
        }
        let mut seen = [Vec::new(), Vec::new()];
        for (tap, seen) in self.taps.iter().zip(&mut seen) {
            tap.collect(seen)?;
        }
        let mut heard = Vec::new();
        for ear in &self.ears {
            listen(ear, &mut heard)?;
        }
        Ok(packets
            .iter()
            .map(|packet| outcome(packet, &seen, &heard))
            .collect())
    }

    /// Sends as a program of the box. What OUTPUT forbids, its sender hears of.
    fn speak(&self, packet: &Packet) -> Result<()> {
        let to = SocketAddrV4::new(packet.dst, 0);
        match self.mouth.send_to(&packet.bytes(), &to.into()) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
            sent => sent.map(drop).with_context(|| format!("send {packet:?}")),
        }
    }
}

/// Addresses, neighbours and routes of both namespaces.
fn settle(fw: &Namespace, far: &Namespace) -> Result<()> {
    for namespace in [fw, far] {
        for key in [
            "ipv6.conf.all.disable_ipv6=1",
            "ipv6.conf.default.disable_ipv6=1",
            "ipv4.conf.all.rp_filter=0",
            "ipv4.conf.default.rp_filter=0",
            "ipv4.conf.all.send_redirects=0",
            "ipv4.conf.default.send_redirects=0",
            "ipv4.icmp_ratelimit=0",
            "ipv4.icmp_echo_ignore_all=1",
        ] {
            let (key, value) = key.split_once('=').context("a setting")?;
            namespace.sysctl(&format!("net.{key}"), value)?;
        }
    }
    fw.sysctl("net.ipv4.ip_forward", "1")?;
    far.sysctl("net.ipv4.ip_forward", "0")?;
    for side in Side::ALL {
        let (port, address) = (side.interface(), side.address());
        let peer = far.name();
        fw.ip(&format!(
            "link add {port} type veth peer name {port} netns {peer}"
        ))?;
        far.ip(&format!("link set {port} arp off up"))?;
        fw.ip(&format!("addr add {address}/24 dev {port}"))?;
        fw.ip(&format!("link set {port} up"))?;
        let [a, b, c, _] = address.octets();
        for host in NEIGHBOURS {
            let there = Ipv4Addr::new(a, b, c, host);
            fw.ip(&format!(
                "neigh add {there} lladdr 02:00:00:00:00:99 dev {port} nud permanent"
            ))?;
        }
    }
    fw.ip("route add default via 198.51.100.10 dev eth2")
        .map(drop)
}

fn raw(protocol: i32) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(protocol)))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Sockets that the kernel finds for a packet, and whose filter then takes none: nothing is
/// answered to what reaches the box.
fn deaf() -> Result<Vec<Socket>> {
    const TAKE_NOTHING: SockFilter = SockFilter::new(6, 0, 0, 0);
    let mut sockets = Vec::new();
    for port in SERVICES.into_iter().chain(DEAF) {
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        for kind in [Type::STREAM, Type::DGRAM] {
            let socket = Socket::new(Domain::IPV4, kind, None)?;
            socket.attach_filter(&[TAKE_NOTHING])?;
            socket.bind(&any.into())?;
            if kind == Type::STREAM {
                socket.listen(1)?;
            }
            sockets.push(socket);
        }
    }
    Ok(sockets)
}

/// The iptables that this kernel understands.
fn backend(fw: &Namespace) -> Result<&'static str> {
    const SMALL: &str = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m conntrack --ctstate NEW -m comment --comment r0 -j ACCEPT\nCOMMIT\n";
    let mut said = String::new();
    for name in ["iptables-legacy", "iptables-nft"] {
        match restore(fw, name, &[], SMALL) {
            Ok(()) => return Ok(name),
            Err(error) => said += &format!("\n{error:#}"),
        }
    }
    bail!("no iptables works here (Debian package iptables):{said}")
}

fn restore(fw: &Namespace, iptables: &str, options: &[&str], ruleset: &str) -> Result<()> {
    let mut command: Command = fw.command(format!("{iptables}-restore"));
    command.args(["-w", "10"]).args(options);
    command.stdin(Stdio::piped());
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    // A refusal may close it early; what was refused is told below.
    let written = input.write_all(ruleset.as_bytes());
    drop(input);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{iptables}: {}", said.trim());
    Ok(written?)
}

/// The packets of `[packets:bytes]`.
fn packets(word: Option<&str>) -> Result<u64> {
    let word = word.context("no counters")?.trim_start_matches('[');
    let packets = word.split(':').next().unwrap_or_default();
    packets.parse().with_context(|| format!("counters: {word}"))
}

fn listen(ear: &Socket, heard: &mut Vec<Seen>) -> Result<()> {
    let mut bytes = [0; 2048];
    loop {
        match std::io::Read::read(&mut &*ear, &mut bytes) {
            Ok(len) => heard.extend(Seen::parse(&bytes[..len])),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("a raw socket"),
        }
    }
}

fn outcome(packet: &Packet, seen: &[Vec<Seen>; 2], heard: &[Seen]) -> Outcome {
    // What arrived may still be answered by a reset: where a nat target sends it, nobody listens.
    let arrived = heard.iter().find(|seen| seen.is(packet));
    if let Some(arrived) = arrived {
        let translation = arrived.translation(packet);
        return translation.map_or(Outcome::Delivered, Outcome::Translated);
    }
    for side in Side::ALL {
        if let Some(left) = seen[side as usize].iter().find(|seen| seen.is(packet)) {
            let translation = left.translation(packet);
            return translation.map_or(Outcome::Left(side), Outcome::Translated);
        }
    }
    let told = match packet.sender {
        Sender::Box => heard,
        Sender::Wire(side) => &seen[side as usize],
    };
    let refusal = told.iter().find_map(|seen| seen.refusal(packet));
    refusal.map_or(Outcome::Gone, Outcome::Refused)
}
