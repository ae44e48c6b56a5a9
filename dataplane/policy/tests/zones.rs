//! Zones: who belongs where, and who may reach whom with what.

use std::net::Ipv4Addr;

use policy::{PortId, ServiceSpec, ZoneDenial, ZoneError, ZoneId, ZoneSpec, Zones};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use wire::Endpoint;

fn zone(name: &str) -> ZoneSpec {
    ZoneSpec {
        name: name.into(),
        ..ZoneSpec::default()
    }
}

fn net(a: u8, b: u8, bits: u8) -> (Ipv4Addr, u8) {
    (Ipv4Addr::new(a, b, 0, 0), bits)
}

fn at(port: u16) -> Endpoint {
    Endpoint::new(Ipv4Addr::new(10, 0, 0, 1), port)
}

fn service(name: &str, port: u16) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        proxy: at(port),
    }
}

fn list(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

/// The worked example: intra may use all, inter offers all, and nobody comes in.
fn example() -> Zones {
    let intra = ZoneSpec {
        networks: vec![net(192, 168, 16)],
        inbound: list(&[]),
        outbound: list(&["*"]),
        ..zone("intra")
    };
    let staff = ZoneSpec {
        networks: vec![(Ipv4Addr::new(192, 168, 7, 0), 24)],
        parent: Some(0),
        outbound: list(&["http"]),
        ..zone("staff")
    };
    let inter = ZoneSpec {
        networks: vec![net(0, 0, 0)],
        inbound: list(&["*"]),
        outbound: list(&[]),
        ..zone("inter")
    };
    let services = vec![service("http", 50080), service("ftp", 50021)];
    Zones::new(vec![intra, staff, inter], services).unwrap()
}

#[test]
fn the_worked_example_lets_inside_out_and_nobody_in() {
    let zones = example();
    let (inside, staff) = (Ipv4Addr::new(192, 168, 1, 9), Ipv4Addr::new(192, 168, 7, 9));
    let outside = Ipv4Addr::new(198, 51, 100, 1);
    let judge = |src, dst, port| zones.judge(src, None, dst, at(port));
    assert_eq!(judge(inside, outside, 50080), Ok(()));
    assert_eq!(judge(inside, outside, 50021), Ok(()));
    // A proxy without a service needs "*" on both sides.
    assert_eq!(judge(inside, outside, 1), Ok(()));
    assert_eq!(judge(staff, outside, 50080), Ok(()));
    let id = |name| zones.zone_named(name);
    let denied = |from, to, service| Err(ZoneDenial { from, to, service });
    assert_eq!(
        judge(staff, outside, 50021),
        denied(id("staff"), id("inter"), zones.service_of(at(50021)))
    );
    assert_eq!(
        judge(staff, outside, 1),
        denied(id("staff"), id("inter"), None)
    );
    assert_eq!(
        judge(outside, inside, 50080),
        denied(id("inter"), id("intra"), zones.service_of(at(50080)))
    );
    // The list of the staff's zone for what comes in is its parent's.
    assert!(judge(inside, staff, 50080).is_err());
    assert_eq!(
        zones.service_name(zones.service_of(at(50021)).unwrap()),
        "ftp"
    );
    let names: Vec<_> = zones.names().map(|(id, name)| (id.0, name)).collect();
    assert_eq!(names, [(0, "intra"), (1, "staff"), (2, "inter")]);
    assert_eq!(zones.name(ZoneId(1)), "staff");
    assert_eq!((zones.name(ZoneId(9)), zones.zone_named("dmz")), ("", None));
}

#[test]
fn a_port_gives_the_zone_of_what_no_network_claims() {
    let zones = Zones::new(
        vec![
            ZoneSpec {
                networks: vec![net(10, 0, 8)],
                ..zone("ten")
            },
            ZoneSpec {
                ports: vec![PortId(2)],
                ..zone("wire")
            },
        ],
        vec![],
    )
    .unwrap();
    let of = |addr: [u8; 4], port: Option<u8>| zones.zone_of(addr.into(), port.map(PortId));
    assert_eq!(of([10, 1, 1, 1], Some(2)), Some(ZoneId(0)));
    assert_eq!(of([11, 1, 1, 1], Some(2)), Some(ZoneId(1)));
    assert_eq!(of([11, 1, 1, 1], Some(1)), None);
    assert_eq!(of([11, 1, 1, 1], None), None);
}

#[test]
fn a_zone_of_interfaces_alone_is_no_destination() {
    let outer = ZoneSpec {
        inbound: list(&["*"]),
        ..zone("outer")
    };
    let inner = ZoneSpec {
        networks: vec![net(10, 1, 16)],
        parent: Some(0),
        ..zone("inner")
    };
    let wire = ZoneSpec {
        ports: vec![PortId(1)],
        inbound: list(&[]),
        ..zone("wire")
    };
    let cable = ZoneSpec {
        ports: vec![PortId(2)],
        parent: Some(2),
        ..zone("cable")
    };
    let zones = Zones::new(vec![outer, inner, wire, cable], Vec::new()).unwrap();
    let have: Vec<bool> = (0..4).map(|n| zones.has_networks(ZoneId(n))).collect();
    assert_eq!(have, [true, true, false, false]);
    let unreachable: Vec<&str> = zones.unreachable_as_destination().collect();
    assert_eq!(unreachable, ["wire"]);
    assert_eq!(example().unreachable_as_destination().count(), 0);
}

#[test]
fn without_zones_everything_is_allowed() {
    let zones = Zones::none();
    let any = Ipv4Addr::new(1, 2, 3, 4);
    assert_eq!(zones.judge(any, Some(PortId(0)), any, at(1)), Ok(()));
    assert_eq!(zones.zone_of(any, Some(PortId(0))), None);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let made = |zones, services| Zones::new(zones, services).map(|_| ());
    let child = |name: &str, parent| ZoneSpec {
        parent: Some(parent),
        ..zone(name)
    };
    let with = |name: &str, networks| ZoneSpec {
        networks,
        ..zone(name)
    };
    assert_eq!(
        made(vec![zone("a"), zone("a")], vec![]),
        Err(ZoneError::NameTwice("a".into()))
    );
    assert_eq!(
        made(vec![], vec![service("s", 1), service("s", 2)]),
        Err(ZoneError::NameTwice("s".into()))
    );
    assert_eq!(
        made(vec![], vec![service("s", 1), service("t", 1)]),
        Err(ZoneError::ProxyTwice {
            first: "s".into(),
            second: "t".into()
        })
    );
    assert_eq!(
        made(vec![child("a", 1)], vec![]),
        Err(ZoneError::NoSuchParent { zone: "a".into() })
    );
    for circle in [
        vec![child("a", 0)],
        vec![zone("z"), child("a", 2), child("b", 3), child("c", 1)],
    ] {
        assert!(matches!(
            made(circle, vec![]),
            Err(ZoneError::Circle { .. })
        ));
    }
    assert_eq!(
        made(vec![with("a", vec![net(10, 0, 33)])], vec![]),
        Err(ZoneError::NoPrefix {
            zone: "a".into(),
            bits: 33
        })
    );
    // 10.9.0.0/8 and 10.0.0.0/8 are one network; one zone may name it twice.
    assert_eq!(
        made(
            vec![
                with("a", vec![net(10, 0, 8), net(10, 1, 8)]),
                with("b", vec![net(10, 9, 8)])
            ],
            vec![]
        ),
        Err(ZoneError::NetworkTwice {
            addr: Ipv4Addr::new(10, 0, 0, 0),
            bits: 8,
            first: "a".into(),
            second: "b".into()
        })
    );
    let port = |name: &str| ZoneSpec {
        ports: vec![PortId(3)],
        ..zone(name)
    };
    assert_eq!(
        made(vec![port("a"), port("b")], vec![]),
        Err(ZoneError::PortTwice {
            first: "a".into(),
            second: "b".into()
        })
    );
    let lists = ZoneSpec {
        inbound: list(&["*", "smtp"]),
        ..zone("a")
    };
    assert_eq!(
        made(vec![lists], vec![service("s", 1)]),
        Err(ZoneError::NoSuchService {
            zone: "a".into(),
            service: "smtp".into()
        })
    );
}

const SERVICES: [&str; 3] = ["s", "t", "u"];

fn spec() -> impl Strategy<Value = ZoneSpec> {
    let networks = vec((0..3u8, 0..3u8, prop_oneof![Just(0), 8..=16u8]), 0..3);
    let names = || {
        let name = prop_oneof![Just("s"), Just("t"), Just("u"), Just("*")];
        option::of(vec(name.prop_map(str::to_owned), 0..3))
    };
    (networks, option::of(0..6usize), names(), names()).prop_map(
        |(networks, parent, inbound, outbound)| ZoneSpec {
            networks: networks
                .into_iter()
                .map(|(a, b, bits)| net(10 + a, b, bits))
                .collect(),
            parent,
            inbound,
            outbound,
            ..ZoneSpec::default()
        },
    )
}

/// The list that holds for a zone: its own, or the nearest one above.
fn nearest<'z>(
    specs: &'z [ZoneSpec],
    at: usize,
    list: impl Fn(&'z ZoneSpec) -> &'z Option<Vec<String>>,
) -> Option<&'z Vec<String>> {
    match (list(&specs[at]), specs[at].parent) {
        (Some(list), _) => Some(list),
        (None, Some(parent)) => nearest(specs, parent, list),
        (None, None) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn zones_do_what_their_lists_say(
        mut specs in vec(spec(), 1..6),
        ends in vec((10..14u8, 0..4u8, any::<u8>()), 8),
    ) {
        let mut claimed = std::collections::HashSet::new();
        for (n, spec) in specs.iter_mut().enumerate() {
            spec.name = format!("z{n}");
            // Later zones lie in earlier ones, and a network has one zone.
            spec.parent = spec.parent.filter(|parent| *parent < n);
            spec.networks.retain(|(addr, bits)| {
                let mask = (0..*bits).fold(0u32, |mask, bit| mask | 1 << (31 - bit));
                claimed.insert((addr.to_bits() & mask, *bits))
            });
        }
        let services = (0..).zip(SERVICES).map(|(n, name)| service(name, n)).collect();
        let zones = Zones::new(specs.clone(), services).unwrap();
        let home = |addr: Ipv4Addr| {
            let all = specs.iter().enumerate().flat_map(|(n, s)| s.networks.iter().map(move |net| (n, net)));
            let holds = |(_, (net, bits)): &(usize, &(Ipv4Addr, u8))| {
                (0..*bits).all(|bit| (net.to_bits() ^ addr.to_bits()) >> (31 - bit) & 1 == 0)
            };
            all.filter(holds).max_by_key(|(_, (_, bits))| *bits).map(|(n, _)| n)
        };
        let addr = |(a, b, c): (u8, u8, u8)| Ipv4Addr::new(a, b, c, 1);
        for pair in ends.chunks(2) {
            let (src, dst) = (addr(pair[0]), addr(pair[1]));
            let (from, to) = (home(src), home(dst));
            prop_assert_eq!(zones.zone_of(src, None).map(|z| usize::from(z.0)), from);
            for port in 0..4u16 {
                let name = SERVICES.get(usize::from(port));
                let lets = |list: Option<&Vec<String>>| list.is_none_or(|list| {
                    list.iter().any(|n| n == "*" || Some(&n.as_str()) == name)
                });
                let goes = from.is_none_or(|z| lets(nearest(&specs, z, |s| &s.outbound)))
                    && to.is_none_or(|z| lets(nearest(&specs, z, |s| &s.inbound)));
                prop_assert_eq!(zones.judge(src, None, dst, at(port)).is_ok(), goes);
            }
        }
        for (n, _) in specs.iter().enumerate() {
            for of in 0..specs.len() {
                let mut up = Some(n);
                let mut is = false;
                while let Some(at) = up {
                    is |= at == of;
                    up = specs[at].parent;
                }
                let id = |n: usize| ZoneId(n as u16);
                prop_assert_eq!(zones.is_within(id(n), id(of)), is);
            }
        }
    }
}
