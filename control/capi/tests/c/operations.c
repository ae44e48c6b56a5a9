/* Calls every function once and prints what comes of it, one line each. The
 * argument is the runtime directory. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <xtproxy.h>
#include <ip_tproxy.h>

#if XTPROXY_CONNECT != ITP_CONNECT || XTPROXY_LISTEN != ITP_LISTEN
#error "one bit, two values"
#endif
#if XTPROXY_ESTABLISHED != ITP_ESTABLISHED || XTPROXY_ONCE != ITP_ONCE
#error "one bit, two values"
#endif
#if XTPROXY_MARK != ITP_MARK || XTPROXY_APPLIED != ITP_APPLIED
#error "one bit, two values"
#endif
#if XTPROXY_UNIDIR != ITP_UNIDIR
#error "one bit, two values"
#endif

static void tell(const char *what, int outcome)
{
    if (outcome >= 0)
        printf("%s: done\n", what);
    else
        printf("%s: %s: %s\n", what, strerror(errno), xtproxy_error());
}

static const char *shown(const struct sockaddr_in *a)
{
    static char text[32];

    sprintf(text, "%s:%u", inet_ntoa(a->sin_addr), (unsigned)ntohs(a->sin_port));
    return text;
}

static struct sockaddr_in endpoint(const char *address, int port)
{
    struct sockaddr_in a;

    memset(&a, 0xa5, sizeof(a));
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = inet_addr(address);
    a.sin_port = htons((unsigned short)port);
    return a;
}

static void misuse(xtproxy *x, int fd)
{
    struct sockaddr_in bad = endpoint("203.0.113.5", 80);

    tell("no handle", xtproxy_alloc(NULL, fd));
    tell("no descriptor", xtproxy_alloc(x, -1));
    tell("closed descriptor", xtproxy_alloc(x, 4000));
    tell("no foreign", xtproxy_assign(x, fd, NULL));
    tell("no peer", xtproxy_connect_peer(x, fd, NULL));
    tell("no place", xtproxy_query(x, fd, NULL));
    tell("no place for flags", xtproxy_get_flags(x, fd, NULL));
    tell("no place for version", xtproxy_version(x, fd, NULL));
    tell("no local", xtproxy_listen_foreign(x, &bad, NULL, NULL));
    bad.sin_family = AF_INET6;
    tell("another family", xtproxy_assign(x, fd, &bad));
    xtproxy_close(NULL);
}

int main(int argc, char **argv)
{
    struct sockaddr_in foreign = endpoint("203.0.113.5", 80);
    struct sockaddr_in peer = endpoint("198.51.100.7", 443);
    struct sockaddr_in got, other;
    unsigned int number = 0;
    int fds[4] = {-1, -1, -1, -1};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    xtproxy *x = xtproxy_open("/nonexistent");

    printf("open: %s\n", x == NULL ? strerror(errno) : "done");
    printf("%s\n", xtproxy_error());
    if (argc != 2 || (x = xtproxy_open(argv[1])) == NULL)
        return 1;
    printf("descriptors: %d\n", xtproxy_descriptors(x, fds, 1));
    printf("room: %d %d\n", fds[0] >= 0, fds[1]);
    xtproxy_descriptors(x, fds, 4);
    printf("open: %d %d\n", fcntl(fds[0], F_GETFD), fcntl(fds[1], F_GETFD));

    tell("version", xtproxy_version(x, fd, &number));
    printf("%#x %d\n", number, TPROXY_VERSION_MAJOR(number));
    tell("check", xtproxy_check_version(x, fd, 0x02000000));
    tell("assign", xtproxy_assign(x, fd, &foreign));
    tell("assign flags", xtproxy_assign_flags(x, fd, &foreign, &peer, XTPROXY_CONNECT));
    tell("assign flags", xtproxy_assign_flags(x, fd, &foreign, NULL, XTPROXY_LISTEN));
    tell("unassign", xtproxy_unassign(x, fd));
    tell("query", xtproxy_query(x, fd, &got));
    printf("%d %s\n", got.sin_family == AF_INET, shown(&got));
    tell("set flags", xtproxy_set_flags(x, fd, XTPROXY_ESTABLISHED));
    tell("get flags", xtproxy_get_flags(x, fd, &number));
    printf("%#x\n", number);
    tell("alloc", xtproxy_alloc(x, fd));
    tell("connect peer", xtproxy_connect_peer(x, fd, &peer));
    tell("original", xtproxy_original_dst(x, fd, &got, &other));
    printf("%s ", shown(&got));
    printf("%s\n", shown(&other));
    tell("original", xtproxy_original_dst(x, fd, NULL, NULL));
    tell("original from", xtproxy_original_dst_from(x, fd, &peer, &got, &other, &number));
    printf("%u\n", number);
    misuse(x, fd);
    xtproxy_close(x);
    return 0;
}
