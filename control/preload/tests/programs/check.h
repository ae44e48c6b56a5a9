/* What the programs share: a check that says where it failed. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #what, errno);           \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* A call that must fail with this errno. */
#define FAILS(error, call)                                                                         \
    do {                                                                                           \
        errno = 0;                                                                                 \
        long got_ = (long)(call);                                                                  \
        if (got_ != -1 || errno != (error)) {                                                      \
            fprintf(stderr, "%s:%d: %s gives %ld, errno %d, not %d\n", __FILE__, __LINE__, #call,  \
                    got_, errno, (error));                                                         \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

enum { IP_TPROXY = 11274, IP_RECVORIGADDRS = 11273, SO_ORIGINAL_DST = 80 };
enum { VERSION, ASSIGN, UNASSIGN, QUERY, FLAGS, ALLOC, CONNECT };

struct in_tproxy {
    uint32_t op;
    union {
        uint32_t number;
        struct {
            uint32_t addr;
            uint16_t port;
        } to;
    } v;
};
_Static_assert(sizeof(struct in_tproxy) == 12, "as the original's");

/* Filled with garbage, as the stack of a real client is. */
static inline struct in_tproxy garbage(uint32_t op)
{
    struct in_tproxy it;
    memset(&it, 0xa5, sizeof it);
    it.op = op;
    return it;
}

static inline int set_number(int fd, uint32_t op, uint32_t number)
{
    struct in_tproxy it = garbage(op);
    it.v.number = number;
    return setsockopt(fd, SOL_IP, IP_TPROXY, &it, sizeof it);
}

static inline int set_to(int fd, uint32_t op, const char *addr, int port)
{
    struct in_tproxy it = garbage(op);
    it.v.to.addr = inet_addr(addr);
    it.v.to.port = htons(port);
    return setsockopt(fd, SOL_IP, IP_TPROXY, &it, sizeof it);
}

static inline int set_bare(int fd, uint32_t op)
{
    struct in_tproxy it = garbage(op);
    return setsockopt(fd, SOL_IP, IP_TPROXY, &it, sizeof it);
}

static inline int get(int fd, uint32_t op, struct in_tproxy *it)
{
    socklen_t len = sizeof *it;
    *it = garbage(op);
    int done = getsockopt(fd, SOL_IP, IP_TPROXY, it, &len);
    if (done == 0)
        CHECK(len == 12 && it->op == op);
    return done;
}

static inline struct sockaddr_in at(const char *addr, int port)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons(port)};
    sin.sin_addr.s_addr = inet_addr(addr);
    return sin;
}

static inline int bound(int type, const char *addr, struct sockaddr_in *got)
{
    int fd = socket(AF_INET, type, 0), one = 1;
    socklen_t len = sizeof *got;
    struct sockaddr_in sin = at(addr, 0);
    CHECK(fd >= 0);
    /* With it, two datagram sockets can get one port. */
    if (type == SOCK_STREAM)
        CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0);
    CHECK(bind(fd, (struct sockaddr *)&sin, sizeof sin) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)got, &len) == 0);
    return fd;
}
