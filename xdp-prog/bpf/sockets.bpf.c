// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Tells which of the watched sockets have been closed, by whatever way: the kernel calls
 * xtp_closed when the last descriptor of a socket goes.
 *
 * Invariant: a watched cookie that closes leaves `watched` once and then it is in `closed`, or
 * `lost` has grown.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "senders.h"

#define NOT_THERE -2 /* ENOENT */

/* Why a close is not in the queue; the keys of `lost`. */
enum {
	QUEUE_FULL,
	STILL_WATCHED, /* a map refused: the cookie stays where it was */
	REASONS,
};

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1); /* the loader sets it */
	__type(value, __u64);
} closed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

static __always_inline int lose(__u32 why)
{
	__u64 *closes = bpf_map_lookup_elem(&lost, &why);

	if (closes)
		__sync_fetch_and_add(closes, 1);
	return 1;
}

SEC("cgroup/sock_release")
int xtp_closed(struct bpf_sock *sk)
{
	__u64 cookie = bpf_get_socket_cookie(sk);
	__u32 *sender = bpf_map_lookup_elem(&watched, &cookie);
	__u32 was;
	long error;

	/* Most sockets of the machine are not watched: no lock for them. */
	if (!sender)
		return 1;
	was = *sender;
	if (bpf_map_update_elem(&ended, &cookie, &was, BPF_ANY))
		return lose(STILL_WATCHED);
	error = bpf_map_delete_elem(&watched, &cookie);
	if (error)
		return error == NOT_THERE ? 1 : lose(STILL_WATCHED);
	return bpf_map_push_elem(&closed, &cookie, BPF_ANY) ? lose(QUEUE_FULL) : 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
