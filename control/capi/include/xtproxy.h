/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * libxtproxy: listen on, and connect from, addresses that are not the box's
 * own, and learn where redirected connections were meant to go.
 *
 * The library asks xtproxyd over shared memory. There is one handle for each
 * daemon; any number of threads may use it at once. When the daemon was
 * restarted, or the process has forked, the next call opens a new channel,
 * after chroot too: the runtime directory is held open. While the daemon is
 * being restarted, calls wait for the next one: three seconds from the first
 * that found none, and then not at all until there is one again. A child that
 * has become another user needs a grant for that user.
 *
 * What is registered belongs to the socket: it ends with xtproxy_unassign or
 * when the socket is closed, not with the handle. Foreign addresses need a
 * grant in the daemon's configuration; root may use all.
 *
 * Functions return 0, or a descriptor where that is said, or -1 with errno
 * set. xtproxy_error tells the last failure of the calling thread in one line.
 * Common to all are
 *
 *     ENOPROTOOPT  no daemon answers, or it is of another version
 *     ETIMEDOUT    the daemon hangs; whether the call was done is unknown
 *     EBADF        fd is not open        ENOTSOCK  fd is no socket
 *     EBADF        also: the first thread of the process has ended, or this
 *                  one has a descriptor table of its own (unshare)
 *     EINVAL       the handle is NULL    EFAULT    a pointer is NULL
 *     EAFNOSUPPORT an address is not of AF_INET
 *
 * Addresses and ports in struct sockaddr_in are as on the wire.
 */
#ifndef XTPROXY_H
#define XTPROXY_H

#include <netinet/in.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What to do with a foreign address. ip_tproxy.h names the same bits ITP_. */
#define XTPROXY_CONNECT 0x00000001u     /* connections carry it */
#define XTPROXY_LISTEN 0x00000002u      /* what is sent to it arrives */
#define XTPROXY_ESTABLISHED 0x00000004u /* UDP with a peer: both directions */
#define XTPROXY_ONCE 0x00010000u        /* stored, without effect */
#define XTPROXY_MARK 0x00020000u        /* told only: no foreign address */
#define XTPROXY_APPLIED 0x00040000u     /* told only: a flow came of it */
#define XTPROXY_UNIDIR 0x00080000u      /* UDP, with LISTEN: one way */

/* A connection to the daemon. */
typedef struct xtproxy xtproxy;

/*
 * Connects to the daemon of this runtime directory; NULL: the one that the
 * environment variable XTPROXY_RUNTIME_DIR names, or /run/xtproxy. Returns
 * NULL with errno set: ENOENT or ECONNREFUSED if there is none, EACCES if this
 * user may not use it, EAGAIN if it serves too many programs.
 */
xtproxy *xtproxy_open(const char *runtime_dir);

/* Closes it; NULL is fine. No other thread may be using it. Sockets stay
 * registered. */
void xtproxy_close(xtproxy *x);

/* The last failure of this thread in one line, with its cause and what to do
 * about it; "" if there was none. Valid until the thread's next call. */
const char *xtproxy_error(void);

/* Which descriptors the handle needs, for programs that close all that they do
 * not know: writes at most `most` of them and returns how many there are. They
 * change when a channel is opened anew. */
int xtproxy_descriptors(xtproxy *x, int *fds, int most);

/*
 * TProxy 2.0, operation by operation.
 */

/* Which version of the interface is served: 0xMMmmpppp. */
int xtproxy_version(xtproxy *x, int fd, unsigned int *version);

/* Checks that a version of the interface is served. EINVAL if not. */
int xtproxy_check_version(xtproxy *x, int fd, unsigned int version);

/*
 * Gives a bound socket a foreign address. Port 0: chosen when it connects, or
 * by xtproxy_alloc. 0.0.0.0:0: only marks it for rules.
 *
 *     EPERM       no grant for the address, or not the socket's owner
 *     EINVAL      connected already, not bound to an address of the box, no
 *                 TCP or UDP socket of IPv4, or no possible foreign address
 *     EEXIST      the socket, or another with the same local address, port and
 *                 peer, has one
 *     EADDRINUSE  the foreign address is taken and SO_REUSEADDR is not set
 *     ENOBUFS     the table is full
 */
int xtproxy_assign(xtproxy *x, int fd, const struct sockaddr_in *foreign);

/* xtproxy_assign, xtproxy_connect_peer unless peer is NULL, and
 * xtproxy_set_flags in one round trip: all or nothing. */
int xtproxy_assign_flags(xtproxy *x, int fd, const struct sockaddr_in *foreign,
                         const struct sockaddr_in *peer, unsigned int flags);

/* Takes the foreign address away. Closing the socket does it too. ENOENT if
 * it has none. */
int xtproxy_unassign(xtproxy *x, int fd);

/* The foreign address of a socket; of an accepted socket, its listener's.
 * ENOENT if it has none. */
int xtproxy_query(xtproxy *x, int fd, struct sockaddr_in *foreign);

/* Says what to do with the foreign address: XTPROXY_ bits. ENOENT if the
 * socket has none; EINVAL for bits that the entry cannot have: one that shares
 * its foreign address can only connect, ESTABLISHED needs UDP and a peer. */
int xtproxy_set_flags(xtproxy *x, int fd, unsigned int flags);

/* What is done with it. ENOENT if the socket has none. */
int xtproxy_get_flags(xtproxy *x, int fd, unsigned int *flags);

/* Chooses a free foreign port. ENOENT without a foreign address; EINVAL if its
 * port is chosen already; EFAULT if none is free. */
int xtproxy_alloc(xtproxy *x, int fd);

/* Records the only peer that the entry is for, so that many sockets can share
 * one foreign address. ENOENT without a foreign address. */
int xtproxy_connect_peer(xtproxy *x, int fd, const struct sockaddr_in *peer);

/*
 * Beyond TProxy 2.0.
 */

/* Who is the peer of an accepted socket, and where did it want to go? Its port
 * can differ from what getpeername says. src and dst may be NULL. ENOENT if it
 * wanted the socket's own address. */
int xtproxy_original_dst(xtproxy *x, int fd, struct sockaddr_in *src,
                         struct sockaddr_in *dst);

/* The same of a datagram, by the source that recvfrom showed. fresh_ms, if not
 * NULL, is set to how many milliseconds the answer holds for further datagrams
 * that show this source; 0: not at all. */
int xtproxy_original_dst_from(xtproxy *x, int fd,
                              const struct sockaddr_in *shown,
                              struct sockaddr_in *src, struct sockaddr_in *dst,
                              unsigned int *fresh_ms);

/*
 * Listens on a foreign address and returns a descriptor, close-on-exec. local
 * is the box's own address by which it listens; its port may be 0. With a
 * peer, only that peer is accepted, and local may be NULL: it is then what the
 * kernel would send from. Foreign port 0: a free one, see xtproxy_query.
 */
int xtproxy_listen_foreign(xtproxy *x, const struct sockaddr_in *foreign,
                           const struct sockaddr_in *local,
                           const struct sockaddr_in *peer);

/* Accepts a connection to a foreign address and returns a descriptor,
 * close-on-exec; client, if not NULL, is set to the client's true address.
 * Connections that were made to another address, the local one for example,
 * are closed. Blocks unless the listener is O_NONBLOCK: then EAGAIN.
 *
 * When the daemon does not answer, nothing is lost: the connection is kept in
 * the handle and the next call on this listener begins with it. So call again
 * some time later, whether the listener is readable or not. */
int xtproxy_accept_foreign(xtproxy *x, int listener,
                           struct sockaddr_in *client);

/*
 * Connects to `to` so that it sees `foreign` as the client, and returns a
 * descriptor, close-on-exec. Foreign port 0: one is chosen, see xtproxy_query.
 * local is the box's own address to use (its port is ignored); NULL: what the
 * kernel would send from. Waits timeout_ms milliseconds at most: ETIMEDOUT;
 * negative: as long as the kernel tries.
 */
int xtproxy_connect_foreign(xtproxy *x, const struct sockaddr_in *foreign,
                            const struct sockaddr_in *to,
                            const struct sockaddr_in *local, int timeout_ms);

#ifdef __cplusplus
}
#endif

#endif
