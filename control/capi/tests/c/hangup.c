/* Opens a handle many times, of a daemon that hangs up at once. Prints what is
 * not told as that. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <xtproxy.h>

int main(int argc, char **argv)
{
    int times = argc == 3 ? atoi(argv[2]) : 0;

    while (times-- > 0) {
        errno = 0;
        if (xtproxy_open(argv[1]) != NULL || errno != ENOPROTOOPT)
            printf("%d: %s\n", errno, xtproxy_error());
    }
    return 0;
}
