/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The socket options of TProxy 2.0, for sources that were written for it.
 *
 * They work in programs that are run with libxtproxy_preload.so. New programs
 * use xtproxy.h, which needs nothing of the kind.
 *
 *     struct in_tproxy itp;
 *
 *     itp.op = TPROXY_ASSIGN;
 *     itp.v.addr.faddr = client.sin_addr;
 *     itp.v.addr.fport = 0;
 *     setsockopt(fd, SOL_IP, IP_TPROXY, &itp, sizeof(itp));
 */
#ifndef XTPROXY_IP_TPROXY_H
#define XTPROXY_IP_TPROXY_H

#include <sys/types.h>
#include <netinet/in.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Socket options, level SOL_IP. */
#ifndef IP_RECVORIGADDRS
#define IP_RECVORIGADDRS 11273 /* UDP: ask for original addresses */
#endif
#ifndef IP_ORIGADDRS
#define IP_ORIGADDRS IP_RECVORIGADDRS /* type of the control message */
#endif
#ifndef IP_TPROXY
#define IP_TPROXY 11274 /* set and get, struct in_tproxy */
#endif

/* in_tproxy.op */
#define TPROXY_VERSION 0  /* set: check v.version; get: which is served */
#define TPROXY_ASSIGN 1   /* set: v.addr is the foreign address */
#define TPROXY_UNASSIGN 2 /* set: take it away */
#define TPROXY_QUERY 3    /* get: v.addr is the foreign address */
#define TPROXY_FLAGS 4    /* set and get: v.flags */
#define TPROXY_ALLOC 5    /* set: choose a free foreign port */
#define TPROXY_CONNECT 6  /* set: v.addr is the peer */

/* in_tproxy.v.flags */
#define ITP_CONNECT 0x00000001     /* connections carry the foreign address */
#define ITP_LISTEN 0x00000002      /* what is sent to it reaches the socket */
#define ITP_ESTABLISHED 0x00000004 /* UDP with a peer: both directions */
#define ITP_ONCE 0x00010000        /* stored, without effect */
#define ITP_MARK 0x00020000        /* get only: no foreign address */
#define ITP_APPLIED 0x00040000     /* get only: a flow has come of it */
#define ITP_UNIDIR 0x00080000      /* UDP, with ITP_LISTEN: one way */

/* TPROXY_VERSION: major in the top byte, minor in the next, then the patch. */
#define TPROXY_VERSION_MAJOR(version) (((version) >> 24) & 0xff)
#define TPROXY_VERSION_MINOR(version) (((version) >> 16) & 0xff)
#define TPROXY_VERSION_PATCH(version) ((version) & 0xffff)

/* What IP_TPROXY takes and gives. */
struct in_tproxy {
    u_int32_t op;
    union {
        u_int32_t version;
        u_int32_t flags;
        struct {
            struct in_addr faddr; /* as on the wire */
            u_int16_t fport;      /* as on the wire */
        } addr;
    } v;
};

/* The control message of IP_RECVORIGADDRS. Everything as on the wire. */
struct in_origaddrs {
    struct in_addr ioa_srcaddr;
    struct in_addr ioa_dstaddr;
    unsigned short int ioa_srcport;
    unsigned short int ioa_dstport;
};

#ifdef __cplusplus
}
#endif

#endif
