/* Holds many connections until it is killed.
 * crowd serve ADDRESS PORT COUNT
 * crowd connect LOCAL FOREIGN SERVER PORT COUNT */
#include "tproxy.h"

static void allow(int count)
{
    struct rlimit limit = {count + 100, count + 100};
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static void serve(const char *addr, int port, int count)
{
    int fd = bound(SOCK_STREAM, addr, port);
    CHECK(listen(fd, 4096) == 0);
    say("ready");
    for (int n = 0; n < count; n++)
        CHECK(accept(fd, NULL, NULL) >= 0);
}

static void connects(char **argv, int count)
{
    int port = atoi(argv[5]);
    struct sockaddr_in to = at(argv[4], port);
    for (int n = 0; n < count; n++) {
        /* The kernel takes ever longer to find a free port itself. */
        int fd = bound(SOCK_STREAM, argv[2], 10000 + n);
        CHECK(set_address(fd, TPROXY_ASSIGN, argv[3], 0) == 0);
        CHECK(set_address(fd, TPROXY_CONNECT, argv[4], port) == 0);
        CHECK(set_flags(fd, ITP_CONNECT) == 0);
        CHECK(connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
    }
}

int main(int argc, char **argv)
{
    CHECK(argc == 5 || argc == 7);
    int count = atoi(argv[argc - 1]);
    alarm(150);
    allow(count);
    if (argc == 5)
        serve(argv[2], atoi(argv[3]), count);
    else
        connects(argv, count);
    say("all");
    for (;;)
        pause();
}
