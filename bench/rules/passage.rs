//! The whole way of first packets: frames in batches through a worker's pipeline, each of which
//! makes a flow in the flow table.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arc_swap::ArcSwap;
use etherparse::{PacketBuilder, TcpHeader};
use fastrand::Rng;
use pipeline::{
    BATCH, Counters, DropReason, Event, Frames, Ingress, Logs, Marks, Pipeline, PortView, RuleHits,
    Verdict, View,
};
use policy::{Packet, Policy, PortId};
use tables::{FlowTable, Registrations};
use wire::MacAddr;

use crate::rulesets::{PORTS, Shape, own_address};
use crate::ways::Way;

/// Ethernet, IPv4 and TCP without options.
const SYN_BYTES: usize = 54;
/// How far frames are from each other.
const CHUNK_BYTES: usize = 2048;
/// One packet comes after another.
const PACKET_NS: u64 = 1000;
/// One round comes after another: flows' places have rested, and limits are full again.
const ROUND_NS: u64 = 10_000_000_000;

/// The flow table, and what time it is there.
pub struct Table {
    flows: Arc<FlowTable>,
    now_ns: u64,
}

impl Table {
    pub fn new(capacity: usize) -> Self {
        Self {
            flows: Arc::new(FlowTable::new(capacity, 1, 7)),
            now_ns: ROUND_NS,
        }
    }

    /// Removes all flows, and says how many there were.
    fn clear(&mut self) -> usize {
        let ids: Vec<_> = self.flows.iter().map(|flow| flow.id).collect();
        let gone = ids
            .iter()
            .filter_map(|id| self.flows.remove(*id, self.now_ns));
        let gone = gone.count();
        self.now_ns += ROUND_NS;
        gone
    }
}

/// SYNs that came in together.
struct Batch {
    port: PortId,
    frames: Vec<[u8; SYN_BYTES]>,
}

/// Where frames lie while the pipeline has them.
struct Region {
    bytes: Vec<u8>,
    lens: [usize; BATCH],
    count: usize,
}

impl Region {
    fn new() -> Self {
        Self {
            bytes: vec![0; BATCH * CHUNK_BYTES],
            lens: [0; BATCH],
            count: 0,
        }
    }

    fn receive(&mut self, batch: &Batch) {
        self.count = batch.frames.len();
        for (frame, (chunk, len)) in std::iter::zip(
            &batch.frames,
            std::iter::zip(self.bytes.chunks_mut(CHUNK_BYTES), &mut self.lens),
        ) {
            *len = frame.len();
            chunk[..frame.len()].copy_from_slice(frame);
        }
    }
}

impl Frames for Region {
    fn len(&self) -> usize {
        self.count
    }

    fn bytes(&mut self, at: usize) -> &mut [u8] {
        let start = at * CHUNK_BYTES;
        &mut self.bytes[start..start + self.lens[at]]
    }

    fn shorten(&mut self, at: usize, len: usize) {
        self.lens[at] = len;
    }

    fn lengthen(&mut self, at: usize, len: usize) {
        self.lens[at] = len.min(CHUNK_BYTES);
    }
}

/// A worker's pipeline with rules, and first packets that these let through.
pub struct Passage {
    pipeline: Pipeline,
    counters: Arc<Counters>,
    logs: Arc<Logs>,
    batches: Vec<Batch>,
    region: Region,
    packets: u32,
}

impl Passage {
    /// So many rules of a shape, and so many packets.
    pub fn new(table: &Table, shape: Shape, way: Way, of: (u32, u32)) -> Result<Self> {
        let policy = Policy::new(way.program(shape, of.0)).context(shape.name())?;
        let packets = way.packets(shape, &policy, of)?;
        let counters = Arc::<Counters>::default();
        let logs = Arc::<Logs>::default();
        let pipeline = Pipeline::new(
            Arc::clone(&table.flows),
            Arc::new(Registrations::new(8, 7)),
            Arc::new(ArcSwap::from_pointee(view(policy))),
            Arc::clone(&counters),
            Arc::default(),
            Arc::clone(&logs),
            0,
            42,
        );
        Ok(Self {
            pipeline,
            counters,
            logs,
            batches: batches(&packets)?,
            region: Region::new(),
            packets: of.1,
        })
    }

    /// Nanoseconds for each new flow.
    pub fn pass(&mut self, table: &mut Table) -> Result<f64> {
        let made = self.made();
        let mut spent = Duration::ZERO;
        let mut verdicts = [Verdict::Drop(DropReason::TxFull); BATCH];
        for batch in &self.batches {
            self.region.receive(batch);
            table.now_ns += PACKET_NS * batch.frames.len() as u64;
            let ingress = Ingress::Port(batch.port);
            let begun = Instant::now();
            carry_first_packets(
                &mut self.pipeline,
                &mut self.region,
                (ingress, table.now_ns),
                &mut verdicts,
            );
            spent += begun.elapsed();
            black_box(&verdicts);
        }
        // The control thread would write them down meanwhile.
        while self.logs.take().is_some() {}
        let (made, gone) = (self.made() - made, table.clear());
        let wanted = self.packets as usize;
        ensure!(
            made == wanted as u64 && gone == wanted,
            "{wanted} first packets made {made} flows, of which the table had {gone}"
        );
        Ok(spent.as_secs_f64() * 1e9 / f64::from(self.packets))
    }

    fn made(&self) -> u64 {
        self.counters.events(Event::Redirected) + self.counters.events(Event::Local)
    }
}

/// All that is measured. Instructions are counted from outside, by this name.
#[inline(never)]
fn carry_first_packets(
    pipeline: &mut Pipeline,
    region: &mut Region,
    (ingress, now_ns): (Ingress, u64),
    verdicts: &mut [Verdict; BATCH],
) {
    pipeline.process(region, ingress, now_ns, verdicts);
}

fn ports() -> impl Iterator<Item = PortId> {
    (0..PORTS as u8).map(PortId)
}

const fn mac(port: PortId) -> MacAddr {
    MacAddr([2, 0xff, 0, 0, 0, port.0])
}

fn view(policy: Policy) -> View {
    View {
        rule_hits: Arc::new(RuleHits::new(1, policy.rule_count())),
        own: ports().map(own_address).collect(),
        proxies: policy.proxies(),
        policy: policy.into(),
        ports: ports()
            .map(|port| PortView {
                mac: mac(port),
                first_address: Some(own_address(port)),
            })
            .collect(),
        marks: Marks::new([0xa1, 0xb2, 0xc3]),
        broadcasts: Default::default(),
        listening: Default::default(),
        keep_established: false,
        epoch: false,
    }
}

/// Packets of one port come together, as many as there can be; the ports come in no order.
fn batches(packets: &[Packet]) -> Result<Vec<Batch>> {
    let mut all = Vec::new();
    for port in ports() {
        let of_port = packets.iter().filter(|one| one.in_port == Some(port));
        let frames: Vec<_> = of_port.map(|one| syn(one, port)).collect::<Result<_>>()?;
        all.extend(frames.chunks(BATCH).map(|frames| Batch {
            port,
            frames: frames.to_vec(),
        }));
    }
    Rng::with_seed(13).shuffle(&mut all);
    Ok(all)
}

fn syn(packet: &Packet, port: PortId) -> Result<[u8; SYN_BYTES]> {
    let (src, dst) = (packet.tuple.src, packet.tuple.dst);
    let sender = packet.source_mac.context("a packet without a sender")?;
    let mut tcp = TcpHeader::new(src.port, dst.port, 1000, 0xffff);
    tcp.syn = true;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(sender, mac(port).0)
        .ipv4(src.addr.octets(), dst.addr.octets(), 64)
        .tcp_header(tcp)
        .write(&mut frame, &[])?;
    frame
        .as_slice()
        .try_into()
        .context("a SYN of another length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_makes_a_flow_on_every_way() {
        let mut table = Table::new(4096);
        for shape in Shape::ALL {
            for way in Way::of(shape) {
                for rules in [10, 300] {
                    let mut passage = Passage::new(&table, shape, *way, (rules, 200)).unwrap();
                    for _ in 0..2 {
                        let ns = passage.pass(&mut table).unwrap();
                        assert!(ns > 0.0, "{shape:?} {way:?}");
                    }
                }
            }
        }
    }

    /// A table that is too small refuses flows, and that is told. Six of a hundred places are kept
    /// for flows that the box begins.
    #[test]
    fn a_round_that_makes_fewer_flows_fails() {
        let mut table = Table::new(100);
        let mut passage = Passage::new(&table, Shape::Hosts, Way::Led, (10, 200)).unwrap();
        let failed = passage.pass(&mut table).unwrap_err().to_string();
        assert!(failed.starts_with("200 first packets made "), "{failed}");
    }
}
