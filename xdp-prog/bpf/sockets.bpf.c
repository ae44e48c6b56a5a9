// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Tells which of the watched sockets have been closed, by whatever way: the kernel calls
 * xtp_closed when the last descriptor of a socket goes.
 *
 * Invariant: a watched cookie leaves `watched` once, and then it is in `closed` or `lost` has
 * grown.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* the loader sets it */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u8);
} watched SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1); /* the loader sets it */
	__type(value, __u64);
} closed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

SEC("cgroup/sock_release")
int xtp_closed(struct bpf_sock *sk)
{
	__u64 cookie = bpf_get_socket_cookie(sk);
	__u32 zero = 0;
	__u64 *missed;

	/* Most sockets of the machine are not watched: no lock for them. */
	if (!bpf_map_lookup_elem(&watched, &cookie) || bpf_map_delete_elem(&watched, &cookie))
		return 1;
	if (!bpf_map_push_elem(&closed, &cookie, BPF_ANY))
		return 1;
	missed = bpf_map_lookup_elem(&lost, &zero);
	if (missed)
		__sync_fetch_and_add(missed, 1);
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
