/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Answers for another host: listens on an address that is not the box's own
 * and greets whoever connects to it with its own address.
 *
 *     cc -o foreign_listen foreign_listen.c $(pkg-config --cflags --libs xtproxy)
 *     ./foreign_listen 203.0.113.5 2121 10.0.0.1
 *     ./foreign_listen 203.0.113.5 2121 10.0.0.1 3    (ends after three)
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <xtproxy.h>

/* Fills in an endpoint, or ends the program. */
static struct sockaddr_in endpoint(const char *address, const char *port)
{
    struct sockaddr_in to;
    char *end;
    unsigned long number = strtoul(port, &end, 10);

    memset(&to, 0, sizeof(to));
    to.sin_family = AF_INET;
    to.sin_port = htons((unsigned short)number);
    if (*end != '\0' || number > 65535 || inet_pton(AF_INET, address, &to.sin_addr) != 1) {
        fprintf(stderr, "foreign_listen: %s:%s is no address and port\n", address, port);
        exit(2);
    }
    return to;
}

static int failed(void)
{
    fprintf(stderr, "foreign_listen: %s\n", xtproxy_error());
    return 1;
}

/* Greets one client; 0 if that went well. */
static int greet(xtproxy *x, int listener)
{
    struct sockaddr_in client;
    char text[INET_ADDRSTRLEN];
    char line[64];
    int length;
    int fd = xtproxy_accept_foreign(x, listener, &client);

    if (fd < 0)
        return failed();
    inet_ntop(AF_INET, &client.sin_addr, text, sizeof(text));
    length = sprintf(line, "hello %s:%u\n", text, ntohs(client.sin_port));
    /* A client that has left already is no concern of ours. */
    if (send(fd, line, (size_t)length, MSG_NOSIGNAL) == length)
        fputs(line, stdout);
    fflush(stdout);
    close(fd);
    return 0;
}

int main(int argc, char **argv)
{
    struct sockaddr_in foreign, local;
    xtproxy *x;
    int listener, outcome = 0;
    long left = -1;

    if (argc != 4 && argc != 5) {
        fprintf(stderr, "usage: foreign_listen ADDRESS PORT LOCAL_ADDRESS [COUNT]\n");
        return 2;
    }
    foreign = endpoint(argv[1], argv[2]);
    local = endpoint(argv[3], "0");
    if (argc == 5)
        left = strtol(argv[4], NULL, 10);
    x = xtproxy_open(NULL);
    if (x == NULL)
        return failed();
    listener = xtproxy_listen_foreign(x, &foreign, &local, NULL);
    if (listener < 0) {
        outcome = failed();
    } else {
        printf("listening on %s:%s\n", argv[1], argv[2]);
        fflush(stdout);
        while (outcome == 0 && left-- != 0)
            outcome = greet(x, listener);
        close(listener);
    }
    xtproxy_close(x);
    return outcome;
}
