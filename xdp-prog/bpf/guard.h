/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Whether rules stand about what the box itself receives and sends, and which senders they tell
 * apart by their user.
 */
#ifndef XTP_GUARD_H
#define XTP_GUARD_H

#define SOCK_RAW 3 /* <sys/socket.h> wants a whole libc */

/* A hash of one entry, so that on and owners are replaced together; none: off. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct guard);
} guard SEC(".maps");

static __always_inline struct guard *find_guard(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&guard, &key);
}

static __always_inline bool is_guard_on(void)
{
	struct guard *found = find_guard();

	return found && found->on;
}

/*
 * Whether a packet was sent for a user. One of no socket, or of a connection that only waits for
 * its end, has a made-up user; and the kernel's own TCP answers come from a raw socket of its own.
 */
static __always_inline bool has_user(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk || sk->state == BPF_TCP_TIME_WAIT)
		return false;
	/* None of a connection that is not accepted yet: that is its listener's. */
	sk = bpf_sk_fullsock(sk);
	return !sk || sk->type != SOCK_RAW || sk->protocol != IPPROTO_TCP;
}

/*
 * Bit n: the user of the sender is one of owner test n; bit 7: by which tests. Without branches, as in
 * `differs`.
 */
static __always_inline __u8 owner_bits(struct __sk_buff *skb)
{
	struct guard *found = find_guard();
	__u64 bits, uid;
	__u32 i;

	if (!found)
		return 0;
	bits = found->epoch;
	if (!found->owners || !has_user(skb))
		return bits;
	uid = bpf_get_socket_uid(skb);
	for (i = 0; i < MAX_OWNERS; i++) {
		struct uid_range *r = &found->uids[i];
		__u64 outside = (uid - r->lo) >> 63 | ((__u64)r->hi - uid) >> 63;

		if (i >= found->owners)
			break;
		barrier_var(outside);
		bits |= (outside ^ 1) << i;
	}
	return bits;
}

#endif
