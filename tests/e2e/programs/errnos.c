/* Plays cases from standard input, a line each: words that open sockets and ask for operations. Says for each
 * case the errno of its last word, 0 if it was done; all before it must be done. By the socket options, or with
 * LIBRARY by libxtproxy. */
#include "tproxy.h"
#ifdef LIBRARY
#include "xtproxy.h"
static xtproxy *library;
#endif

#define LOCAL "198.51.100.1"

static int fds[8], count, now;

static void opened(int fd)
{
    CHECK(fd >= 0 && count < 8);
    now = count;
    fds[count++] = fd;
}

static void open_bound(int type, int port, int reuse)
{
    struct sockaddr_in in = at(LOCAL, port);
    opened(socket(AF_INET, type, 0));
    if (reuse)
        CHECK(setsockopt(fds[now], SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse) == 0);
    CHECK(bind(fds[now], (struct sockaddr *)&in, sizeof in) == 0);
}

static struct sockaddr_in endpoint(const char *text)
{
    char addr[32];
    const char *colon = strchr(text, ':');
    CHECK(colon && colon - text < 32);
    memcpy(addr, text, colon - text);
    addr[colon - text] = 0;
    return at(addr, atoi(colon + 1));
}

#ifdef LIBRARY
static int operation(const char *word, const char *value)
{
    int fd = fds[now];
    unsigned int flags;
    struct sockaddr_in in;
    if (!strcmp(word, "assign") || !strcmp(word, "peer"))
        in = endpoint(value);
    if (!strcmp(word, "assign"))
        return xtproxy_assign(library, fd, &in);
    if (!strcmp(word, "peer"))
        return xtproxy_connect_peer(library, fd, &in);
    if (!strcmp(word, "unassign"))
        return xtproxy_unassign(library, fd);
    if (!strcmp(word, "query"))
        return xtproxy_query(library, fd, &in);
    if (!strcmp(word, "flags"))
        return xtproxy_set_flags(library, fd, strtoul(value, NULL, 16));
    if (!strcmp(word, "getflags"))
        return xtproxy_get_flags(library, fd, &flags);
    if (!strcmp(word, "alloc"))
        return xtproxy_alloc(library, fd);
    if (!strcmp(word, "version"))
        return xtproxy_check_version(library, fd, strtoul(value, NULL, 16));
    CHECK(!strcmp(word, "getversion"));
    return xtproxy_version(library, fd, &flags);
}
#else
static int asked(uint32_t op)
{
    struct in_tproxy it = dirty(op);
    socklen_t len = sizeof it;
    return getsockopt(fds[now], SOL_IP, IP_TPROXY, &it, &len);
}

static int operation(const char *word, const char *value)
{
    int fd = fds[now];
    struct in_tproxy it;
    struct sockaddr_in in;
    if (!strcmp(word, "assign") || !strcmp(word, "peer")) {
        in = endpoint(value);
        it = dirty(*word == 'a' ? TPROXY_ASSIGN : TPROXY_CONNECT);
        it.v.addr.faddr = in.sin_addr;
        it.v.addr.fport = in.sin_port;
        return setsockopt(fd, SOL_IP, IP_TPROXY, &it, sizeof it);
    }
    if (!strcmp(word, "unassign"))
        return set_plain(fd, TPROXY_UNASSIGN);
    if (!strcmp(word, "query"))
        return asked(TPROXY_QUERY);
    if (!strcmp(word, "flags"))
        return set_flags(fd, strtoul(value, NULL, 16));
    if (!strcmp(word, "getflags"))
        return asked(TPROXY_FLAGS);
    if (!strcmp(word, "alloc"))
        return set_plain(fd, TPROXY_ALLOC);
    if (!strcmp(word, "setop"))
        return set_plain(fd, atoi(value));
    if (!strcmp(word, "getop"))
        return asked(atoi(value));
    it = dirty(TPROXY_VERSION);
    if (!strcmp(word, "short"))
        return setsockopt(fd, SOL_IP, IP_TPROXY, &it, 7);
    if (!strcmp(word, "pointer"))
        return setsockopt(fd, SOL_IP, IP_TPROXY, (void *)8, sizeof it);
    if (!strcmp(word, "getversion"))
        return asked(TPROXY_VERSION);
    CHECK(!strcmp(word, "version"));
    it.v.version = strtoul(value, NULL, 16);
    return setsockopt(fd, SOL_IP, IP_TPROXY, &it, sizeof it);
}
#endif

static int play(const char *word, const char *value)
{
    int port = value ? atoi(value) : 0;
    struct sockaddr_in peer = at("198.51.100.10", 7000);
    if (!strcmp(word, "tcp"))
        open_bound(SOCK_STREAM, port, 0);
    else if (!strcmp(word, "reuse"))
        open_bound(SOCK_STREAM, port, 1);
    else if (!strcmp(word, "udp"))
        open_bound(SOCK_DGRAM, port, 0);
    else if (!strcmp(word, "unbound"))
        opened(socket(AF_INET, SOCK_STREAM, 0));
    else if (!strcmp(word, "raw"))
        opened(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    else if (!strcmp(word, "joined"))
        CHECK(connect(fds[now], (struct sockaddr *)&peer, sizeof peer) == 0);
    else if (!strcmp(word, "use"))
        now = port;
    else if (!strcmp(word, "gone"))
        close(fds[now]);
    else
        return operation(word, value);
    return 0;
}

int main(void)
{
    char line[512];
#ifdef LIBRARY
    CHECK((library = xtproxy_open(NULL)));
#endif
    while (fgets(line, sizeof line, stdin)) {
        char *rest, *word = strtok_r(line, " \n", &rest);
        int failed = 0;
        for (count = 0; word; word = strtok_r(NULL, " \n", &rest)) {
            char *value = strchr(word, '=');
            if (failed) {
                printf("%d before %s\n", failed, word);
                break;
            }
            if (value)
                *value++ = 0;
            failed = play(word, value) ? errno : 0;
        }
        if (!word)
            printf("%d\n", failed);
        for (int n = 0; n < count; n++)
            close(fds[n]);
    }
    return 0;
}
