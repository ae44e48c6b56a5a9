/* Calls each operation with each errno of the command line, which the daemon
 * answers one after the other, and prints what differs. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <xtproxy.h>

static int call(xtproxy *x, int fd, int which)
{
    struct sockaddr_in a;
    unsigned int number;

    memset(&a, 0, sizeof(a));
    a.sin_family = AF_INET;
    switch (which) {
    case 0: return xtproxy_version(x, fd, &number);
    case 1: return xtproxy_check_version(x, fd, 0);
    case 2: return xtproxy_assign(x, fd, &a);
    case 3: return xtproxy_assign_flags(x, fd, &a, &a, 1);
    case 4: return xtproxy_unassign(x, fd);
    case 5: return xtproxy_query(x, fd, &a);
    case 6: return xtproxy_set_flags(x, fd, 1);
    case 7: return xtproxy_get_flags(x, fd, &number);
    case 8: return xtproxy_alloc(x, fd);
    case 9: return xtproxy_connect_peer(x, fd, &a);
    case 10: return xtproxy_original_dst(x, fd, &a, &a);
    default: return xtproxy_original_dst_from(x, fd, &a, &a, &a, &number);
    }
}

int main(int argc, char **argv)
{
    xtproxy *x = argc > 1 ? xtproxy_open(argv[1]) : NULL;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int i, which, outcome;

    if (x == NULL)
        return 1;
    for (i = 2; i < argc; i++)
        for (which = 0; which < 12; which++) {
            errno = 0;
            outcome = call(x, fd, which);
            if (outcome != -1 || errno != atoi(argv[i]))
                printf("%d: %d, errno %d, not %s\n", which, outcome, errno, argv[i]);
            if (strncmp(xtproxy_error(), "cannot ", 7) != 0)
                printf("%d: %s\n", which, xtproxy_error());
        }
    xtproxy_close(x);
    puts("over");
    return 0;
}
