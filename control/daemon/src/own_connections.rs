//! Connections that the box had opened before anybody looked at its packets: known from then on as
//! what they are, so that their answers are answers.

use std::collections::HashSet;

use pipeline::View;
use sockets::Connection;
use tables::{FlowKey, FlowTable, Kind, NewFlow, OwnerId, Side};
use wire::{Endpoint, Protocol, Tuple};
use xdp_prog::EndpointMap;

/// Makes flows of the box's own open connections. What others have opened to it comes in again by
/// the rules, as nobody can tell that they would have let it in.
pub fn adopt(flows: &FlowTable, view: &View, registered: &EndpointMap) {
    let found =
        sockets::connections().and_then(|open| Ok((open, sockets::listening(&[Protocol::TCP.0])?)));
    let (open, listeners) = match found {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "the kernel does not tell of open connections: their answers count as new");
            return;
        }
    };
    let served: HashSet<u16> = listeners.iter().map(|one| one.local.port()).collect();
    let now_ns = worker::monotonic_ns();
    let mut count = 0;
    for Connection { proto, local, peer } in open {
        let is_served = proto == Protocol::TCP.0 && served.contains(&local.port());
        let leaves = view.own.contains(local.ip()) && !view.own.contains(peer.ip());
        let is_proxys = view.proxies.iter().any(|set| {
            set.addr == *local.ip()
                && (set.proto.0 == 0 || set.proto.0 == proto)
                && set.ports.contains(&local.port())
        });
        // What a registered socket has begun may have been translated.
        let is_registered = registered.has(proto, local).unwrap_or(true);
        if is_served || !leaves || is_proxys || is_registered || peer.ip().is_loopback() {
            continue;
        }
        let tuple = Tuple {
            proto: Protocol(proto),
            src: Endpoint::new(*local.ip(), local.port()),
            dst: Endpoint::new(*peer.ip(), peer.port()),
        };
        let new = NewFlow {
            orig: FlowKey::new(Side::Host, &tuple),
            reply: FlowKey::new(Side::Wire, &tuple.reversed()),
            kind: Kind::Local,
            generation: view.policy.generation(),
            owner: OwnerId::NOBODY,
        };
        // One that is known is known better than from here.
        count += usize::from(flows.adopt(&new, now_ns).is_ok());
    }
    if count > 0 {
        tracing::info!(count, "open connections of the box are known");
    }
}
