/* The orders of calls of real clients of TProxy 2.0, each with a connection that talks.
 * orders CLIENT LOCAL FOREIGN FOREIGN-PORT SERVER SERVER-PORT */
#include "tproxy.h"

static void talk(int fd)
{
    char back[6] = {0};
    CHECK(send(fd, "hello\n", 6, 0) == 6);
    CHECK(recv(fd, back, sizeof back, MSG_WAITALL) == 6 && memcmp(back, "hello\n", 6) == 0);
}

/* Checks the version once, then connects without blocking. */
static void haproxy(const char *local, const char *foreign, int port, struct sockaddr_in to)
{
    struct in_tproxy version = dirty(TPROXY_VERSION);
    version.v.version = 0x02000000;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(setsockopt(fd, SOL_IP, IP_TPROXY, &version, sizeof version) == 0);
    close(fd);
    fd = bound(SOCK_STREAM, local, 0);
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    CHECK(set_address(fd, TPROXY_ASSIGN, foreign, port) == 0);
    CHECK(set_flags(fd, ITP_CONNECT | ITP_ONCE) == 0);
    CHECK(connect(fd, (struct sockaddr *)&to, sizeof to) == 0 || errno == EINPROGRESS);
    struct pollfd done = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t len = sizeof error;
    CHECK(poll(&done, 1, 10000) == 1);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error == 0);
    CHECK(fcntl(fd, F_SETFL, 0) == 0);
    talk(fd);
    close(fd);
}

static void squid(const char *local, const char *foreign, struct sockaddr_in to)
{
    int fd = bound(SOCK_STREAM, local, 0);
    CHECK(set_address(fd, TPROXY_ASSIGN, foreign, 0) == 0);
    CHECK(set_flags(fd, ITP_CONNECT) == 0);
    CHECK(connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
    talk(fd);
    /* The port that was chosen shows now. */
    CHECK(get(fd, TPROXY_QUERY).v.addr.fport != 0);
    CHECK(get(fd, TPROXY_FLAGS).v.flags & ITP_APPLIED);
    close(fd);
}

static void zorp(const char *local, const char *foreign, int port, struct sockaddr_in to)
{
    struct sockaddr_in own = at(foreign, port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(fd, (struct sockaddr *)&own, sizeof own) == -1 && errno == EADDRNOTAVAIL);
    close(fd);
    fd = bound(SOCK_STREAM, local, 0);
    CHECK(set_address(fd, TPROXY_ASSIGN, foreign, port) == 0);
    struct in_tproxy it = get(fd, TPROXY_QUERY);
    CHECK(it.v.addr.faddr.s_addr == own.sin_addr.s_addr && it.v.addr.fport == own.sin_port);
    if (port == 0) {
        CHECK(set_plain(fd, TPROXY_ALLOC) == 0);
        CHECK(get(fd, TPROXY_QUERY).v.addr.fport != 0);
    }
    char server[INET_ADDRSTRLEN];
    CHECK(inet_ntop(AF_INET, &to.sin_addr, server, sizeof server));
    CHECK(set_address(fd, TPROXY_CONNECT, server, ntohs(to.sin_port)) == 0);
    CHECK(set_flags(fd, ITP_CONNECT) == 0);
    CHECK(connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
    talk(fd);
    close(fd);
}

/* Listens at the foreign endpoint, in Zorp's order or with the flags before listen(). */
static void listens(const char *local, const char *foreign, int port, int flags_first)
{
    int fd = bound(SOCK_STREAM, local, 0);
    CHECK(set_address(fd, TPROXY_ASSIGN, foreign, port) == 0);
    if (flags_first)
        CHECK(set_flags(fd, ITP_LISTEN) == 0);
    CHECK(listen(fd, 5) == 0);
    if (!flags_first)
        CHECK(set_flags(fd, get(fd, TPROXY_FLAGS).v.flags | ITP_LISTEN) == 0);
    say("ready");
    struct pollfd come = {.fd = fd, .events = POLLIN};
    CHECK(poll(&come, 1, 20000) == 1);
    struct sockaddr_in from, wanted, right = at(foreign, port);
    socklen_t len = sizeof from, wanted_len = sizeof wanted;
    int one = accept(fd, (struct sockaddr *)&from, &len);
    CHECK(one >= 0);
    struct in_tproxy it = get(one, TPROXY_QUERY);
    CHECK(it.v.addr.faddr.s_addr == right.sin_addr.s_addr && it.v.addr.fport == right.sin_port);
    CHECK(getsockopt(one, SOL_IP, 80 /* SO_ORIGINAL_DST */, &wanted, &wanted_len) == 0);
    CHECK(wanted.sin_addr.s_addr == right.sin_addr.s_addr && wanted.sin_port == right.sin_port);
    char text[64], source[INET_ADDRSTRLEN];
    CHECK(inet_ntop(AF_INET, &from.sin_addr, source, sizeof source));
    printf("from %s:%d\n", source, ntohs(from.sin_port));
    fflush(stdout);
    ssize_t got;
    while ((got = recv(one, text, sizeof text, 0)) > 0)
        CHECK(send(one, text, got, 0) == got);
    CHECK(got == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 7);
    alarm(60);
    const char *client = argv[1], *local = argv[2], *foreign = argv[3];
    int port = atoi(argv[4]);
    struct sockaddr_in to = at(argv[5], atoi(argv[6]));
    if (strcmp(client, "haproxy") == 0)
        haproxy(local, foreign, port, to);
    else if (strcmp(client, "squid") == 0)
        squid(local, foreign, to);
    else if (strcmp(client, "zorp") == 0)
        zorp(local, foreign, port, to);
    else if (strcmp(client, "zorp-listen") == 0)
        listens(local, foreign, port, 0);
    else if (strcmp(client, "flags-then-listen") == 0)
        listens(local, foreign, port, 1);
    else
        CHECK(!"a client of this name");
    say("ok");
    return 0;
}
