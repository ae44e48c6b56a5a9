//! Names of the counters, in the order of `enum counter` of each program.

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::Error;

pub(crate) const PORT_COUNTERS: [&str; 31] = [
    "pass_non_ip",
    "pass_other_host",
    "pass_multicast",
    "pass_reinjected",
    "pass_own",
    "pass_management",
    "pass_ipv6_own",
    "pass_ipv6_multicast",
    "pass_ipv6_link_local",
    "divert_transit",
    "divert_taken",
    "divert_ipv6",
    "slow_lane",
    "no_socket_dropped",
    "no_socket_passed",
    "malformed",
    "oversize",
    "slow_lane_sent",
    "egress_native",
    "egress_management",
    "egress_diverted",
    "drop_other_host",
    "drop_group_mac",
    "pass_dhcp",
    "gap_dropped",
    "egress_stranger",
    "egress_ended",
    "egress_astray",
    "divert_guarded",
    "divert_group",
    "egress_guarded",
];

pub(crate) const HOST_COUNTERS: [&str; 5] = [
    "host_diverted",
    "host_no_socket",
    "delivered",
    "deliver_unmarked",
    "deliver_no_port",
];

/// Sums each counter over the CPUs.
pub(crate) fn read(
    map: &MapHandle,
    names: &'static [&'static str],
) -> Result<Vec<(&'static str, u64)>, Error> {
    let mut counters = Vec::with_capacity(names.len());
    for (name, key) in names.iter().zip(0u32..) {
        let per_cpu = map
            .lookup_percpu(&key.to_ne_bytes(), MapFlags::ANY)
            .map_err(|error| Error::from_libbpf("reading the counters", &error))?
            .unwrap_or_default();
        let sum = per_cpu
            .iter()
            .filter_map(|bytes| Some(u64::from_ne_bytes(bytes.first_chunk().copied()?)));
        counters.push((*name, sum.fold(0, u64::wrapping_add)));
    }
    Ok(counters)
}
