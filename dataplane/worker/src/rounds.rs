//! The loop.

use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pipeline::{BATCH, DropReason, Ingress, Pipeline, Verdict};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};
use xsk::{BindMode, Error, Frame, Lane, LaneConfig, Region};

use crate::frames::RingFrames;
use crate::stats::{MAX_FRAMES, WorkerStats};

/// Entries of each ring at most.
const MAX_RING: u32 = 2048;
/// How long an idle worker sleeps before it looks whether it shall stop.
const IDLE_WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// How long it sleeps while the kernel still has frames to give back.
const PENDING_WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};
/// How often the kernel's own counters are read.
const RING_COUNTS_EVERY_NS: u64 = 1_000_000_000;

/// The time that the dataplane runs by: nanoseconds of the monotonic clock.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(now.tv_nsec as u64)
}

/// One queue of one interface for a worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LaneSpec {
    /// Which port the interface is.
    pub ingress: Ingress,
    /// The interface's name.
    pub interface: String,
    /// The queue.
    pub queue: u32,
    /// Whether the driver reads and writes the region itself; [`xsk::supports_zero_copy`] says
    /// whether it can.
    pub zero_copy: bool,
}

/// What a worker is made of.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The core to run on.
    pub core: Option<usize>,
    /// Never sleep.
    pub busy: bool,
    /// Frames of its memory region, 2^21 - 1 at most.
    pub frames: NonZeroU32,
    /// Its queues, the host port's among them.
    pub lanes: Vec<LaneSpec>,
}

/// A worker with its sockets open.
pub struct Worker {
    region: Region,
    lanes: Vec<OpenLane>,
    /// The lane that sends by a port, by the port's number.
    wire_lanes: Vec<Option<usize>>,
    host_lane: Option<usize>,
    pipeline: Pipeline,
    stats: Arc<WorkerStats>,
    busy: bool,
    batch: Vec<Frame>,
    ring_counts_due_ns: u64,
}

struct OpenLane {
    spec: LaneSpec,
    lane: Lane,
    /// The interface has gone; not polled any more, since poll would return at once.
    is_dead: bool,
}

impl Worker {
    /// Opens a region and a socket for each lane, in this thread's network namespace.
    ///
    /// # Errors
    /// [`Error`] of the first socket that cannot be opened; nothing stays open then.
    pub fn open(config: &WorkerConfig, pipeline: Pipeline) -> Result<Self, Error> {
        let frames = config
            .frames
            .min(NonZeroU32::new(MAX_FRAMES).unwrap_or(NonZeroU32::MIN));
        let count = config.lanes.len().max(1) as u32;
        // A third of the frames stays out of the fill rings, to be on the way out.
        let share = frames.get() / (count * 3) * 2;
        let ring = share.next_power_of_two().clamp(64, MAX_RING);
        let mut region = Region::new(frames, ring)?;
        let mut lanes = Vec::with_capacity(config.lanes.len());
        for spec in &config.lanes {
            let lane = LaneConfig {
                interface: &spec.interface,
                queue: spec.queue,
                ring,
                fill: share.min(ring),
                mode: if spec.zero_copy {
                    BindMode::ZeroCopy
                } else {
                    BindMode::Copy
                },
            };
            let lane = Lane::open(&mut region, &lane)?;
            lanes.push(OpenLane {
                spec: spec.clone(),
                lane,
                is_dead: false,
            });
        }
        let names = lanes
            .iter()
            .map(|l| (l.spec.ingress, l.spec.queue, l.lane.mode()));
        let stats = Arc::new(WorkerStats::new(config.core, frames.get(), names));
        stats.publish_ledger(region.ledger(lanes.iter().map(|l| &l.lane)));
        let lane_of = |ingress| {
            lanes
                .iter()
                .position(|l: &OpenLane| l.spec.ingress == ingress)
        };
        let wire_lanes = (0..=u8::MAX)
            .map(|id| lane_of(Ingress::Port(pipeline::PortId(id))))
            .collect();
        let host_lane = lane_of(Ingress::HostPort);
        Ok(Self {
            region,
            wire_lanes,
            host_lane,
            lanes,
            pipeline,
            stats,
            busy: config.busy,
            batch: Vec::with_capacity(BATCH),
            ring_counts_due_ns: 0,
        })
    }

    /// What the worker shows of itself.
    #[must_use]
    pub fn stats(&self) -> Arc<WorkerStats> {
        Arc::clone(&self.stats)
    }

    /// The sockets, to be put where the steering programs find them.
    pub fn sockets(&self) -> impl Iterator<Item = (&LaneSpec, BorrowedFd<'_>)> {
        self.lanes
            .iter()
            .map(|open| (&open.spec, open.lane.as_fd()))
    }

    /// Runs until `stop`, on the configured core.
    pub fn run(mut self, stop: &AtomicBool) {
        if let Some(id) = self.stats.core()
            && !core_affinity::set_for_current(core_affinity::CoreId { id })
        {
            tracing::warn!(
                core = id,
                "cannot pin the worker; it runs where the system puts it"
            );
        }
        while !stop.load(Relaxed) {
            let now_ns = monotonic_ns();
            let mut moved = 0;
            for at in 0..self.lanes.len() {
                moved += self.serve(at, now_ns);
            }
            let is_pending = self.settle(now_ns);
            let waits = moved == 0 && !self.busy;
            self.stats.count_round(waits);
            if waits {
                self.wait(is_pending);
            }
        }
    }

    /// Takes one lane's batch through the pipeline and puts each frame where it belongs.
    fn serve(&mut self, at: usize, now_ns: u64) -> usize {
        let Some(open) = self.lanes.get_mut(at) else {
            return 0;
        };
        let taken = open.lane.take(&mut self.batch, BATCH);
        if taken == 0 {
            return 0;
        }
        let ingress = open.spec.ingress;
        self.stats.count_received(at, taken);
        let mut verdicts = [Verdict::Drop(DropReason::Truncated); BATCH];
        let mut frames = RingFrames {
            region: &self.region,
            frames: &mut self.batch,
        };
        self.pipeline
            .process(&mut frames, ingress, now_ns, &mut verdicts);
        for (frame, verdict) in self.batch.drain(..).zip(verdicts) {
            let to = match verdict {
                Verdict::Wire(port) => self.wire_lanes.get(usize::from(port.0)).copied().flatten(),
                Verdict::Host => self.host_lane,
                Verdict::Drop(_) => {
                    self.region.put(frame);
                    continue;
                }
            };
            let refused = match to.and_then(|to| self.lanes.get_mut(to).map(|lane| (to, lane))) {
                Some((to, open)) => open
                    .lane
                    .put(frame)
                    .map(|()| self.stats.count_sent(to))
                    .err(),
                None => Some(frame),
            };
            if let Some(frame) = refused {
                self.pipeline.counters().count_drop(DropReason::TxFull);
                self.region.put(frame);
            }
        }
        taken
    }

    /// Ends a round: everything published, sent frames taken back, fill rings full again.
    /// Says whether the kernel still has frames to send or to give back.
    fn settle(&mut self, now_ns: u64) -> bool {
        let mut is_pending = false;
        for open in self.lanes.iter_mut().filter(|open| !open.is_dead) {
            if let Err(error) = open.lane.publish() {
                open.is_dead = true;
                tracing::error!(interface = open.spec.interface, %error, "port lost");
            }
        }
        for open in &mut self.lanes {
            open.lane.reap(&mut self.region);
            open.lane.refill(&mut self.region);
            is_pending |= open.lane.sending() > 0 && !open.is_dead;
        }
        self.stats
            .publish_ledger(self.region.ledger(self.lanes.iter().map(|l| &l.lane)));
        if now_ns >= self.ring_counts_due_ns {
            self.ring_counts_due_ns = now_ns + RING_COUNTS_EVERY_NS;
            for (at, open) in self.lanes.iter().enumerate() {
                if let Ok(counts) = open.lane.counts() {
                    self.stats.publish_ring(at, counts);
                }
            }
        }
        is_pending
    }

    /// Sleeps until a frame comes, or for a while.
    fn wait(&mut self, is_pending: bool) {
        let timeout = if is_pending { PENDING_WAIT } else { IDLE_WAIT };
        let lanes = self.lanes.iter().filter(|open| !open.is_dead);
        let mut fds: Vec<PollFd<'_>> = lanes
            .map(|open| PollFd::new(&open.lane, PollFlags::IN))
            .collect();
        // An interrupted wait is as good as any: the loop looks again.
        let _ = poll(&mut fds, Some(&timeout));
        let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        let dead: Vec<bool> = fds.iter().map(|fd| fd.revents().intersects(gone)).collect();
        let lanes = self.lanes.iter_mut().filter(|open| !open.is_dead);
        for (open, _) in lanes.zip(dead).filter(|(_, dead)| *dead) {
            open.is_dead = true;
            tracing::error!(
                interface = open.spec.interface,
                "port lost: the interface is gone"
            );
        }
    }
}
