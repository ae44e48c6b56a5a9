/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What becomes of a packet that leaves: by its headers, and if it opens something also by the
 * socket that sends it.
 */
#ifndef XTP_EGRESS_H
#define XTP_EGRESS_H

#include "senders.h"

/* Only what is not linear yet has to be pulled; most headers are. */
static __always_inline struct ethhdr *linear(struct __sk_buff *skb, __u32 len, void **end)
{
	__u32 want = skb->len < len ? skb->len : len;
	struct ethhdr *eth;

	if (skb->data_end - skb->data < want)
		bpf_skb_pull_data(skb, want);
	eth = (void *)(long)skb->data;
	*end = (void *)(long)skb->data_end;
	return (void *)(eth + 1) > *end ? NULL : eth;
}

/* Which way a packet leaves by its own headers; a later one is the stronger. */
enum way {
	WAY_NATIVE,
	WAY_GUARDED, /* nothing that is taken, while the guard is on */
	WAY_MANAGEMENT,
	WAY_TAKEN,    /* from a taken range */
	WAY_ENDPOINT, /* from a single endpoint, whose address need not be the box's own */
};

/* Global, and of numbers alone, as is_management. */
__noinline bool is_from_range(__be32 addr, __u8 proto, __u16 port, bool port_known)
{
	struct taken *taken = bpf_map_lookup_elem(&own4, &addr);

	return taken && is_taken(taken, OUTBOUND, proto, port, port_known);
}

/* Of what is not taken. A tail is let go, as without its first fragment it is nothing. */
static __always_inline bool is_diverted_by_guard(struct packet *p)
{
	return !p->tail && is_guard_on() && !asks_for_lease(p) &&
	       bpf_map_lookup_elem(&own4, &p->src);
}

static __noinline __u32 judge_leaving(struct packet *p)
{
	bool endpoint = is_endpoint(p->src, OUTBOUND, p->proto, p->sport, p->ports_known);
	__u32 way;

	if (endpoint)
		way = WAY_ENDPOINT;
	else if (is_from_range(p->src, p->proto, p->sport, p->ports_known))
		way = WAY_TAKEN;
	else if (is_diverted_by_guard(p))
		way = WAY_GUARDED;
	else
		return WAY_NATIVE;
	/* A tail is not known to be management: it may belong to a translated flow. */
	if (p->ports_known && is_management(p->proto, p->sport, p->dst, true))
		return WAY_MANAGEMENT;
	return way;
}

/* Which of its counters a packet moves that goes its way whoever sent it. */
static __always_inline __u32 unasked(__u32 way)
{
	if (way == WAY_NATIVE)
		return EGRESS_NATIVE;
	if (way == WAY_GUARDED)
		return EGRESS_GUARDED;
	return way == WAY_MANAGEMENT ? EGRESS_MANAGEMENT : EGRESS_DIVERTED;
}

/*
 * The same of one that opens something: an endpoint is its owner's and not another's who shares or
 * reuses it, and an owner that sends from elsewhere would leave untranslated.
 */
static __always_inline __u32 asked(struct __sk_buff *skb, __u32 way)
{
	__u32 *sender;
	__u64 cookie;

	if (way == WAY_TAKEN)
		return EGRESS_DIVERTED;
	cookie = bpf_get_socket_cookie(skb);
	sender = bpf_map_lookup_elem(&watched, &cookie);
	if (sender && way == WAY_ENDPOINT)
		return EGRESS_DIVERTED;
	if (sender)
		return *sender == SENDER_SHOWS ? EGRESS_ASTRAY : unasked(way);
	/* Also of one that might send as it is: it may be an answer of a translated flow. */
	if (bpf_map_lookup_elem(&ended, &cookie))
		return EGRESS_ENDED;
	return way == WAY_ENDPOINT ? EGRESS_STRANGER : unasked(way);
}

/* Parses what an ICMP error is about as the answer to that, into p. */
static __always_inline bool look_inside(struct __sk_buff *skb, struct packet *p)
{
	__be16 ethertype;
	struct ethhdr *eth;
	void *at, *end;

	if (p->proto != IPPROTO_ICMP || p->tail)
		return false;
	eth = linear(skb, ERROR_LEN, &end);
	at = eth ? skip_ethernet(eth, end, &ethertype) : NULL;
	if (!at)
		return false;
	return parse_answer(at + p->header_len, end, p);
}

static __always_inline __u32 judge_egress(struct __sk_buff *skb)
{
	struct packet p = {};
	struct ethhdr *eth;
	__u32 way, inside;
	bool is_first;
	void *end;

	eth = linear(skb, OPENING_LEN, &end);
	if (!eth || parse(eth, end, &p) != FRAME_IPV4)
		return EGRESS_NATIVE;
	is_first = opens(eth, end, &p);
	way = judge_leaving(&p);
	if (is_first)
		return asked(skb, way);
	/* What is inside has been translated on its way in. The guard asks for the error itself. */
	if (way <= WAY_MANAGEMENT && look_inside(skb, &p)) {
		inside = judge_leaving(&p);
		if (inside >= WAY_MANAGEMENT)
			way = inside;
	}
	return unasked(way);
}

#endif
