//! Random operations of several clients against a naive model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use registry::{Socket, Way, flags::*};
use shm::{Operation, Request};
use tables::{Kind, Lookup, OwnerId, Side};
use wire::Protocol;

use crate::lab::*;
use crate::list::*;

#[derive(Clone, Debug)]
enum Op {
    Open { udp: bool, port: u16, reuse: bool },
    Assign(usize, usize),
    AssignFlags(usize, usize, Option<usize>, usize),
    Flags(usize, usize),
    Connect(usize, usize),
    Alloc(usize),
    Unassign(usize),
    Close(usize),
    Flow(usize, usize),
    EndFlow(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let n = || any::<usize>();
    // The first of each more often, so that clashes are common.
    let first = |of: usize| prop_oneof![Just(0), 0..of];
    let (foreign, peer) = (first(FOREIGN.len()), first(PEERS.len()));
    let flags = prop_oneof![Just(1), 0..FLAGS.len()];
    prop_oneof![
        3 => (any::<bool>(), 1_u16..5, any::<bool>())
            .prop_map(|(udp, port, reuse)| Op::Open { udp, port, reuse }),
        4 => (n(), foreign.clone()).prop_map(|(s, f)| Op::Assign(s, f)),
        3 => (n(), foreign, proptest::option::of(peer.clone()), flags.clone())
            .prop_map(|(s, f, p, flags)| Op::AssignFlags(s, f, p, flags)),
        5 => (n(), flags).prop_map(|(s, f)| Op::Flags(s, f)),
        3 => (n(), peer.clone()).prop_map(|(s, p)| Op::Connect(s, p)),
        2 => n().prop_map(Op::Alloc),
        1 => n().prop_map(Op::Unassign),
        1 => n().prop_map(Op::Close),
        3 => (n(), peer).prop_map(|(s, p)| Op::Flow(s, p)),
        1 => n().prop_map(Op::EndFlow),
    ]
}

struct Play {
    lab: Lab,
    list: List,
    sockets: Vec<Socket>,
}

impl Play {
    fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        self.lab.now += SECOND / 50;
        if let Op::Open { udp, port, reuse } = *op {
            let proto = if udp { UDP } else { TCP };
            let socket = self.lab.socket(proto, port);
            self.sockets.push(Socket { reuse, ..socket });
            return Ok(());
        }
        if self.sockets.is_empty() {
            return Ok(());
        }
        let pick = |n: usize| n % self.sockets.len();
        match *op {
            Op::Open { .. } => {}
            Op::Assign(s, foreign) => {
                let socket = self.sockets[pick(s)];
                let got = self.lab.assign(&socket, FOREIGN[foreign]);
                prop_assert_eq!(got, self.list.assign(&socket, foreign, None, 0));
            }
            Op::AssignFlags(s, foreign, peer, flags) => {
                let socket = self.sockets[pick(s)];
                let request = assign_flags(FOREIGN[foreign], peer.map(|n| PEERS[n]), FLAGS[flags]);
                let got = self.lab.set(&socket, request);
                prop_assert_eq!(got, self.list.assign(&socket, foreign, peer, flags));
            }
            Op::Flags(s, flags) => {
                let socket = self.sockets[pick(s)];
                let flags = FLAGS[flags];
                let want = self
                    .list
                    .amend(&socket, |l| l.flags = flags & !(MARK | APPLIED));
                prop_assert_eq!(self.lab.flags(&socket, flags), want);
            }
            Op::Connect(s, peer) => {
                let socket = self.sockets[pick(s)];
                let want = self
                    .list
                    .amend(&socket, |l| l.peer = Some(end(at(PEERS[peer]))));
                prop_assert_eq!(self.lab.connect(&socket, PEERS[peer]), want);
            }
            Op::Alloc(s) => self.alloc(self.sockets[pick(s)])?,
            Op::Unassign(s) => {
                let socket = self.sockets[pick(s)];
                prop_assert_eq!(self.lab.unassign(&socket), self.list.end(&socket));
            }
            Op::Close(s) => {
                let socket = self.sockets.swap_remove(pick(s));
                self.lab.close(&socket);
                self.list.end(&socket);
            }
            Op::Flow(s, peer) => self.flow(self.sockets[pick(s)], PEERS[peer]),
            Op::EndFlow(n) => self.end_flow(n),
        }
        self.lab.settle();
        self.list
            .0
            .retain(|line| !line.is_orphan || !line.flows.is_empty());
        self.compare()
    }

    fn alloc(&mut self, socket: Socket) -> Result<(), TestCaseError> {
        let got = self.lab.alloc(&socket);
        let Some(own) = self.list.of(&socket) else {
            prop_assert_eq!(got, ENOENT);
            return Ok(());
        };
        let line = &self.list.0[own];
        if line.is_mark() || line.foreign.port != 0 || !line.is_sound() {
            prop_assert_eq!(got, EINVAL);
            return Ok(());
        }
        prop_assert_eq!(got, 0);
        let chosen = end(self.lab.query(&socket).unwrap());
        prop_assert_eq!(self.list.amend(&socket, |line| line.foreign = chosen), 0);
        let holders = self.list.0.iter().filter(|line| {
            !line.is_orphan && line.foreign == chosen && line.socket.proto == socket.proto
        });
        prop_assert_eq!(holders.count(), 1);
        Ok(())
    }

    /// A worker makes a flow, if no other has its keys.
    fn flow(&mut self, socket: Socket, peer: &str) {
        let Some(own) = self.list.of(&socket) else {
            return;
        };
        let line = &mut self.list.0[own];
        let is_real = line.has(CONNECT) && line.is_fixed() && end(at(peer)).port != 0;
        if !is_real {
            return;
        }
        let (local, foreign) = (socket.local.to_string(), line.foreign.to_string());
        let ways = [
            Way4(Side::Host, &local, peer),
            Way4(Side::Wire, peer, &foreign),
        ];
        let new = tables::NewFlow {
            owner: line.owner,
            ..new_flow(Kind::Connect, socket.proto, ways)
        };
        if let Ok(hit) = self.lab.flows.insert(&new, self.lab.now) {
            line.flows.push((hit, end(at(peer))));
        }
    }

    fn end_flow(&mut self, n: usize) {
        let with_flows = self.list.0.iter_mut().filter(|line| !line.flows.is_empty());
        let lines: Vec<&mut Line> = with_flows.collect();
        let count = lines.len().max(1);
        if let Some((hit, _)) = lines.into_iter().nth(n % count).and_then(|l| l.flows.pop()) {
            self.lab.flows.remove(hit.id, self.lab.now);
        }
    }

    /// What the registry shows, what is diverted and watched, and what workers find.
    fn compare(&mut self) -> Result<(), TestCaseError> {
        self.learn_owners()?;
        let mut diverted = BTreeMap::new();
        let mut watched = BTreeMap::new();
        for line in &self.list.0 {
            let proto = Protocol(line.socket.proto);
            let local = end(line.socket.local);
            if line.diverts_local {
                *diverted.entry((proto, local, Way::Both)).or_insert(0) += 1;
            }
            if line.diverts_foreign {
                *diverted
                    .entry((proto, line.foreign, Way::Inbound))
                    .or_insert(0) += 1;
            }
            prop_assert_eq!(self.lab.flows.owned_by(line.owner), line.flows.len() as u32);
            prop_assert_eq!(self.lab.flows.is_withdrawn(line.owner), line.is_orphan);
            if !line.is_orphan {
                watched.insert(line.socket.cookie, line.shows());
                let peer = line.peer.unwrap_or(end(at("192.0.2.99:9")));
                let found = self.lab.table.owner(proto, local, peer);
                prop_assert!(
                    matches!(found, Lookup::Found(one) if one.owner == line.owner
                    && one.foreign == line.foreign
                    && one.uses.0 == line.flags & (ACTIVE | UNIDIR))
                );
            }
        }
        let live = watched.len();
        let state = self.lab.state();
        prop_assert_eq!(&state.diverted, &diverted);
        prop_assert_eq!(&state.watched, &watched);
        prop_assert_eq!(self.lab.table.counts().0, live);
        let counts = self.lab.registry.counts();
        prop_assert_eq!(counts.live as usize, live);
        prop_assert_eq!(counts.orphaned as usize, self.list.0.len() - live);
        Ok(())
    }

    /// The rows are those of the list; they say which owner each line has.
    fn learn_owners(&mut self) -> Result<(), TestCaseError> {
        let rows = self.lab.registry.rows(self.lab.now);
        prop_assert_eq!(rows.len(), self.list.0.len());
        for line in &mut self.list.0 {
            let mark = if line.is_mark() { MARK } else { 0 };
            let row = rows.iter().find(|row| {
                row.proto.0 == line.socket.proto
                    && row.local == line.socket.local
                    && end(row.foreign) == line.foreign
                    && row.peer.map(end) == line.peer
                    && row.flags & !APPLIED == line.flags | mark
                    && row.is_orphan == line.is_orphan
                    && (line.owner == OwnerId::NOBODY || row.owner == line.owner.0)
                    && row.flows as usize == line.flows.len()
            });
            prop_assert!(row.is_some(), "{:?} among {:?}", line, rows);
            line.owner = row.map_or(OwnerId::NOBODY, |row| OwnerId(row.owner));
        }
        Ok(())
    }

    /// Everything ends; nothing is left.
    fn finish(mut self) -> Result<(), TestCaseError> {
        for socket in std::mem::take(&mut self.sockets) {
            self.lab.close(&socket);
            self.list.end(&socket);
        }
        for line in &mut self.list.0 {
            for (hit, _) in line.flows.drain(..) {
                self.lab.flows.remove(hit.id, self.lab.now);
            }
        }
        self.list.0.clear();
        self.lab.settle();
        self.compare()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_registry_does_as_a_plain_list_would(ops in proptest::collection::vec(op(), 1..80)) {
        let mut play = Play { lab: Lab::new(), list: List::default(), sockets: Vec::new() };
        play.lab.state().are_mute = true;
        for op in &ops {
            play.step(op)?;
        }
        play.finish()?;
    }

    /// Whatever a client asks, in whatever state: an answer, and nothing changed if refused.
    #[test]
    fn nothing_that_is_asked_does_harm(
        asked in proptest::collection::vec((0..9_usize, any::<(bool, u32, u32, u8, u64)>(), any::<[Option<(u32, u16)>; 3]>(), 0..4_usize), 1..40)
    ) {
        let mut lab = Lab::new();
        let sockets = [
            lab.socket(TCP, 5),
            lab.socket(UDP, 6),
            lab.bound(UDP, at("0.0.0.0:7")),
            Socket { peer: Some(at(PEERS[0])), ..lab.socket(TCP, 8) },
        ];
        for (operation, (is_get, flags, version, proto, cookie), ends, socket) in asked {
            let [local, foreign, peer] = ends.map(|end| {
                end.map(|(addr, port)| (std::net::Ipv4Addr::from_bits(addr), port).into())
            });
            let access = if is_get { shm::Access::Get } else { shm::Access::Set };
            let bare = Request::new(Operation::ALL[operation], access, 3);
            let flags = flags & (flags >> 7);
            lab.ask(&sockets[socket], &Request { flags, foreign, peer, ..bare });
            let (proto, cookie) = (proto % 20, cookie % 2);
            lab.ask(&sockets[socket], &Request { flags, version, proto, cookie, local, foreign, peer, ..bare });
        }
    }
}
