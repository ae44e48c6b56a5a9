/* Holds listeners at foreign endpoints, and at SIGUSR1 does what it was told to.
 * holder LOCAL FOREIGN FIRST-PORT COUNT close|exec|exec-keeps|fork */
#include "tproxy.h"

static int *fds;

static void hold(const char *local, const char *foreign, int first, int count, int is_kept)
{
    struct rlimit limit = {count + 100, count + 100};
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    fds = calloc(count, sizeof *fds);
    CHECK(fds);
    for (int n = 0; n < count; n++) {
        fds[n] = bound(SOCK_STREAM, local, 0);
        if (!is_kept)
            CHECK(fcntl(fds[n], F_SETFD, FD_CLOEXEC) == 0);
        CHECK(set_address(fds[n], TPROXY_ASSIGN, foreign, first + n) == 0);
        CHECK(set_flags(fds[n], ITP_LISTEN) == 0);
    }
}

int main(int argc, char **argv)
{
    CHECK(argc == 6);
    const char *then = argv[5];
    int count = atoi(argv[4]), got;
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &signals, NULL) == 0);
    alarm(120);
    hold(argv[1], argv[2], atoi(argv[3]), count, strcmp(then, "exec-keeps") == 0);
    say("ready");
    CHECK(sigwait(&signals, &got) == 0);
    if (strcmp(then, "close") == 0) {
        for (int n = 0; n < count; n++)
            CHECK(close(fds[n]) == 0);
    } else if (strncmp(then, "exec", 4) == 0) {
        execlp("sleep", "sleep", "100", NULL);
        CHECK(!"sleep was run");
    } else if (strcmp(then, "fork") == 0) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child > 0)
            _exit(0); /* the child keeps the sockets */
        pause();
    }
    say("done");
    CHECK(sigwait(&signals, &got) == 0);
    return 0;
}
