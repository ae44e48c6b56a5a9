/* Every operation both ways, and all that can be wrong with a call. */
#include "check.h"

static void *bad = (void *)16;

/* An address whose second page is not there. */
static char *edge(void)
{
    long page = sysconf(_SC_PAGESIZE);
    char *two = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(two != MAP_FAILED && munmap(two + page, page) == 0);
    return two + page;
}

static void operations(int type)
{
    struct sockaddr_in local;
    struct in_tproxy it;
    int fd = bound(type, "127.0.0.1", &local);
    CHECK(set_number(fd, VERSION, 0x02000006) == 0);
    FAILS(EINVAL, set_number(fd, VERSION, 0x03000000));
    CHECK(get(fd, VERSION, &it) == 0 && it.v.number == 0x02000006);
    CHECK(set_to(fd, ASSIGN, "203.0.113.9", 21) == 0);
    CHECK(set_to(fd, ASSIGN, "0.0.0.0", 0) == 0);
    CHECK(set_bare(fd, ALLOC) == 0);
    CHECK(set_to(fd, CONNECT, "192.0.2.1", 80) == 0);
    CHECK(set_number(fd, FLAGS, 7) == 0);
    CHECK(get(fd, FLAGS, &it) == 0 && it.v.number == 1 && it.v.to.port == 0);
    CHECK(get(fd, QUERY, &it) == 0);
    CHECK(set_bare(fd, UNASSIGN) == 0);
    FAILS(ENOPROTOOPT, set_bare(fd, QUERY));
    FAILS(ENOPROTOOPT, get(fd, ASSIGN, &it));
    FAILS(ENOPROTOOPT, get(fd, UNASSIGN, &it));
    FAILS(ENOPROTOOPT, get(fd, ALLOC, &it));
    FAILS(ENOPROTOOPT, get(fd, CONNECT, &it));
    int unknown[] = {7, 63, 64, 65, -1};
    for (unsigned n = 0; n < sizeof unknown / sizeof *unknown; n++) {
        FAILS(ENOPROTOOPT, set_bare(fd, unknown[n]));
        FAILS(ENOPROTOOPT, get(fd, unknown[n], &it));
    }
    /* What the daemon refuses, with every errno there is: 240.0.hi.lo asks for it. */
    int errnos[] = {EPERM, EINVAL, EEXIST, EADDRINUSE, ENOBUFS, ENOENT, EFAULT, EIO};
    for (unsigned n = 0; n < sizeof errnos / sizeof *errnos; n++) {
        char addr[32];
        snprintf(addr, sizeof addr, "240.0.0.%d", errnos[n]);
        FAILS(errnos[n], set_to(fd, ASSIGN, addr, 1));
    }
    FAILS(EIO, set_to(fd, ASSIGN, "240.0.255.255", 1)); /* no errno at all */
    close(fd);
}

static void lengths(void)
{
    struct in_tproxy it = garbage(FLAGS);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    it.v.number = 3;
    socklen_t lengths[] = {0, 1, 4, 7, 0x80000000u, 0xffffffffu};
    for (unsigned n = 0; n < sizeof lengths / sizeof *lengths; n++) {
        socklen_t len = lengths[n];
        FAILS(EINVAL, setsockopt(fd, SOL_IP, IP_TPROXY, &it, len));
        FAILS(EINVAL, getsockopt(fd, SOL_IP, IP_TPROXY, &it, &len));
        CHECK(len == lengths[n]);
    }
    char large[64] = {FLAGS};
    for (socklen_t len = 8; len <= sizeof large; len++)
        CHECK(setsockopt(fd, SOL_IP, IP_TPROXY, large, len) == 0);
    /* Not a byte behind the caller's length is touched. */
    for (socklen_t given = 8; given <= sizeof large; given++) {
        memset(large, 0x5a, sizeof large);
        uint32_t op = VERSION;
        memcpy(large, &op, sizeof op);
        socklen_t len = given;
        CHECK(getsockopt(fd, SOL_IP, IP_TPROXY, large, &len) == 0);
        CHECK(len == (given < 12 ? given : 12));
        for (unsigned n = len; n < sizeof large; n++)
            CHECK(large[n] == 0x5a);
    }
    close(fd);
}

static void pointers(void)
{
    struct in_tproxy it = garbage(VERSION);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char *end = edge();
    socklen_t len = sizeof it;
    FAILS(EFAULT, setsockopt(fd, SOL_IP, IP_TPROXY, bad, sizeof it));
    FAILS(EFAULT, setsockopt(fd, SOL_IP, IP_TPROXY, NULL, sizeof it));
    FAILS(EFAULT, setsockopt(fd, SOL_IP, IP_TPROXY, end - 8, sizeof it));
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    FAILS(EFAULT, setsockopt(udp, SOL_IP, IP_RECVORIGADDRS, bad, 4));
    FAILS(EFAULT, getsockopt(fd, SOL_IP, IP_TPROXY, bad, &len));
    FAILS(EFAULT, getsockopt(fd, SOL_IP, IP_TPROXY, end - 8, &len));
    FAILS(EFAULT, getsockopt(fd, SOL_IP, IP_TPROXY, &it, bad));
    FAILS(EFAULT, getsockopt(fd, SOL_IP, IP_TPROXY, &it, NULL));
    /* Readable and not writable. */
    static const struct in_tproxy constant = {VERSION, {0}};
    FAILS(EFAULT, getsockopt(fd, SOL_IP, IP_TPROXY, (void *)&constant, &len));
    /* The last bytes before the edge are enough where they are all. */
    memcpy(end - 8, &it, 8);
    len = 8;
    CHECK(getsockopt(fd, SOL_IP, IP_TPROXY, end - 8, &len) == 0);
    close(fd);
}

static void sockets(void)
{
    struct in_tproxy it = garbage(VERSION);
    int one = 1, pipes[2];
    socklen_t len = sizeof it;
    FAILS(EBADF, set_number(-1, VERSION, 0x02000000));
    FAILS(EBADF, set_number(999, VERSION, 0x02000000));
    FAILS(EBADF, getsockopt(-1, SOL_IP, IP_TPROXY, &it, &len));
    CHECK(pipe(pipes) == 0);
    FAILS(ENOTSOCK, set_number(pipes[0], VERSION, 0x02000000));
    FAILS(ENOTSOCK, setsockopt(pipes[0], SOL_IP, IP_RECVORIGADDRS, &one, sizeof one));
    int unixes = socket(AF_UNIX, SOCK_STREAM, 0);
    FAILS(EOPNOTSUPP, set_number(unixes, VERSION, 0x02000000));
    int raw = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    CHECK(raw >= 0);
    FAILS(EINVAL, set_number(raw, VERSION, 0x02000000));
    int tcp = socket(AF_INET, SOCK_STREAM, 0);
    FAILS(EINVAL, setsockopt(tcp, SOL_IP, IP_RECVORIGADDRS, &one, sizeof one));
    /* The same numbers at other levels are none of ours. */
    FAILS(ENOPROTOOPT, setsockopt(tcp, IPPROTO_TCP, IP_TPROXY, &it, sizeof it));
    FAILS(ENOPROTOOPT, setsockopt(tcp, SOL_SOCKET, IP_TPROXY, &it, sizeof it));
}

static void wish(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0), value = 7;
    socklen_t len = sizeof value;
    CHECK(getsockopt(fd, SOL_IP, IP_RECVORIGADDRS, &value, &len) == 0 && value == 0 && len == 4);
    value = 5;
    CHECK(setsockopt(fd, SOL_IP, IP_RECVORIGADDRS, &value, sizeof value) == 0);
    CHECK(getsockopt(fd, SOL_IP, IP_RECVORIGADDRS, &value, &len) == 0 && value == 1);
    int other = dup(fd);
    value = 0;
    CHECK(getsockopt(other, SOL_IP, IP_RECVORIGADDRS, &value, &len) == 0 && value == 1);
    close(fd); /* its number goes to another socket, which has not asked */
    int next = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(next == fd);
    CHECK(getsockopt(next, SOL_IP, IP_RECVORIGADDRS, &value, &len) == 0 && value == 0);
    CHECK(setsockopt(other, SOL_IP, IP_RECVORIGADDRS, "", 1) == 0);
    value = 1;
    CHECK(getsockopt(other, SOL_IP, IP_RECVORIGADDRS, &value, &len) == 0 && value == 0);
}

/* What the kernel says itself. */
static void as_the_kernel(int fd)
{
    struct sockaddr_in ours, theirs;
    socklen_t len = sizeof ours, their_len = len;
    long raw = syscall(SYS_getsockopt, fd, SOL_IP, SO_ORIGINAL_DST, &theirs, &their_len);
    int error = errno;
    CHECK(getsockopt(fd, SOL_IP, SO_ORIGINAL_DST, &ours, &len) == raw);
    CHECK(raw == 0 || errno == error);
    CHECK(len == their_len);
}

static void is_original(int fd)
{
    struct sockaddr_in right = at("192.0.2.80", 8080);
    char room[64];
    for (socklen_t given = 16; given <= sizeof room; given++) {
        socklen_t len = given;
        memset(room, 0x5a, sizeof room);
        CHECK(getsockopt(fd, SOL_IP, SO_ORIGINAL_DST, room, &len) == 0);
        CHECK(len == sizeof right && memcmp(room, &right, len) == 0);
        for (unsigned n = len; n < sizeof room; n++)
            CHECK(room[n] == 0x5a);
    }
}

/* Those that the daemon is to be asked about, and those that it is not. */
static void originals(int is_known)
{
    struct sockaddr_in local;
    struct sockaddr_in6 any = {.sin6_family = AF_INET6};
    socklen_t len = sizeof any;
    int client = socket(AF_INET, SOCK_STREAM, 0), server = socket(AF_INET6, SOCK_STREAM, 0);
    CHECK(bind(server, (struct sockaddr *)&any, len) == 0 && listen(server, 1) == 0);
    CHECK(getsockname(server, (struct sockaddr *)&any, &len) == 0);
    struct sockaddr_in to = at("127.0.0.1", ntohs(any.sin6_port));
    CHECK(connect(client, (struct sockaddr *)&to, sizeof to) == 0);
    int mapped = accept(server, NULL, NULL);
    int udp = bound(SOCK_DGRAM, "127.0.0.1", &local), loose = bound(SOCK_DGRAM, "127.0.0.1", &local);
    CHECK(connect(udp, (struct sockaddr *)&local, sizeof local) == 0);
    int both[] = {client, mapped, udp}, never[] = {server, loose, socket(AF_INET, SOCK_STREAM, 0),
                                                  socket(AF_UNIX, SOCK_STREAM, 0), 0, -1};
    for (unsigned n = 0; n < sizeof both / sizeof *both; n++)
        if (is_known)
            is_original(both[n]);
        else
            as_the_kernel(both[n]);
    for (unsigned n = 0; n < sizeof never / sizeof *never; n++)
        as_the_kernel(never[n]);
    socklen_t small = 15, enough = 16;
    char room[16];
    CHECK(getsockopt(client, SOL_IP, SO_ORIGINAL_DST, room, &small) == -1 && errno != EFAULT);
    FAILS(EFAULT, getsockopt(client, SOL_IP, SO_ORIGINAL_DST, room, bad));
    if (is_known)
        FAILS(EFAULT, getsockopt(client, SOL_IP, SO_ORIGINAL_DST, bad, &enough));
}

/* As a kernel without it. */
static void nobody(void)
{
    struct sockaddr_in local, wanted;
    struct in_tproxy it;
    int one = 1, fd = bound(SOCK_STREAM, "127.0.0.1", &local);
    socklen_t len = sizeof wanted;
    FAILS(ENOPROTOOPT, set_number(fd, VERSION, 0x02000000));
    FAILS(ENOPROTOOPT, set_to(fd, ASSIGN, "203.0.113.1", 0));
    FAILS(ENOPROTOOPT, get(fd, VERSION, &it));
    FAILS(ENOPROTOOPT, get(fd, QUERY, &it));
    int udp = bound(SOCK_DGRAM, "127.0.0.1", &local);
    FAILS(ENOPROTOOPT, setsockopt(udp, SOL_IP, IP_RECVORIGADDRS, &one, sizeof one));
    FAILS(ENOPROTOOPT, getsockopt(udp, SOL_IP, IP_RECVORIGADDRS, &one, &len));
    /* The kernel's own answer, whatever it is. */
    long raw = syscall(SYS_getsockopt, fd, SOL_IP, SO_ORIGINAL_DST, &wanted, &len);
    int theirs = errno;
    CHECK(getsockopt(fd, SOL_IP, SO_ORIGINAL_DST, &wanted, &len) == raw && errno == theirs);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "nobody") == 0) {
        nobody();
        return 0;
    }
    if (argc > 1 && strcmp(argv[1], "originals") == 0) {
        originals(strcmp(argv[2], "known") == 0);
        return 0;
    }
    operations(SOCK_STREAM);
    operations(SOCK_DGRAM);
    lengths();
    pointers();
    sockets();
    wish();
    /* A call that succeeds leaves errno alone. */
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    errno = 77;
    CHECK(set_number(fd, VERSION, 0x02000000) == 0 && errno == 77);
    return 0;
}
