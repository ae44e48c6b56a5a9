//! Who counts as a user of an endpoint, and what is refused.

use std::net::{Ipv4Addr, SocketAddrV4};

use xdp_prog::Direction::{self, Both, Inbound, Outbound};
use xdp_prog::{EndpointMap, Endpoints, Error, PortProgram};

use crate::fixture::*;
use crate::{DIVERT, PASS, at, bench, leaves, of, to};

/// Whether the endpoint is diverted on its way in and out.
fn seen(bench: &Bench, port: u16) -> (bool, bool) {
    let inbound = bench.steer(&to(OWN, UDP, port, 0));
    assert!(inbound == DIVERT || inbound == PASS, "{inbound:?}");
    let outbound = !leaves(bench, &leaving(OWN, UDP, port, 0));
    (inbound == DIVERT, outbound)
}

#[test]
fn each_direction_stays_until_its_last_user_goes() {
    let (mut endpoints, bench) = of(UDP, 5000, Both);
    let steps: [(bool, Direction, (bool, bool)); 8] = [
        (true, Both, (true, true)),
        (true, Inbound, (true, true)),
        (false, Both, (true, true)),
        (false, Both, (true, false)),
        (true, Outbound, (true, true)),
        (false, Inbound, (false, true)),
        (true, Inbound, (true, true)),
        (false, Both, (false, false)),
    ];
    for (step, (comes, direction, want)) in steps.into_iter().enumerate() {
        if comes {
            endpoints.divert(UDP, at(5000), direction).unwrap();
        } else {
            endpoints.release(UDP, at(5000), direction).unwrap();
        }
        assert_eq!(seen(&bench, 5000), want, "step {step}");
        assert_eq!(endpoints.len(), usize::from(want != (false, false)));
    }
    assert!(endpoints.is_empty());
    // Nor is there a marker.
    assert_eq!(bench.steer(&to(OWN, UDP, 1, 185)), PASS);
    assert!(leaves(&bench, &leaving(OWN, UDP, 1, 185)));
}

#[test]
fn nobody_releases_what_nobody_diverts() {
    let (mut endpoints, bench) = of(UDP, 5000, Inbound);
    for (proto, port, direction) in [
        (UDP, 5000, Both),
        (UDP, 5000, Outbound),
        (UDP, 5001, Inbound),
        (TCP, 5000, Inbound),
    ] {
        let error = endpoints.release(proto, at(port), direction).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(&at(port).to_string()), "{said}");
        assert!(said.contains("not diverted"), "{said}");
    }
    assert_eq!(seen(&bench, 5000), (true, false));
    assert_eq!(endpoints.len(), 1);
}

#[test]
fn what_is_no_endpoint_is_refused() {
    let mut endpoints = Endpoints::create(4).unwrap();
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 5000);
    for (proto, at) in [(UDP, at(0)), (UDP, any), (ICMP, at(1)), (0, at(1))] {
        let refused = endpoints.divert(proto, at, Both).unwrap_err();
        assert!(matches!(refused, Error::Invalid { .. }), "{refused:?}");
        assert!(refused.to_string().contains(&at.to_string()), "{refused}");
        endpoints.release(proto, at, Both).unwrap_err();
    }
    assert!(endpoints.is_empty());
}

#[test]
fn one_too_many_is_refused_by_name_and_changes_nothing() {
    let mut endpoints = Endpoints::create(3).unwrap();
    let bench = bench(&endpoints);
    // Each of its own address, so that each has a marker as well.
    let far = |n| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, n), 1000);
    for n in 0..3 {
        endpoints.divert(UDP, far(n), Both).unwrap();
    }
    let error = endpoints.divert(UDP, at(5000), Both).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooMany {
                asked: 4,
                most: 3,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("192.168.1.1:5000"), "{error}");
    assert_eq!(seen(&bench, 5000), (false, false));
    assert_eq!(bench.steer(&to(OWN, UDP, 1, 185)), PASS);
    endpoints.divert(UDP, far(0), Both).unwrap();
    endpoints.release(UDP, far(1), Both).unwrap();
    endpoints.divert(UDP, at(5000), Both).unwrap();
    assert_eq!(seen(&bench, 5000), (true, true));
    Endpoints::create(u32::MAX).unwrap_err();
}

#[test]
fn fifty_thousand_come_and_go() {
    let mut endpoints = Endpoints::create(50_000).unwrap();
    let bench = bench(&endpoints);
    for round in 0..2 {
        for port in 10_000..60_000 {
            endpoints.divert(UDP, at(port), Both).unwrap();
        }
        assert_eq!(endpoints.len(), 50_000);
        assert_eq!(seen(&bench, 10_000), (true, true), "{round}");
        assert_eq!(seen(&bench, 59_999), (true, true));
        for port in 10_000..60_000 {
            endpoints.release(UDP, at(port), Both).unwrap();
        }
        assert!(endpoints.is_empty());
        assert_eq!(seen(&bench, 59_999), (false, false));
        assert_eq!(bench.steer(&to(OWN, UDP, 1, 185)), PASS);
    }
}

#[test]
fn they_go_to_other_threads() {
    fn goes<T: Send + 'static>(_: &T) {}
    fn is_shared<T: Clone + Sync>(_: &T) {}
    let endpoints = Endpoints::create(1).unwrap();
    let map: EndpointMap = endpoints.map();
    goes(&endpoints);
    goes(&map);
    is_shared(&map);
    let sockets = no_sockets();
    is_shared(&sockets);
    goes(&sockets);
    std::thread::spawn(move || PortProgram::load(&config(), &map, &sockets).map(drop))
        .join()
        .unwrap()
        .unwrap();
}
