// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * The programs of one NIC: what arrives is passed or diverted (xtp_steer, with
 * xtp_slow_lane behind it in generic mode and xtp_gap in its absence), what
 * leaves is let go or diverted (xtp_egress). docs/steering.md has the table of
 * verdicts.
 *
 * Invariant: each frame that reaches xtp_steer moves exactly one of its
 * counters; SLOW_LANE_SENT, GAP_DROPPED and EGRESS_* are the tc programs'.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include "shared.h"
#include "frame.h"

/* In the order of PORT_COUNTERS in src/counters.rs. */
enum counter {
	PASS_NON_IP,
	PASS_OTHER_HOST,
	PASS_MULTICAST,
	PASS_REINJECTED,
	PASS_OWN,
	PASS_MANAGEMENT,
	PASS_IPV6_OWN,
	PASS_IPV6_MULTICAST,
	PASS_IPV6_LINK_LOCAL,
	DIVERT_TRANSIT,
	DIVERT_TAKEN,
	DIVERT_IPV6,
	SLOW_LANE,
	NO_SOCKET_DROPPED,
	NO_SOCKET_PASSED,
	MALFORMED,
	OVERSIZE,
	SLOW_LANE_SENT,
	EGRESS_NATIVE,
	EGRESS_MANAGEMENT,
	EGRESS_DIVERTED,
	OTHER_HOST_DROPPED,
	GROUP_MAC_DROPPED,
	PASS_DHCP,
	GAP_DROPPED,
	EGRESS_STRANGER,
	EGRESS_ENDED,
	EGRESS_ASTRAY,
	DIVERT_GUARDED,
	DIVERT_GROUP,
	EGRESS_GUARDED,
	COUNTERS,
};

#include "counting.h"

const volatile struct port_config config = {};

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1); /* the loader sets it to the number of queues */
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

#include "own.h"
#include "egress.h"

static __always_inline int pass(__u32 counter)
{
	count(counter);
	return XDP_PASS;
}

static __always_inline int drop(__u32 counter)
{
	count(counter);
	return XDP_DROP;
}

/* A super-packet fits no chunk: tc takes it to xtp0, which segments it. */
static __always_inline int oversize(struct xdp_md *ctx)
{
	__u32 *tag;

	if (!config.generic || bpf_xdp_adjust_meta(ctx, -(int)sizeof(*tag)))
		return drop(OVERSIZE);
	tag = (void *)(long)ctx->data_meta;
	if ((void *)(tag + 1) > (void *)(long)ctx->data)
		return drop(OVERSIZE);
	*tag = SLOW_LANE_TAG;
	return pass(SLOW_LANE);
}

static __always_inline int divert(struct xdp_md *ctx, __u32 counter)
{
	__u32 queue = ctx->rx_queue_index;

	if (!bpf_map_lookup_elem(&xsks, &queue))
		return config.open ? pass(NO_SOCKET_PASSED) : drop(NO_SOCKET_DROPPED);
	if (ctx->data_end - ctx->data > config.max_frame)
		return oversize(ctx);
	count(counter);
	return bpf_redirect_map(&xsks, queue, config.open ? XDP_PASS : XDP_DROP);
}

static __always_inline int steer_own4(struct xdp_md *ctx, struct packet *p, struct taken *taken)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) <= end && tells_management(p, eth, end))
		return pass(PASS_MANAGEMENT);
	switch (judge_own(p, taken)) {
	case OWN_MANAGEMENT:
		return pass(PASS_MANAGEMENT);
	case OWN_TAKEN:
		return divert(ctx, DIVERT_TAKEN);
	case OWN_GUARDED:
		return divert(ctx, DIVERT_GUARDED);
	case OWN_DHCP:
		return pass(PASS_DHCP);
	default:
		return pass(PASS_OWN);
	}
}

/* A DHCP server offers an address by sending to it, before it is the box's own. */
static __always_inline bool is_offer(struct xdp_md *ctx, struct packet *p)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	__be16 ethertype;
	void *at;

	if ((void *)(eth + 1) > end || !is_dhcp(p))
		return false;
	at = skip_ethernet(eth, end, &ethertype);
	return at && offers(at + p->header_len + UDP_LEN, end, p->dst, config.mac);
}

/*
 * Of what is for a group of hosts. The kernel forwards none of it and no TCP takes it; but a UDP
 * socket does, also what came to a group's MAC with an own address above it.
 */
static __always_inline int steer_group(struct xdp_md *ctx, struct packet *p, enum frame_kind kind)
{
	switch (judge_frame(p, kind)) {
	case OWN_TAKEN:
		return drop(GROUP_MAC_DROPPED);
	case OWN_GUARDED:
		return divert(ctx, DIVERT_GROUP);
	case OWN_DHCP:
		return pass(PASS_DHCP);
	default:
		return pass(PASS_MULTICAST);
	}
}

static __always_inline int steer_ipv4(struct xdp_md *ctx, struct packet *p)
{
	struct taken *taken = bpf_map_lookup_elem(&own4, &p->dst);

	if (taken)
		return steer_own4(ctx, p, taken);
	if (is_multicast4(p->dst))
		return steer_group(ctx, p, FRAME_IPV4);
	if (is_offer(ctx, p))
		return pass(PASS_DHCP);
	return divert(ctx, DIVERT_TRANSIT);
}

static __always_inline int steer_ipv6(struct xdp_md *ctx, struct packet *p)
{
	if (p->dst6.s6_addr[0] == 0xff)
		return pass(PASS_IPV6_MULTICAST);
	if (is_link_local6(&p->dst6))
		return pass(PASS_IPV6_LINK_LOCAL);
	if (bpf_map_lookup_elem(&own6, &p->dst6))
		return pass(PASS_IPV6_OWN);
	return divert(ctx, DIVERT_IPV6);
}

/*
 * The kernel sees another host's frame in it and drops it, unless the port has got a new
 * address that this program has not heard of. So what the kernel could forward, or what it gets
 * by the worker, goes no further; what is for the box itself, or for a sniffer or a bridge without
 * IP, may.
 */
static __always_inline int steer_other_host(struct packet *p, enum frame_kind kind)
{
	enum own own = judge_frame(p, kind);

	if (own == OWN_TAKEN || (!config.open && (own == OWN_GUARDED || !is_local(p, kind))))
		return drop(OTHER_HOST_DROPPED);
	return pass(PASS_OTHER_HOST);
}

SEC("xdp")
int xtp_steer(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct packet p = {};
	enum frame_kind kind;

	if ((void *)(eth + 1) > end)
		return drop(MALFORMED);
	if (config.generic && mac_is(eth->h_source, config.reinjected, MAC_LEN))
		return pass(PASS_REINJECTED);
	kind = parse(eth, end, &p);
	if (is_group_mac(eth->h_dest))
		return steer_group(ctx, &p, kind);
	if (kind == FRAME_MALFORMED)
		return drop(MALFORMED);
	if (!mac_is(eth->h_dest, config.mac, MAC_LEN))
		return steer_other_host(&p, kind);
	if (kind == FRAME_IPV4)
		return steer_ipv4(ctx, &p);
	if (kind == FRAME_IPV6)
		return steer_ipv6(ctx, &p);
	return pass(PASS_NON_IP);
}

/* Behind xtp_steer in generic mode; the tag cannot come from a wire. */
SEC("tc")
int xtp_slow_lane(struct __sk_buff *skb)
{
	__u32 *tag = (void *)(long)skb->data_meta;
	__u8 mark[MAC_LEN];

	if ((void *)(tag + 1) > (void *)(long)skb->data || *tag != SLOW_LANE_TAG)
		return TC_ACT_UNSPEC;
	mac_copy(mark, config.from_wire);
	if (bpf_skb_store_bytes(skb, 0, mark, sizeof(mark), 0))
		return TC_ACT_SHOT;
	count(SLOW_LANE_SENT);
	return bpf_redirect(config.host_ifindex, 0);
}

static __always_inline int leave(__u32 counter)
{
	count(counter);
	return TC_ACT_UNSPEC; /* the next filter, if any, has its say */
}

static __always_inline int turn(struct __sk_buff *skb, const volatile __u8 *from, __u32 counter)
{
	__u8 mark[MAC_LEN];

	mac_copy(mark, from);
	mark[MAC_LEN - 1] = owner_bits(skb);
	if (bpf_skb_store_bytes(skb, MAC_LEN, mark, sizeof(mark), 0))
		return TC_ACT_SHOT;
	count(counter);
	return bpf_redirect(config.host_ifindex, 0);
}

/*
 * Nobody judges what the box sends: the daemon is gone, and may leave the box open. Its sockets
 * close together, so one speaks for all.
 */
static __always_inline bool is_left_open(void)
{
	__u32 queue = 0;

	return config.open && !bpf_map_lookup_elem(&xsks, &queue);
}

SEC("tc")
int xtp_egress(struct __sk_buff *skb)
{
	__u32 counter = judge_egress(skb);

	switch (counter) {
	case EGRESS_DIVERTED:
		return turn(skb, config.from_stack, counter);
	case EGRESS_STRANGER:
		return turn(skb, config.from_stranger, counter);
	case EGRESS_GUARDED:
		if (is_left_open())
			return leave(EGRESS_NATIVE);
		return turn(skb, config.from_box, counter);
	case EGRESS_ENDED:
	case EGRESS_ASTRAY:
		count(counter);
		return TC_ACT_SHOT;
	default:
		return leave(counter);
	}
}

/*
 * In front of the kernel for as long as xtp_steer changes its mode, which takes a moment
 * without any XDP program: what xtp_steer would have diverted is lost.
 */
SEC("tc")
int xtp_gap(struct __sk_buff *skb)
{
	struct packet p = {};
	enum frame_kind kind;
	struct ethhdr *eth;
	enum own own;
	void *end;

	eth = linear(skb, ERROR_LEN, &end);
	kind = eth ? parse(eth, end, &p) : FRAME_MALFORMED;
	if (eth && kind == FRAME_IPV4 && bpf_map_lookup_elem(&own4, &p.dst) &&
	    tells_management(&p, eth, end))
		return TC_ACT_UNSPEC;
	own = judge_frame(&p, kind);
	if (is_local(&p, kind) && own != OWN_TAKEN && own != OWN_GUARDED)
		return TC_ACT_UNSPEC;
	count(GAP_DROPPED);
	return TC_ACT_SHOT;
}

char _license[] SEC("license") = "Dual BSD/GPL";
