/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the box is addressed by, and who gets it: the kernel or the worker. */
#ifndef XTP_OWN_H
#define XTP_OWN_H

#include "guard.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ADDRESS_SLOTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __be32);
	__type(value, struct taken);
} own4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ADDRESS_SLOTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct in6_addr);
	__type(value, __u8);
} own6 SEC(".maps");

/* A hash of one entry: unlike an array's, its value is replaced whole. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct management);
} management SEC(".maps");

/* Of all ports together: the loader puts its own map in the place of this one. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, __u8);
} endpoints SEC(".maps");

enum own {
	OWN_PLAIN,
	OWN_MANAGEMENT,
	OWN_TAKEN,
	OWN_GUARDED, /* by the guard alone */
	OWN_DHCP,    /* what the guard would divert, but for the box's lease */
};

/*
 * 0 if an entry of a list (proto 0: any) has this protocol and port. Without branches: the
 * verifier would follow each of them for every entry, in every state that it comes with.
 */
static __always_inline __u64 differs(__u8 wanted, __u8 proto, __u16 lo, __u16 hi, __u16 port,
				     bool port_known)
{
	__u64 any_proto = ((__u64)wanted - 1) >> 63;
	__u64 outside = ((__u64)port - lo) >> 63 | ((__u64)hi - port) >> 63;

	/* Or else the compiler makes branches of them. */
	barrier_var(any_proto);
	barrier_var(outside);
	return ((__u64)(wanted ^ proto) & (any_proto - 1)) | (outside & port_known);
}

/*
 * Without a port to go by, protocol and peer decide. Global, and of numbers alone: so the verifier
 * goes through it once, and not once for each state that it is called in.
 */
__noinline bool is_management(__u8 proto, __u16 port, __be32 peer, bool port_known)
{
	__u32 key = 0;
	struct management *table = bpf_map_lookup_elem(&management, &key);
	__u32 i;

	if (!table)
		return false;
	for (i = 0; i < MAX_MANAGEMENT; i++) {
		struct management_entry *e = &table->entries[i];

		if (i >= table->count)
			break;
		if (!(((peer & e->mask) ^ e->network) |
		      differs(e->proto, proto, e->lo, e->hi, port, port_known)))
			return true;
	}
	return false;
}

/* With unknown ports the protocol decides: better diverted than missed. */
static __always_inline bool is_taken(struct taken *taken, __u8 direction, __u8 proto, __u16 port,
				     bool port_known)
{
	__u32 i;

	for (i = 0; i < MAX_TAKEN; i++) {
		struct taken_range *r = &taken->ranges[i];

		if (i >= taken->count)
			break;
		if (!((~r->direction & direction) |
		      differs(r->proto, proto, r->lo, r->hi, port, port_known)))
			return true;
	}
	return false;
}

/* The same of single endpoints: with unknown ports the marker decides. */
__noinline bool is_endpoint(__be32 addr, __u8 direction, __u8 proto, __u16 port, bool port_known)
{
	struct endpoint key = {
		.addr = addr,
		.port = port_known ? port : 0,
		.proto = proto,
	};
	__u8 *directions;

	/* No endpoint has port 0, and a packet that says so is not a tail. */
	if (port_known && !port)
		return false;
	directions = bpf_map_lookup_elem(&endpoints, &key);
	return directions && (*directions & direction);
}

/*
 * A packet to an own address or to a group. Cut before its ports it is no management; a tail may
 * be. The guard lets tails pass: without their first fragment nobody gets them.
 */
static __noinline enum own judge_own(struct packet *p, struct taken *taken)
{
	if ((p->tail || p->ports_known) &&
	    is_management(p->proto, p->dport, p->src, p->ports_known))
		return OWN_MANAGEMENT;
	if (taken && is_taken(taken, INBOUND, p->proto, p->dport, p->ports_known))
		return OWN_TAKEN;
	if (is_endpoint(p->dst, INBOUND, p->proto, p->dport, p->ports_known))
		return OWN_TAKEN;
	if (p->tail || !is_guard_on())
		return OWN_PLAIN;
	return is_dhcp(p) ? OWN_DHCP : OWN_GUARDED;
}

/*
 * Whether p, an ICMP packet whose header begins at `at`, is an error about what management sent
 * from the address that it comes to. Without these a connection does not learn what fits its path.
 */
static __always_inline bool is_about_management(struct packet *p, void *at, void *end)
{
	struct packet answer = {};

	return parse_answer(at, end, &answer) && answer.dst == p->dst && answer.ports_known &&
	       is_management(answer.proto, answer.dport, answer.src, true);
}

/* The same of a packet in its frame, whose Ethernet header must be there. */
static __always_inline bool tells_management(struct packet *p, struct ethhdr *eth, void *end)
{
	__be16 ethertype;
	void *at;

	if (p->proto != IPPROTO_ICMP || p->tail)
		return false;
	at = skip_ethernet(eth, end, &ethertype);
	return at && is_about_management(p, at + p->header_len, end);
}

/*
 * judge_own of a frame that may be anything. To a taken endpoint: the kernel must not get it but
 * by the worker. That includes an endpoint whose address the loader has not heard of yet, or does
 * not count as own any more.
 */
static __always_inline enum own judge_frame(struct packet *p, enum frame_kind kind)
{
	if (kind != FRAME_IPV4)
		return OWN_PLAIN;
	return judge_own(p, bpf_map_lookup_elem(&own4, &p->dst));
}

/* 224.0.0.0/4 and 255.255.255.255 */
static __always_inline bool is_multicast4(__be32 addr)
{
	return (addr & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) || addr == 0xffffffff;
}

/* fe80::/10 */
static __always_inline bool is_link_local6(struct in6_addr *addr)
{
	return addr->s6_addr[0] == 0xfe && (addr->s6_addr[1] & 0xc0) == 0x80;
}

/* Nothing that the kernel would forward. */
static __always_inline bool is_local(struct packet *p, enum frame_kind kind)
{
	if (kind == FRAME_IPV4)
		return is_multicast4(p->dst) || bpf_map_lookup_elem(&own4, &p->dst);
	if (kind == FRAME_IPV6)
		return p->dst6.s6_addr[0] == 0xff || is_link_local6(&p->dst6) ||
		       bpf_map_lookup_elem(&own6, &p->dst6);
	return kind == FRAME_OTHER;
}

#endif
