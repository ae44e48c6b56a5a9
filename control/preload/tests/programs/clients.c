/* The calls of real clients, in their orders. */
#include "check.h"

/* At start: is the interface there? Per connection: a foreign address, then a connect that does not
 * block. */
static void haproxy(void)
{
    struct sockaddr_in local;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(set_number(fd, VERSION, 0x02000000) == 0);
    CHECK(close(fd) == 0);
    int server = bound(SOCK_STREAM, "127.0.0.1", &local);
    CHECK(listen(server, 5) == 0);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    int one = 1;
    struct sockaddr_in from = at("127.0.0.1", 0);
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0);
    CHECK(bind(fd, (struct sockaddr *)&from, sizeof from) == 0);
    CHECK(set_to(fd, ASSIGN, "203.0.113.7", 4711) == 0);
    CHECK(set_number(fd, FLAGS, 1 | 0x10000) == 0);
    int done = connect(fd, (struct sockaddr *)&local, sizeof local);
    CHECK(done == 0 || errno == EINPROGRESS);
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    CHECK(poll(&wait, 1, 5000) == 1 && (wait.revents & POLLOUT));
    CHECK(close(fd) == 0);
    CHECK(close(server) == 0);
}

/* One connection to the server; one accepted whose destination is asked for. */
static void squid(void)
{
    struct sockaddr_in local;
    int fd = bound(SOCK_STREAM, "127.0.0.1", &local);
    CHECK(set_to(fd, ASSIGN, "203.0.113.8", 0) == 0);
    CHECK(set_number(fd, FLAGS, 1) == 0);
    int server = bound(SOCK_STREAM, "127.0.0.1", &local);
    CHECK(listen(server, 5) == 0);
    CHECK(connect(fd, (struct sockaddr *)&local, sizeof local) == 0);
    int accepted = accept(server, NULL, NULL);
    CHECK(accepted >= 0);
    struct sockaddr_in wanted;
    socklen_t len = sizeof wanted;
    memset(&wanted, 0xa5, sizeof wanted);
    CHECK(getsockopt(accepted, SOL_IP, SO_ORIGINAL_DST, &wanted, &len) == 0);
    struct sockaddr_in right = at("192.0.2.80", 8080);
    CHECK(len == sizeof right && memcmp(&wanted, &right, sizeof right) == 0);
}

/* Binds to what is not its own first, which must fail as ever. */
static void zorp(void)
{
    struct sockaddr_in local, foreign = at("203.0.113.9", 0);
    struct in_tproxy it;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    FAILS(EADDRNOTAVAIL, bind(fd, (struct sockaddr *)&foreign, sizeof foreign));
    close(fd);
    fd = bound(SOCK_STREAM, "127.0.0.1", &local);
    CHECK(set_to(fd, ASSIGN, "203.0.113.9", 0) == 0);
    CHECK(get(fd, QUERY, &it) == 0);
    CHECK(it.v.to.addr == inet_addr("203.0.113.9") && it.v.to.port == 0);
    CHECK(set_bare(fd, ALLOC) == 0);
    CHECK(get(fd, QUERY, &it) == 0 && it.v.to.port == htons(40000));
    CHECK(set_to(fd, CONNECT, "192.0.2.1", 80) == 0);
    CHECK(set_number(fd, FLAGS, 1) == 0);
    CHECK(set_bare(fd, UNASSIGN) == 0);
    close(fd);
    fd = bound(SOCK_STREAM, "127.0.0.1", &local);
    CHECK(set_to(fd, ASSIGN, "203.0.113.9", 21) == 0);
    CHECK(listen(fd, 5) == 0);
    CHECK(get(fd, FLAGS, &it) == 0 && it.v.number == 1);
    CHECK(set_number(fd, FLAGS, it.v.number | 2) == 0);
    close(fd);
    fd = bound(SOCK_DGRAM, "127.0.0.1", &local);
    CHECK(set_to(fd, ASSIGN, "203.0.113.9", 53) == 0);
    CHECK(set_number(fd, FLAGS, 2 | 0x80000) == 0);
    int one = 1;
    CHECK(setsockopt(fd, SOL_IP, IP_RECVORIGADDRS, &one, sizeof one) == 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    if (strcmp(argv[1], "haproxy") == 0)
        haproxy();
    else if (strcmp(argv[1], "squid") == 0)
        squid();
    else if (strcmp(argv[1], "zorp") == 0)
        zorp();
    else
        CHECK(!"a client of this name");
    return 0;
}
