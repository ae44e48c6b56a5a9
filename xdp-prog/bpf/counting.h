/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Counters per CPU; the includer defines COUNTERS. */
#ifndef XTP_COUNTING_H
#define XTP_COUNTING_H

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += 1;
}

#endif
