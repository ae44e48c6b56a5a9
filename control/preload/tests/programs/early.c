/* Calls from an initialiser, before main. */
#include "check.h"

static int early = -1;

__attribute__((constructor(101))) static void initialise(void)
{
    struct in_tproxy it;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    early = get(fd, VERSION, &it) == 0 && it.v.number == 0x02000006;
    close(fd);
}

__attribute__((destructor)) static void finish(void)
{
    struct in_tproxy it;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(get(fd, VERSION, &it) == 0 && close(fd) == 0);
}

int main(void)
{
    CHECK(early == 1);
    pid_t child = fork();
    if (child == 0) {
        struct in_tproxy it;
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(get(fd, VERSION, &it) == 0);
        _exit(7);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7);
    return 0;
}
