/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Reads the headers of a frame, as far as steering needs them. */
#ifndef XTP_FRAME_H
#define XTP_FRAME_H

#include <stdbool.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>

#define MAX_VLAN_TAGS 2
#define MAX_IPV4_LEN 60
#define PORTS_LEN 4
/* Ethernet, two tags, the longest IPv4 header, two ports. */
#define HEADERS_LEN (ETH_HLEN + MAX_VLAN_TAGS * 4 + MAX_IPV4_LEN + PORTS_LEN)
/* The same up to TCP's flags. */
#define OPENING_LEN (HEADERS_LEN - PORTS_LEN + TCP_FLAGS_LEN)
/* Of an ICMP error, before the packet that it is about. */
#define ICMP_LEN 8
/* The headers of an ICMP error, with those of the packet that it is about. */
#define ERROR_LEN (HEADERS_LEN + ICMP_LEN + MAX_IPV4_LEN + PORTS_LEN)
#define UDP_LEN 8
/* Of a TCP header, up to its flags. */
#define TCP_FLAGS_LEN 14
#define TCP_SYN 0x02
#define TCP_ACK 0x10
#define DHCP_SERVER 67
#define DHCP_CLIENT 68

/* ICMP errors; <linux/icmp.h> wants a whole libc. */
enum {
	ICMP_UNREACHABLE = 3,
	ICMP_SOURCE_QUENCH = 4,
	ICMP_REDIRECT = 5,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETER_PROBLEM = 12,
};

enum frame_kind {
	FRAME_MALFORMED,
	FRAME_OTHER,
	FRAME_IPV4,
	FRAME_IPV6,
};

struct packet {
	__be32 src, dst;
	struct in6_addr dst6;
	__u16 sport, dport; /* host order; 0 where the protocol has none */
	__u8 header_len;    /* of IPv4 */
	__u8 proto;
	bool tail;	  /* a fragment other than the first */
	bool ports_known; /* false: tail, or cut off before the ports */
};

struct vlan_tag {
	__be16 tci;
	__be16 proto;
};

static __always_inline bool is_vlan(__be16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD);
}

static __always_inline bool has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP;
}

static __always_inline enum frame_kind parse_ipv4(void *at, void *end, struct packet *p)
{
	struct iphdr *ip = at;
	__be16 *ports;

	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return FRAME_MALFORMED;
	at += ip->ihl * 4;
	if (at > end)
		return FRAME_MALFORMED;
	p->header_len = ip->ihl * 4;
	p->src = ip->saddr;
	p->dst = ip->daddr;
	p->proto = ip->protocol;
	p->tail = ip->frag_off & bpf_htons(0x1fff);
	p->sport = p->dport = 0;
	p->ports_known = !p->tail;
	if (p->tail || !has_ports(p->proto))
		return FRAME_IPV4;
	ports = at;
	if ((void *)(ports + 2) > end) {
		p->ports_known = false;
		return FRAME_IPV4;
	}
	p->sport = bpf_ntohs(ports[0]);
	p->dport = bpf_ntohs(ports[1]);
	return FRAME_IPV4;
}

static __always_inline enum frame_kind parse_ipv6(void *at, void *end, struct packet *p)
{
	struct ipv6hdr *ip = at;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return FRAME_MALFORMED;
	p->dst6 = ip->daddr;
	return FRAME_IPV6;
}

/* Where the Ethernet header and its tags end; NULL if a tag is cut. */
static __always_inline void *skip_ethernet(struct ethhdr *eth, void *end, __be16 *ethertype)
{
	__be16 proto = eth->h_proto;
	void *at = eth + 1;
	int i;

#pragma unroll
	for (i = 0; i < MAX_VLAN_TAGS; i++) {
		struct vlan_tag *tag = at;

		if (!is_vlan(proto))
			break;
		if ((void *)(tag + 1) > end)
			return NULL;
		proto = tag->proto;
		at = tag + 1;
	}
	*ethertype = proto;
	return at;
}

/* The Ethernet header itself must be there. */
static __always_inline enum frame_kind parse(struct ethhdr *eth, void *end, struct packet *p)
{
	__be16 proto;
	void *at = skip_ethernet(eth, end, &proto);

	if (!at)
		return FRAME_MALFORMED;
	if (proto == bpf_htons(ETH_P_IP))
		return parse_ipv4(at, end, p);
	if (proto == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(at, end, p);
	return FRAME_OTHER;
}

static __always_inline bool is_icmp_error(__u8 type)
{
	return type == ICMP_UNREACHABLE || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT ||
	       type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER_PROBLEM;
}

/*
 * Makes of p, an ICMP packet whose header begins at `at`, the packet that would
 * answer the one that it is about: that has the own endpoint as its source.
 */
static __always_inline bool parse_answer(void *at, void *end, struct packet *p)
{
	struct packet about = {};
	__u8 *type = at;

	if (at + ICMP_LEN > end || !is_icmp_error(*type) ||
	    parse_ipv4(at + ICMP_LEN, end, &about) != FRAME_IPV4)
		return false;
	*p = about;
	p->src = about.dst;
	p->dst = about.src;
	p->sport = about.dport;
	p->dport = about.sport;
	return true;
}

/*
 * Whether a packet of IPv4 may be the first of what its sender opens: TCP's first segment, and all
 * of UDP. A header that is cut before its flags may be.
 */
static __always_inline bool opens(struct ethhdr *eth, void *end, struct packet *p)
{
	__be16 ethertype;
	__u8 *tcp;

	if (!p->ports_known)
		return false;
	if (p->proto != IPPROTO_TCP)
		return p->proto == IPPROTO_UDP;
	tcp = skip_ethernet(eth, end, &ethertype);
	if (!tcp)
		return false;
	tcp += p->header_len;
	if ((void *)(tcp + TCP_FLAGS_LEN) > end)
		return true;
	return (tcp[TCP_FLAGS_LEN - 1] & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* The fixed head of a DHCP message, as far as it says for whom it is. */
struct dhcp {
	__u8 op, htype, hlen, hops;
	__be32 xid;
	__be16 secs, flags;
	__be32 ciaddr, yiaddr, siaddr, giaddr;
	__u8 chaddr[ETH_ALEN];
	__u8 rest[2];
};
#define DHCP_REPLY 2
#define DHCP_ETHERNET 1

static __always_inline bool is_group_mac(const __u8 *mac)
{
	return mac[0] & 1;
}

static __always_inline bool mac_is(const __u8 *mac, const volatile __u8 *other, int len)
{
	__u8 diff = 0;
	int i;

#pragma unroll
	for (i = 0; i < len; i++)
		diff |= mac[i] ^ other[i];
	return !diff;
}

/* Not memcpy: without volatile the compiler takes a setting for its initial 0. */
static __always_inline void mac_copy(__u8 *to, const volatile __u8 *from)
{
	int i;

#pragma unroll
	for (i = 0; i < ETH_ALEN; i++)
		to[i] = from[i];
}

static __always_inline bool is_dhcp(struct packet *p)
{
	return p->proto == IPPROTO_UDP && p->ports_known && p->sport == DHCP_SERVER &&
	       p->dport == DHCP_CLIENT;
}

/* Not even a router passes it on. */
static __always_inline bool asks_for_lease(struct packet *p)
{
	return p->proto == IPPROTO_UDP && p->ports_known && p->sport == DHCP_CLIENT &&
	       p->dport == DHCP_SERVER && p->dst == 0xffffffff;
}

/* Whether a DHCP message offers the address `dst` to the hardware address `mac`. */
static __always_inline bool offers(struct dhcp *dhcp, void *end, __be32 dst,
				   const volatile __u8 *mac)
{
	return (void *)(dhcp + 1) <= end && dhcp->op == DHCP_REPLY &&
	       dhcp->htype == DHCP_ETHERNET && dhcp->hlen == ETH_ALEN && dhcp->yiaddr == dst &&
	       mac_is(dhcp->chaddr, mac, ETH_ALEN);
}

#endif
