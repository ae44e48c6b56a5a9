/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Who connects: the network namespace and the owner of a socket, and whether the process is a
 * proxy or descends from one. All this is the kernel's own memory, read by BTF; of each record
 * only what is read is declared here.
 */
#ifndef XTP_CALLER_H
#define XTP_CALLER_H

#include <stdbool.h>
#include <linux/types.h>
#include <bpf/bpf_core_read.h>

/* So far up a proxy is looked for. */
#define GENERATIONS 32
/* How deep pid namespaces nest (the kernel's MAX_PID_NS_LEVEL). */
#define PID_LEVELS 32

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct pid_namespace {
	struct ns_common ns;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

struct task_struct {
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct pid *thread_pid;
};

typedef struct {
	__u32 val;
} kuid_t;

typedef struct {
	__u32 val;
} kgid_t;

struct cred {
	kuid_t fsuid;
	kgid_t fsgid;
};

struct file {
	const struct cred *f_cred;
};

struct socket {
	struct file *file;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	possible_net_t skc_net;
	unsigned char skc_ipv6only : 1;
};

struct sock {
	struct sock_common __sk_common;
	struct socket *sk_socket;
	__u8 sk_kern_sock : 1;
};

struct inet_sock {
	struct sock sk;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	bool is_mptcp;
};

#pragma clang attribute pop

#define WITH_DESCENDANTS 1
#define ALONE 2 /* the first process of its namespace: all others descend from it */

/* Processes that listen as proxies, by the number that the loader's pid namespace has for them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PROXIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} proxies SEC(".maps");

/* For so long what a process has bound makes it a proxy; by then the loader has looked. */
#define GRACE_NS 10000000000ULL
#define FIRST_PROCESS 1

/*
 * When a process last bound a socket to where the rules redirect to. A proxy that starts may
 * connect before anybody has looked who it is.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
} bound SEC(".maps");

/* Who made a socket. */
struct owner {
	__u32 user, group;
	bool is_known;
};

static __always_inline void read_owner(struct sock *sk, struct owner *owner)
{
	struct socket *socket = sk->sk_socket;
	struct file *file = socket ? socket->file : 0;
	const struct cred *cred = file ? file->f_cred : 0;

	if (!cred)
		return;
	owner->user = cred->fsuid.val;
	owner->group = cred->fsgid.val;
	owner->is_known = true;
}

/*
 * Whether nobody is told of its end: paths of MPTCP are closed by the socket that is made of
 * them, and the kernel closes its own sockets in silence.
 */
static __always_inline bool ends_in_silence(struct tcp_sock *tcp)
{
	if (bpf_core_field_exists(tcp->is_mptcp) && tcp->is_mptcp)
		return true;
	return BPF_CORE_READ_BITFIELD(&tcp->inet_conn.icsk_inet.sk, sk_kern_sock);
}

/* 0: it has none there. */
static __always_inline __u32 number_of(struct task_struct *leader, __u32 namespace)
{
	struct pid *pid = leader->thread_pid;
	void *numbers;
	__u32 level;

	if (!pid)
		return 0;
	numbers = (void *)pid + bpf_core_field_offset(struct pid, numbers);
	for (level = 0; level < PID_LEVELS && level <= pid->level; level++) {
		struct pid_namespace *of = 0;
		__u32 inode = 0, number = 0;
		void *at = numbers + level * bpf_core_type_size(struct upid);

		bpf_probe_read_kernel(&of, sizeof(of), at + bpf_core_field_offset(struct upid, ns));
		bpf_probe_read_kernel(&inode, sizeof(inode),
				      (void *)of + bpf_core_field_offset(struct pid_namespace, ns) +
					      bpf_core_field_offset(struct ns_common, inum));
		if (inode != namespace)
			continue;
		bpf_probe_read_kernel(&number, sizeof(number), at + bpf_core_field_offset(struct upid, nr));
		return number;
	}
	return 0;
}

static __always_inline bool has_bound(__u32 number)
{
	__u64 *when = bpf_map_lookup_elem(&bound, &number);

	return when && bpf_ktime_get_ns() - *when < GRACE_NS;
}

/* Notes that the calling process has bound a socket that may be a proxy's. */
static __always_inline void note_bound(__u32 namespace)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_struct *leader = task->group_leader;
	__u32 number = leader ? number_of(leader, namespace) : 0;
	__u64 now = bpf_ktime_get_ns();

	if (number)
		bpf_map_update_elem(&bound, &number, &now, BPF_ANY);
}

/* Whether the calling process is a proxy, or a descendant of one whose forebears still live. */
static __always_inline bool is_proxy(__u32 namespace)
{
	struct task_struct *task = bpf_get_current_task_btf();
	int generation;

	for (generation = 0; generation < GENERATIONS; generation++) {
		struct task_struct *leader = task->group_leader;
		__u32 number, *kind;

		if (!leader)
			return false;
		number = number_of(leader, namespace);
		kind = bpf_map_lookup_elem(&proxies, &number);
		if (kind && (*kind == WITH_DESCENDANTS || generation == 0))
			return true;
		if ((number != FIRST_PROCESS || generation == 0) && has_bound(number))
			return true;
		/* The first process of all is its own parent. */
		task = leader->real_parent;
		if (!task || task == leader)
			return false;
	}
	return false;
}

#endif
