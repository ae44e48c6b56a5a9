/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Records that the programs share with their loader. Each has its twin in
 * src/records.rs; the loader refuses an object whose sizes differ.
 */
#ifndef XTP_SHARED_H
#define XTP_SHARED_H

#include <linux/types.h>

#define MAC_LEN 6
#define MAX_TAKEN 32
#define MAX_MANAGEMENT 64
#define MAX_OWNERS 7
/* Twice MAX_ADDRESSES of the loader, which adds before it removes. */
#define ADDRESS_SLOTS 2048

/* Written before a frame on the slow lane, where no wire can write. */
#define SLOW_LANE_TAG 0x78747031 /* "xtp1" */

/* Settings of one port, fixed when its object is loaded. */
struct port_config {
	__u8 mac[MAC_LEN];	  /* the NIC's own */
	__u8 from_wire[MAC_LEN];  /* destination of slow-lane frames */
	__u8 from_stack[MAC_LEN]; /* source of frames diverted at egress; the last byte: owners */
	__u8 reinjected[MAC_LEN]; /* source of what the box re-injected (generic mode) */
	__u8 from_stranger[MAC_LEN]; /* like from_stack, of a socket that is not registered */
	__u8 from_box[MAC_LEN];	     /* like from_stack, of what is diverted by the guard alone */
	__u32 host_ifindex;	  /* xtp0 */
	__u32 max_frame;	  /* bytes that fit a chunk of the region */
	__u32 open;		  /* 1: without a socket, pass; 0: drop */
	__u32 generic;		  /* 1: generic XDP */
};

/* Settings of the host port. */
struct host_config {
	__u8 to_stack[MAC_LEN - 1]; /* prefix; the sixth byte is the port */
	__u8 pad[3];
};

#define INBOUND 1  /* to the address: divert on arrival */
#define OUTBOUND 2 /* from the address: divert on the way out */

/* Protocol and ports of an own address that the dataplane takes. */
struct taken_range {
	__u8 proto; /* 0: any */
	__u8 direction;
	__u16 lo, hi; /* host order, inclusive */
	__u16 pad;
};

struct taken {
	__u32 count;
	struct taken_range ranges[MAX_TAKEN];
};

/*
 * An endpoint of its own that the dataplane takes; its value is direction bits. With port 0 it
 * marks that there is one of this address and protocol, for packets whose ports are unknown.
 */
struct endpoint {
	__be32 addr;
	__u16 port; /* host order */
	__u8 proto;
	__u8 pad;
};

/* What always passes natively. */
struct management_entry {
	__be32 network;
	__be32 mask;
	__u16 lo, hi; /* host order, inclusive */
	__u8 proto;   /* 0: any */
	__u8 pad[3];
};

struct management {
	__u32 count;
	struct management_entry entries[MAX_MANAGEMENT];
};

struct uid_range {
	__u32 lo, hi; /* inclusive */
};

/* Whether all that is the box's own is diverted, and whose packets the rules tell apart. */
struct guard {
	__u32 on;
	__u32 owners;
	__u32 epoch; /* 0 or 0x80: the mark's bit that says which uids were asked */
	struct uid_range uids[MAX_OWNERS];
};

/* A NIC as the host port sees it; ifindex 0: no such port. */
struct delivery {
	__u32 ifindex;
	__u32 generic;
	__u8 mac[MAC_LEN];
	__u8 reinjected[MAC_LEN];
};

#endif
