//! The same firewall out of our rooms, in memory: rules, policy, pipeline.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arc_swap::ArcSwap;
use pipeline::{
    BATCH, Counters, DropReason, Frames, Ingress, Marks, Pipeline, PortId, PortView, RuleHits,
    Verdict, View,
};
use policy::{RuleId, Zones};
use rules::{Environment, Interface, Ruleset, Sets, compile};
use tables::{FlowTable, Registrations};
use wire::MacAddr;

use crate::kernel::Counts;
use crate::outcome::{Outcome, Seen};
use crate::packet::{FW_INTER, FW_INTRA, Packet, Sender, Side};

const MARKS: Marks = Marks::new([0xa1, 0xb2, 0xc3]);
const NEIGHBOUR: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x99]);
/// The time between two packets.
const STEP_NS: u64 = 1_000_000;

/// A pipeline with one ruleset.
pub struct Ours {
    pipeline: Pipeline,
    counters: Arc<Counters>,
    hits: Arc<RuleHits>,
    /// What counts under a name.
    names: BTreeMap<String, Vec<RuleId>>,
    /// The rules that translate.
    nat_targets: BTreeSet<String>,
    /// Whether the box's own packets come by at all.
    guards: bool,
    macs: [[u8; 6]; 2],
    now_ns: u64,
}

impl Ours {
    /// A firewall with these rules and these hardware addresses.
    pub fn load(text: &str, macs: [[u8; 6]; 2]) -> Result<Self> {
        let (ruleset, _) = Ruleset::parse("made-up", text)?;
        let interfaces = Side::ALL.map(|side| Interface {
            name: side.interface().to_owned(),
            port: PortId(side as u8),
            first_address: Some(side.address()),
        });
        let environment = Environment {
            interfaces: &interfaces,
            sets: &Sets::default(),
            zones: &Arc::new(Zones::none()),
            user: &|_| None,
            group: &|_| None,
        };
        let policy = compile(&ruleset, &environment, 1)?.policy;
        let hits = Arc::new(RuleHits::new(1, policy.rule_count()));
        let guards = policy.guards();
        let port = |side: Side| PortView {
            mac: MacAddr(macs[side as usize]),
            first_address: Some(side.address()),
        };
        let view = View {
            rule_hits: Arc::clone(&hits),
            own: [FW_INTRA, FW_INTER].into_iter().collect(),
            proxies: policy.proxies(),
            policy: policy.into(),
            ports: Side::ALL.map(port).to_vec(),
            marks: MARKS,
            broadcasts: [[192, 168, 1, 255], [198, 51, 100, 255]]
                .map(Ipv4Addr::from)
                .into_iter()
                .collect(),
            listening: Default::default(),
            epoch: false,
            keep_established: false,
        };
        let counters = Arc::<Counters>::default();
        let pipeline = Pipeline::new(
            Arc::new(FlowTable::new(1024, 1, 7)),
            Arc::new(Registrations::new(1, 7)),
            Arc::new(ArcSwap::from_pointee(view)),
            Arc::clone(&counters),
            Arc::default(),
            Arc::default(),
            0,
            42,
        );
        Ok(Ours {
            pipeline,
            counters,
            hits,
            names: names(&ruleset)?,
            nat_targets: nat_targets(&ruleset),
            guards,
            macs,
            now_ns: 1_000_000_000,
        })
    }

    /// What rules have matched, by their comment, and what was left to policies.
    pub fn counts(&self) -> Counts {
        let sum = |ids: &Vec<RuleId>| ids.iter().map(|id| self.hits.read(*id).0).sum();
        let names = self.names.iter();
        names.map(|(name, ids)| (name.clone(), sum(ids))).collect()
    }

    /// Takes packets through in their order, and says what became of each.
    pub fn exchange(&mut self, packets: &[Packet]) -> Result<Vec<Outcome>> {
        let all = packets.iter();
        all.map(|packet| self.carry(packet).with_context(|| format!("{packet:?}")))
            .collect()
    }

    fn carry(&mut self, packet: &Packet) -> Result<Outcome> {
        let is_own = packet.sender == Sender::Box || packet.is_for_box();
        if is_own && !self.guards {
            // Steering leaves it to the kernel.
            return Ok(match packet.sender {
                Sender::Box => Outcome::Left(Side::of(packet.dst)),
                Sender::Wire(_) => Outcome::Delivered,
            });
        }
        let before = self.counts();
        let dropped: Vec<u64> = self.drops();
        let (ingress, frame) = self.frame(packet);
        let mut batch = One(frame);
        let mut verdicts = [Verdict::Drop(DropReason::TxFull); BATCH];
        self.now_ns += STEP_NS;
        self.pipeline
            .process(&mut batch, ingress, self.now_ns, &mut verdicts);
        let reason = DropReason::ALL
            .iter()
            .copied()
            .zip(dropped.iter().zip(self.drops()))
            .find(|(_, (before, after))| *before < after)
            .map(|(reason, _)| reason);
        if reason == Some(DropReason::NotTranslated) {
            return self.translation(&before);
        }
        let came = batch.0.get(14..).and_then(Seen::parse).context("no IPv4")?;
        let is_back = came.refusal(packet);
        match (verdicts[0], is_back) {
            (Verdict::Drop(_), _) if !is_own && reason.is_some_and(may_be_forwarded) => {
                Ok(Outcome::Left(Side::of(packet.dst)))
            }
            (Verdict::Drop(_), _) => Ok(Outcome::Gone),
            (verdict, Some(refusal)) => {
                let to_sender = match packet.sender {
                    Sender::Box => Verdict::Host,
                    Sender::Wire(side) => Verdict::Wire(PortId(side as u8)),
                };
                ensure!(verdict == to_sender, "a refusal goes astray: {verdict:?}");
                Ok(Outcome::Refused(refusal))
            }
            (Verdict::Host, None) => {
                ensure!(packet.sender != Sender::Box, "it went round");
                self.same(packet, &batch.0)?;
                Ok(Outcome::Delivered)
            }
            (Verdict::Wire(port), None) => {
                ensure!(packet.sender == Sender::Box, "from wire to wire");
                self.same(packet, &batch.0)?;
                Ok(Outcome::Left(Side::ALL[usize::from(port.0)]))
            }
        }
    }

    /// Nothing was to be changed in it.
    fn same(&self, packet: &Packet, frame: &[u8]) -> Result<()> {
        ensure!(frame.get(14..) == Some(&packet.bytes()), "it was changed");
        Ok(())
    }

    fn frame(&self, packet: &Packet) -> (Ingress, Vec<u8>) {
        match packet.sender {
            Sender::Wire(side) => (
                Ingress::Port(PortId(side as u8)),
                packet.frame(self.macs[side as usize], packet.mac),
            ),
            Sender::Box => {
                let port = PortId(Side::of(packet.dst) as u8);
                let frame = packet.frame(NEIGHBOUR.0, MARKS.from_box(port).0);
                (Ingress::HostPort, frame)
            }
        }
    }

    fn drops(&self) -> Vec<u64> {
        let all = DropReason::ALL.iter();
        all.map(|reason| self.counters.drops(*reason)).collect()
    }

    /// The number of the nat target that has just counted.
    fn translation(&self, before: &Counts) -> Result<Outcome> {
        let after = self.counts();
        let grown = |name: &&String| after.get(*name) != before.get(*name);
        let took: Vec<&String> = self.nat_targets.iter().filter(grown).collect();
        let [one] = took.as_slice() else {
            bail!("not one nat target took it: {took:?}");
        };
        let number = one.trim_start_matches('r').parse();
        Ok(Outcome::Translated(number.context("a rule's comment")?))
    }
}

/// Whether transit is dropped for this reason though FORWARD lets it pass.
fn may_be_forwarded(reason: DropReason) -> bool {
    use DropReason::{IcmpNoFlow, NoFlow, NotForwarded};
    matches!(reason, NotForwarded | NoFlow | IcmpNoFlow)
}

/// A batch of one.
struct One(Vec<u8>);

impl Frames for One {
    fn len(&self) -> usize {
        1
    }

    fn bytes(&mut self, _: usize) -> &mut [u8] {
        &mut self.0
    }

    fn shorten(&mut self, _: usize, len: usize) {
        self.0.truncate(len);
    }

    fn lengthen(&mut self, _: usize, len: usize) {
        self.0.resize(len, 0);
    }
}

/// The rules that bear a comment, and the policies of built-in chains.
fn names(ruleset: &Ruleset) -> Result<BTreeMap<String, Vec<RuleId>>> {
    let mut names: BTreeMap<String, Vec<RuleId>> = BTreeMap::new();
    for row in ruleset.rows() {
        if let Some((_, after)) = row.text.split_once("--comment ") {
            let name = after.split(' ').next().context("no comment")?;
            let name = name.trim_matches('"').to_owned();
            names.entry(name).or_default().push(row.id);
        }
    }
    for chain in ruleset.chains() {
        if let (Some(_), Some(id)) = (chain.policy, chain.policy_id) {
            let name = format!("{} {}", chain.table, chain.chain);
            names.entry(name).or_default().push(id);
        }
    }
    Ok(names)
}

/// The comments of rules that translate.
fn nat_targets(ruleset: &Ruleset) -> BTreeSet<String> {
    const TARGETS: [&str; 5] = ["DNAT", "SNAT", "REDIRECT", "MASQUERADE", "NETMAP"];
    let names = ruleset.rows().filter_map(|row| {
        let (_, after) = row.text.split_once("--comment ")?;
        let name = after.split(' ').next()?.trim_matches('"');
        TARGETS
            .contains(&row.target.as_str())
            .then(|| name.to_owned())
    });
    names.collect()
}
