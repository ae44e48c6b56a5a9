//! The box that the tests' rulesets are for.

use std::net::Ipv4Addr;
use std::sync::Arc;

use policy::{PortId, ZoneSpec, Zones};
use rules::{Compiled, Environment, Interface, RuleError, Ruleset, Sets};

pub const ETH0: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const ETH1: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

pub const SETS: &str = "\
create nets hash:net family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x1f2e3d4c
add nets 10.0.0.0/8
add nets 10.0.0.2 nomatch
create addrs hash:ip family inet hashsize 1024 maxelem 65536 timeout 0 comment
add addrs 192.168.1.1 timeout 0 comment \"the old one\"
add addrs 10.0.0.1-10.0.0.2
create pairs hash:ip,port family inet hashsize 1024 maxelem 65536
add pairs 10.0.0.1,tcp:80
add pairs 10.0.0.3,udp:79-81
create places hash:net,port family inet hashsize 1024 maxelem 65536
add places 10.0.0.0/24,tcp:22
create ports bitmap:port range 0-65535
add ports 80-81
";

pub fn interfaces() -> Vec<Interface> {
    let interface = |name: &str, port, first_address| Interface {
        name: name.to_owned(),
        port: PortId(port),
        first_address,
    };
    vec![
        interface("eth0", 0, Some(ETH0)),
        interface("eth1", 1, Some(ETH1)),
        interface("dmz0", 2, None),
    ]
}

/// `inside` 192.168.0.0/16, with `servers` 192.168.1.0/24 in it; `world` is all that `dmz0` brings.
/// `cable` has an interface alone.
pub fn zones() -> Arc<Zones> {
    let zone = |name: &str, networks: &[([u8; 4], u8)], ports: &[u8], parent| ZoneSpec {
        name: name.to_owned(),
        networks: networks.iter().map(|(a, b)| ((*a).into(), *b)).collect(),
        ports: ports.iter().copied().map(PortId).collect(),
        parent,
        inbound: None,
        outbound: None,
    };
    let zones = vec![
        zone("inside", &[([192, 168, 0, 0], 16)], &[], None),
        zone("servers", &[([192, 168, 1, 0], 24)], &[], Some(0)),
        zone("world", &[([8, 0, 0, 0], 8)], &[2], None),
        zone("cable", &[], &[3], None),
    ];
    Arc::new(Zones::new(zones, Vec::new()).unwrap())
}

pub fn compile_with(ruleset: &Ruleset, interfaces: &[Interface]) -> Result<Compiled, RuleError> {
    let name = |name: &str| match name {
        "root" => Some(0),
        "proxy" | "staff" => Some(13),
        _ => None,
    };
    let (sets, zones) = (Sets::parse("ipset.conf", SETS).unwrap(), zones());
    let environment = Environment {
        interfaces,
        sets: &sets,
        zones: &zones,
        user: &name,
        group: &name,
    };
    rules::compile(ruleset, &environment, 7)
}

pub fn compile(ruleset: &Ruleset) -> Result<Compiled, RuleError> {
    compile_with(ruleset, &interfaces())
}
