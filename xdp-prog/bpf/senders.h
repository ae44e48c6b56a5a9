/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Registered sockets by cookie. Made by the object of the sockets, shared with all ports.
 *
 * Invariant: a registered socket is in `watched` until it closes, and from then on in `ended`: at
 * no moment in neither.
 */
#ifndef XTP_SENDERS_H
#define XTP_SENDERS_H

#define SENDER_PLAIN 0 /* may send as it is */
#define SENDER_SHOWS 1 /* what it opens must be translated */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); /* the loader sets it */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} watched SEC(".maps");

/* With the value that it had: packets outlive their socket, for instance while they wait for ARP. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1); /* the loader sets it */
	__type(key, __u64);
	__type(value, __u32);
} ended SEC(".maps");

#endif
