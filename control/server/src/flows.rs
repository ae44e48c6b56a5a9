//! Flows: told, counted and killed.
//!
//! A table can hold millions: whoever goes through it lets others run now and then.

use std::net::IpAddr;

use protocol::{Direction, Flow, FlowFilter, FlowKind, FlowState, Path};
use tables::{FlowId, FlowSnapshot, Kind, LaneCounters, Timeouts};
use tokio::task::yield_now;
use wire::Tuple;

use crate::answers::Answers;

/// How many flows are looked at between two chances for others.
const LOOK_AT: usize = 4096;

/// Goes through the flows that match `filter`; `None` when others may run in between.
fn matching<'a>(
    answers: &'a Answers,
    filter: &'a FlowFilter,
) -> Box<dyn Iterator<Item = Option<(FlowId, Flow)>> + Send + 'a> {
    let now_ns = answers.now_ns();
    let timeouts = answers.sources.timeouts;
    let select = move |snapshot: FlowSnapshot| {
        let flow = tell(&snapshot, now_ns, &timeouts);
        filter.matches(&flow).then_some((snapshot.id, flow))
    };
    let flows = &answers.sources.flows;
    if let Some(id) = filter.id {
        let one = flows.snapshot(FlowId::from_bits(id)).and_then(select);
        return Box::new(one.map(Some).into_iter());
    }
    Box::new(flows.iter().enumerate().flat_map(move |(at, snapshot)| {
        let pause = (at % LOOK_AT == LOOK_AT - 1).then_some(None);
        select(snapshot).map(Some).into_iter().chain(pause)
    }))
}

/// The flows that match, for a list. Ask [`FlowPages::next`] until it has no more.
pub(crate) struct FlowPages<'a> {
    flows: Box<dyn Iterator<Item = Option<(FlowId, Flow)>> + Send + 'a>,
}

impl<'a> FlowPages<'a> {
    pub(crate) fn new(answers: &'a Answers, filter: &'a FlowFilter) -> Self {
        Self {
            flows: matching(answers, filter),
        }
    }

    /// The next page: at most `max` flows, and whether there may be more.
    pub(crate) async fn next(&mut self, max: usize) -> (Vec<Flow>, bool) {
        let mut page = Vec::new();
        while page.len() < max {
            match self.flows.next() {
                Some(Some((_, flow))) => page.push(flow),
                Some(None) => yield_now().await,
                None => return (page, false),
            }
        }
        (page, true)
    }
}

/// How many flows match.
pub(crate) async fn count(answers: &Answers, filter: &FlowFilter) -> u64 {
    if filter.is_empty() {
        return answers.sources.flows.counts().live as u64;
    }
    let mut count = 0;
    for flow in matching(answers, filter) {
        match flow {
            Some(_) => count += 1,
            None => yield_now().await,
        }
    }
    count
}

/// Removes the flows that match, and says how many.
pub(crate) async fn kill(answers: &Answers, filter: &FlowFilter) -> u64 {
    let mut count = 0;
    for flow in matching(answers, filter) {
        let Some((id, _)) = flow else {
            yield_now().await;
            continue;
        };
        let killed = answers.sources.flows.remove(id, answers.now_ns());
        count += u64::from(killed.is_some());
    }
    answers.count_killed(count);
    count
}

fn tell(snapshot: &FlowSnapshot, now_ns: u64, timeouts: &Timeouts) -> Flow {
    let FlowSnapshot {
        id,
        flow,
        state,
        orig,
        reply,
    } = snapshot;
    let tuple = flow.orig.tuple();
    Flow {
        id: id.to_bits(),
        proto: tuple.proto.to_string(),
        kind: match flow.kind {
            Kind::Redirect => FlowKind::Redirect,
            Kind::Local => FlowKind::Local,
            Kind::Listen => FlowKind::Listen,
            Kind::Connect => FlowKind::Connect,
        },
        state: tell_state(*state),
        path: match flow.path() {
            tables::Path::Worker => Path::Worker,
        },
        orig: tell_direction(tuple, orig),
        reply: tell_direction(flow.reply.tuple(), reply),
        packets: orig.packets.saturating_add(reply.packets),
        bytes: orig.bytes.saturating_add(reply.bytes),
        age_ns: now_ns.saturating_sub(flow.created_ns),
        idle_ns: now_ns.saturating_sub(snapshot.last_seen_ns()),
        expires_ns: snapshot.expires_ns(timeouts).saturating_sub(now_ns),
        rule_generation: flow.generation,
    }
}

fn tell_direction(tuple: Tuple, lane: &LaneCounters) -> Direction {
    Direction {
        src: IpAddr::V4(tuple.src.addr),
        sport: tuple.src.port,
        dst: IpAddr::V4(tuple.dst.addr),
        dport: tuple.dst.port,
        packets: lane.packets,
        bytes: lane.bytes,
    }
}

const fn tell_state(state: tables::FlowState) -> FlowState {
    match state {
        tables::FlowState::SynSent => FlowState::SynSent,
        tables::FlowState::SynReceived => FlowState::SynReceived,
        tables::FlowState::PickedUp => FlowState::PickedUp,
        tables::FlowState::Established => FlowState::Established,
        tables::FlowState::HalfClosed => FlowState::HalfClosed,
        tables::FlowState::Closing => FlowState::Closing,
        tables::FlowState::Closed => FlowState::Closed,
        tables::FlowState::Unreplied => FlowState::Unreplied,
        tables::FlowState::Replied => FlowState::Replied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_table_s_own() {
        for state in tables::FlowState::ALL {
            assert_eq!(tell_state(state).name(), state.name());
        }
        assert_eq!(FlowState::ALL.len(), tables::FlowState::ALL.len());
        for kind in Kind::ALL {
            assert!(kind.name().parse::<FlowKind>().is_ok(), "{}", kind.name());
        }
    }
}
