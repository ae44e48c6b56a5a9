// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * The programs of the host port: xtp_host hands what the kernel sends through
 * xtp0 to the worker's socket, xtp_deliver puts what the worker sends to the
 * kernel into the ingress of the NIC that its mark names.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include "shared.h"
#include "frame.h"

/* In the order of HOST_COUNTERS in src/counters.rs. */
enum counter {
	HOST_DIVERTED,
	HOST_NO_SOCKET,
	DELIVERED,
	DELIVER_UNMARKED,
	DELIVER_NO_PORT,
	COUNTERS,
};

#include "counting.h"

const volatile struct host_config config = {};

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1); /* the loader sets it to the number of queues */
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u8);
	__type(value, struct delivery);
} ports SEC(".maps");

SEC("xdp")
int xtp_host(struct xdp_md *ctx)
{
	__u32 queue = ctx->rx_queue_index;

	if (!bpf_map_lookup_elem(&xsks, &queue)) {
		count(HOST_NO_SOCKET);
		return XDP_DROP;
	}
	count(HOST_DIVERTED);
	return bpf_redirect_map(&xsks, queue, XDP_DROP);
}

SEC("tc")
int xtp_deliver(struct __sk_buff *skb)
{
	struct ethhdr *eth = (void *)(long)skb->data;
	__u8 macs[2 * MAC_LEN];
	struct delivery *port;
	__u8 id;

	if ((void *)(eth + 1) > (void *)(long)skb->data_end ||
	    !mac_is(eth->h_dest, config.to_stack, MAC_LEN - 1)) {
		count(DELIVER_UNMARKED);
		return TC_ACT_SHOT;
	}
	id = eth->h_dest[MAC_LEN - 1];
	port = bpf_map_lookup_elem(&ports, &id);
	if (!port || !port->ifindex) {
		count(DELIVER_NO_PORT);
		return TC_ACT_SHOT;
	}
	__builtin_memcpy(macs, port->mac, MAC_LEN);
	__builtin_memcpy(macs + MAC_LEN, port->generic ? port->reinjected : eth->h_source, MAC_LEN);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return TC_ACT_SHOT;
	count(DELIVERED);
	return bpf_redirect(port->ifindex, BPF_F_INGRESS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
