/* Accepts from a daemon that fails now and then. Argument: the runtime
 * directory. Prints the local port that it listens on, then how often it was
 * told that there is no daemon, and the client. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <xtproxy.h>

int main(int argc, char **argv)
{
    struct sockaddr_in foreign, local, bound, client;
    socklen_t length = sizeof(bound);
    int listener, accepted, failures = 0;
    xtproxy *x;

    alarm(30);
    memset(&foreign, 0, sizeof(foreign));
    foreign.sin_family = AF_INET;
    local = foreign;
    foreign.sin_addr.s_addr = inet_addr("203.0.113.5");
    foreign.sin_port = htons(2121);
    local.sin_addr.s_addr = inet_addr("127.0.0.1");
    if (argc != 2 || (x = xtproxy_open(argv[1])) == NULL)
        return 1;
    listener = xtproxy_listen_foreign(x, &foreign, &local, NULL);
    if (listener < 0)
        return 2;
    getsockname(listener, (struct sockaddr *)&bound, &length);
    printf("%u\n", (unsigned)ntohs(bound.sin_port));
    fflush(stdout);
    while ((accepted = xtproxy_accept_foreign(x, listener, &client)) < 0) {
        if (errno != ENOPROTOOPT)
            return 3;
        failures++;
    }
    printf("%d\n", failures);
    printf("%s:%u\n", inet_ntoa(client.sin_addr), (unsigned)ntohs(client.sin_port));
    if (write(accepted, "x", 1) != 1)
        return 4;
    xtproxy_close(x);
    return 0;
}
