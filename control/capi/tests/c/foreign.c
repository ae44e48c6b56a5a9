/* Listens and connects. Arguments: the runtime directory, and the port of a
 * server on 127.0.0.1. Prints the local port that it listens on, and serves
 * one client by what it gets from the server. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <xtproxy.h>

static struct sockaddr_in endpoint(const char *address, int port)
{
    struct sockaddr_in a;

    memset(&a, 0, sizeof(a));
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = inet_addr(address);
    a.sin_port = htons((unsigned short)port);
    return a;
}

static int failed(const char *what)
{
    printf("%s: %s\n", what, xtproxy_error());
    return 1;
}

int main(int argc, char **argv)
{
    struct sockaddr_in foreign = endpoint("203.0.113.5", 2121);
    struct sockaddr_in local = endpoint("127.0.0.1", 0);
    struct sockaddr_in server, client, bound;
    socklen_t length = sizeof(bound);
    char byte = 0;
    int listener, inward, onward;
    xtproxy *x;

    alarm(30);
    if (argc != 3 || (x = xtproxy_open(argv[1])) == NULL)
        return failed("open");
    server = endpoint("127.0.0.1", atoi(argv[2]));
    listener = xtproxy_listen_foreign(x, &foreign, &local, NULL);
    if (listener < 0)
        return failed("listen");
    if (fcntl(listener, F_GETFD) != FD_CLOEXEC || fcntl(listener, F_GETFL) & O_NONBLOCK)
        return failed("flags");
    getsockname(listener, (struct sockaddr *)&bound, &length);
    printf("%u\n", (unsigned)ntohs(bound.sin_port));
    fflush(stdout);
    inward = xtproxy_accept_foreign(x, listener, &client);
    if (inward < 0)
        return failed("accept");
    onward = xtproxy_connect_foreign(x, &client, &server, NULL, 10000);
    if (onward < 0)
        return failed("connect");
    if (read(onward, &byte, 1) != 1 || write(inward, &byte, 1) != 1)
        return failed("relay");
    fcntl(listener, F_SETFL, O_NONBLOCK);
    if (xtproxy_accept_foreign(x, listener, NULL) != -1 || errno != EAGAIN)
        return failed("accept again");
    if (xtproxy_accept_foreign(x, inward, NULL) != -1 || errno != EINVAL)
        return failed("accept what does not listen");
    printf("%s:%u\n", inet_ntoa(client.sin_addr), (unsigned)ntohs(client.sin_port));
    close(listener);
    xtproxy_close(x);
    return 0;
}
