/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The rules of tproxy OUTPUT as a decision program: nodes that ask one thing and lead on.
 *
 * Invariant: a node leads to later nodes only (the loader sees to it), so that a walk ends after
 * as many steps as there are nodes. Each record has its twin in src/capture/records.rs.
 */
#ifndef XTP_DECISION_H
#define XTP_DECISION_H

#include <stdbool.h>
#include <linux/types.h>
#include "caller.h"

#define MAX_NODES 4096

enum test {
	/* Questions: to `then` if the answer is yes, else to `otherwise`. */
	ALWAYS,
	DESTINATION_NETWORK, /* a: address, b: mask; network order */
	DESTINATION_RANGE,   /* a to b, host order */
	DESTINATION_PORTS,   /* a to b */
	OWNER_USER,	     /* a to b */
	OWNER_GROUP,	     /* a to b */
	SOCKET_MARK,	     /* a: value, b: mask */
	/* Verdicts. */
	GO,
	REFUSE,	  /* a: errno */
	REDIRECT, /* a: address, b: port; network order. `otherwise`: if nobody listens there */
	TESTS,
};

#define KEEPS_PORT 0x10000 /* in b of REDIRECT */

/* `otherwise` of REDIRECT. */
enum {
	OTHERWISE_REJECT,
	OTHERWISE_DROP,
	OTHERWISE_ACCEPT,
};

struct node {
	__u8 test;
	__u8 pad;
	__u16 then;
	__u16 otherwise;
	__u16 counts; /* 1: `hits` counts who comes by */
	__u32 a, b;
	__u64 hits;
};

struct program {
	struct node nodes[MAX_NODES];
};

struct decisions {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct program));
};

struct socket_address {
	__be32 addr;
	__be16 port;
	__u16 pad;
};

/* A connection that is asked about, and how far it has come. */
struct walk {
	struct program *program;
	__u32 at;
	__be32 addr;
	__u32 port; /* host order */
	__u32 mark;
	struct owner owner; /* not known of the kernel's own: then no test for it holds */
	bool ends_in_silence;
	bool has_ended;
};

static __always_inline bool lies(__u32 number, struct node *node)
{
	return node->a <= number && number <= node->b;
}

static __always_inline bool holds(struct walk *walk, struct node *node)
{
	switch (node->test) {
	case DESTINATION_NETWORK:
		return (walk->addr & node->b) == node->a;
	case DESTINATION_RANGE:
		return lies(bpf_ntohl(walk->addr), node);
	case DESTINATION_PORTS:
		return lies(walk->port, node);
	case OWNER_USER:
		return walk->owner.is_known && lies(walk->owner.user, node);
	case OWNER_GROUP:
		return walk->owner.is_known && lies(walk->owner.group, node);
	case SOCKET_MARK:
		return (walk->mark & node->b) == node->a;
	default:
		return true;
	}
}

static long step(__u32 index, void *context)
{
	struct walk *walk = context;
	struct node *node;

	(void)index;
	if (walk->at >= MAX_NODES)
		return 1;
	node = &walk->program->nodes[walk->at];
	if (node->counts)
		__sync_fetch_and_add(&node->hits, 1);
	if (node->test >= GO) {
		walk->has_ended = true;
		return 1;
	}
	walk->at = holds(walk, node) ? node->then : node->otherwise;
	return 0;
}

/* The verdict that the walk comes to; none: the program has none, which its loader rules out. */
static __always_inline struct node *decide(struct walk *walk)
{
	bpf_loop(MAX_NODES, step, walk, 0);
	if (!walk->has_ended || walk->at >= MAX_NODES || !walk->program)
		return 0;
	return &walk->program->nodes[walk->at];
}

#endif
