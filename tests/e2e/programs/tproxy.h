/* What the programs share. Each ends with a line that says where it failed. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ip_tproxy.h"

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #what, strerror(errno));        \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static inline struct sockaddr_in at(const char *addr, int port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    CHECK(inet_pton(AF_INET, addr, &in.sin_addr) == 1);
    return in;
}

/* Like the stack of a real client: full of something else. */
static inline struct in_tproxy dirty(uint32_t op)
{
    struct in_tproxy it;
    memset(&it, 0xc3, sizeof it);
    it.op = op;
    return it;
}

static inline int set_address(int fd, uint32_t op, const char *addr, int port)
{
    struct in_tproxy it = dirty(op);
    it.v.addr.faddr = at(addr, port).sin_addr;
    it.v.addr.fport = htons(port);
    return setsockopt(fd, SOL_IP, IP_TPROXY, &it, sizeof it);
}

static inline int set_flags(int fd, uint32_t flags)
{
    struct in_tproxy it = dirty(TPROXY_FLAGS);
    it.v.flags = flags;
    return setsockopt(fd, SOL_IP, IP_TPROXY, &it, sizeof it);
}

static inline int set_plain(int fd, uint32_t op)
{
    struct in_tproxy it = dirty(op);
    return setsockopt(fd, SOL_IP, IP_TPROXY, &it, sizeof it);
}

static inline struct in_tproxy get(int fd, uint32_t op)
{
    struct in_tproxy it = dirty(op);
    socklen_t len = sizeof it;
    CHECK(getsockopt(fd, SOL_IP, IP_TPROXY, &it, &len) == 0);
    return it;
}

static inline int bound(int type, const char *addr, int port)
{
    int fd = socket(AF_INET, type, 0), one = 1;
    struct sockaddr_in in = at(addr, port);
    CHECK(fd >= 0);
    if (type == SOCK_STREAM)
        CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0);
    CHECK(bind(fd, (struct sockaddr *)&in, sizeof in) == 0);
    return fd;
}

/* Tells the test. */
static inline void say(const char *word)
{
    puts(word);
    fflush(stdout);
}
