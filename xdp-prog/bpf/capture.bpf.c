// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * The box's own TCP connections, redirected at connect(): xtp_connect4 and xtp_connect6 walk the
 * decisions of the rules and write the proxy in the place of the destination; xtp_peer4 and
 * xtp_peer6 show the program that connects what it has asked for.
 *
 * Invariant: what a proxy or its descendant opens is never redirected, and neither is a
 * registered socket; xtp_bound4 and xtp_bound6 tell who is about to be a proxy. A redirected socket is in `captured` until it closes, and from then on in
 * `released`. What the rules redirect goes to a proxy that is known, or fails; it goes its own
 * way only if the rule says so.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <asm/errno.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

/* In the order of CAPTURE_COUNTERS in src/capture.rs. */
enum counter {
	REDIRECTED,
	DROPPED,
	REJECTED,
	NO_LISTENER,
	PROXY_PASSED,
	OFF_DEVICE,
	FULL,
	STUCK,
	COUNTERS,
};

#define MAX_LISTENERS 65536
#define MAX_PROXIES 65536
#define MAX_TARGETS 16384 /* two for each node, of old and new decisions together */

#include "caller.h"
#include "counting.h"
#include "decision.h"
#include "senders.h"

#define SOCK_STREAM 1 /* <linux/net.h> does not tell */
#define LOOPBACK_IFINDEX 1
#define MAPPED bpf_htonl(0xffff) /* third word of ::ffff:a.b.c.d */

#define FAILS 0
#define GOES 1

/* Inodes of namespaces. */
struct capture_config {
	__u32 network;
	__u32 pids;
};

const volatile struct capture_config config = {};

/* The one value: the decisions in force; none: off. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct decisions);
} in_force SEC(".maps");

/* Where somebody listens who is known; address 0: at any. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LISTENERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct socket_address);
	__type(value, __u8);
} listeners SEC(".maps");

/* Where the rules redirect to; address 0: at this port of any address, for who binds to all. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_TARGETS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct socket_address);
	__type(value, __u8);
} targets SEC(".maps");

/* What sockets asked for that were redirected, by cookie. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* the loader sets it */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct socket_address);
} captured SEC(".maps");

/*
 * The same of those that have closed: the proxy may ask later. And of those whose end nobody
 * would tell.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, __u64);
	__type(value, struct socket_address);
} released SEC(".maps");

/* Whether there is a connection to judge: TCP, of this namespace, while there are rules. */
static __always_inline bool describe(struct bpf_sock_addr *ctx, struct socket_address *to, struct walk *walk)
{
	__u32 first = 0;
	void *decisions = bpf_map_lookup_elem(&in_force, &first);
	struct tcp_sock *tcp;
	struct sock *sk;

	if (!decisions || ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP || !ctx->sk)
		return false;
	walk->program = bpf_map_lookup_elem(decisions, &first);
	tcp = bpf_skc_to_tcp_sock(ctx->sk);
	if (!walk->program || !tcp)
		return false;
	sk = &tcp->inet_conn.icsk_inet.sk;
	if (sk->__sk_common.skc_net.net->ns.inum != config.network)
		return false;
	walk->addr = to->addr;
	walk->port = bpf_ntohs(to->port);
	walk->mark = ctx->sk->mark;
	read_owner(sk, &walk->owner);
	walk->ends_in_silence = ends_in_silence(tcp);
	return true;
}

/* Whether what a socket asked for is known from now on. */
static __always_inline bool remember(struct walk *walk, __u64 cookie, struct socket_address *wanted)
{
	if (walk->ends_in_silence)
		return !bpf_map_update_elem(&released, &cookie, wanted, BPF_ANY);
	return !bpf_map_update_elem(&captured, &cookie, wanted, BPF_ANY);
}

static __always_inline int fail(__u32 error, __u32 why)
{
	count(why);
	bpf_set_retval(-(int)error);
	return FAILS;
}

static __always_inline bool listens(struct socket_address *proxy)
{
	struct socket_address any = { .port = proxy->port };

	return bpf_map_lookup_elem(&listeners, proxy) || bpf_map_lookup_elem(&listeners, &any);
}

/* A socket that is bound to a device would send to 127.0.0.1 by that device. */
static __always_inline bool is_off_device(struct bpf_sock_addr *ctx, __be32 to)
{
	struct bpf_sock *sk = ctx->sk;
	__u32 device = sk ? sk->bound_dev_if : 0;

	return device && device != LOOPBACK_IFINDEX && (to & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
}

static __always_inline int redirect(struct bpf_sock_addr *ctx, struct walk *walk, struct node *node,
				    struct socket_address *to)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct socket_address wanted = *to;
	struct socket_address proxy = {
		.addr = node->a,
		.port = node->b & KEEPS_PORT ? wanted.port : (__be16)node->b,
	};

	if (proxy.addr == wanted.addr && proxy.port == wanted.port)
		return GOES;
	if (is_proxy(config.pids) || bpf_map_lookup_elem(&watched, &cookie)) {
		count(PROXY_PASSED);
		return GOES;
	}
	if (!listens(&proxy)) {
		switch (node->otherwise) {
		case OTHERWISE_ACCEPT:
			return GOES;
		case OTHERWISE_DROP:
			return fail(ETIMEDOUT, NO_LISTENER);
		default:
			return fail(ECONNREFUSED, NO_LISTENER);
		}
	}
	if (is_off_device(ctx, proxy.addr))
		return fail(EHOSTUNREACH, OFF_DEVICE);
	if (!remember(walk, cookie, &wanted))
		return fail(ENOBUFS, FULL);
	count(REDIRECTED);
	*to = proxy;
	return GOES;
}

/* `to` is where it asks for, and then where it goes. */
static __always_inline int judge(struct bpf_sock_addr *ctx, struct socket_address *to)
{
	struct walk walk = {};
	struct node *node;

	if (!describe(ctx, to, &walk))
		return GOES;
	node = decide(&walk);
	if (!node)
		return fail(EPERM, STUCK);
	switch (node->test) {
	case GO:
		return GOES;
	case REDIRECT:
		return redirect(ctx, &walk, node, to);
	default:
		return fail(node->a, node->a == EPERM ? DROPPED : REJECTED);
	}
}

/* One that was redirected before may connect once more, and elsewhere. */
static __always_inline void forget(struct bpf_sock_addr *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	if (bpf_map_lookup_elem(&captured, &cookie))
		bpf_map_delete_elem(&captured, &cookie);
}

static __always_inline struct socket_address *wanted(struct bpf_sock_addr *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	return bpf_map_lookup_elem(&captured, &cookie);
}

static __always_inline bool is_mapped(struct bpf_sock_addr *ctx)
{
	return !ctx->user_ip6[0] && !ctx->user_ip6[1] && ctx->user_ip6[2] == MAPPED;
}

SEC("cgroup/connect4")
int xtp_connect4(struct bpf_sock_addr *ctx)
{
	struct socket_address to = { .addr = ctx->user_ip4, .port = ctx->user_port };

	forget(ctx);
	if (judge(ctx, &to) == FAILS)
		return FAILS;
	ctx->user_ip4 = to.addr;
	ctx->user_port = to.port;
	return GOES;
}

SEC("cgroup/connect6")
int xtp_connect6(struct bpf_sock_addr *ctx)
{
	struct socket_address to = { .addr = ctx->user_ip6[3], .port = ctx->user_port };

	forget(ctx);
	if (!is_mapped(ctx))
		return GOES;
	if (judge(ctx, &to) == FAILS)
		return FAILS;
	ctx->user_ip6[3] = to.addr;
	ctx->user_port = to.port;
	return GOES;
}

SEC("cgroup/getpeername4")
int xtp_peer4(struct bpf_sock_addr *ctx)
{
	struct socket_address *peer = wanted(ctx);

	if (peer) {
		ctx->user_ip4 = peer->addr;
		ctx->user_port = peer->port;
	}
	return GOES;
}

SEC("cgroup/getpeername6")
int xtp_peer6(struct bpf_sock_addr *ctx)
{
	struct socket_address *peer = wanted(ctx);

	if (peer && is_mapped(ctx)) {
		ctx->user_ip6[3] = peer->addr;
		ctx->user_port = peer->port;
	}
	return GOES;
}

/* The context is the kernel's own socket, and says more than its type does. */
static __always_inline void bound_at(struct bpf_sock *ctx, __be32 addr)
{
	struct sock *sk = (void *)ctx;
	struct socket_address at = { .addr = addr, .port = bpf_htons(ctx->src_port) };

	if (ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP)
		return;
	if (!bpf_map_lookup_elem(&targets, &at))
		return;
	if (BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum) == config.network)
		note_bound(config.pids);
}

SEC("cgroup/post_bind4")
int xtp_bound4(struct bpf_sock *ctx)
{
	bound_at(ctx, ctx->src_ip4);
	return GOES;
}

SEC("cgroup/post_bind6")
int xtp_bound6(struct bpf_sock *ctx)
{
	struct sock_common *common = (void *)ctx;
	__u32 third = ctx->src_ip6[2], fourth = ctx->src_ip6[3];

	if (ctx->src_ip6[0] || ctx->src_ip6[1])
		return GOES;
	if (third == MAPPED)
		bound_at(ctx, fourth);
	/* One of version 6 alone is no proxy of these, and may stand beside one. */
	else if (!third && !fourth && !BPF_CORE_READ_BITFIELD_PROBED(common, skc_ipv6only))
		bound_at(ctx, 0);
	return GOES;
}

SEC("cgroup/sock_release")
int xtp_released(struct bpf_sock *sk)
{
	__u64 cookie = bpf_get_socket_cookie(sk);
	struct socket_address *to = bpf_map_lookup_elem(&captured, &cookie), was;

	if (!to)
		return GOES;
	was = *to;
	bpf_map_update_elem(&released, &cookie, &was, BPF_ANY);
	bpf_map_delete_elem(&captured, &cookie);
	return GOES;
}

char _license[] SEC("license") = "Dual BSD/GPL";
