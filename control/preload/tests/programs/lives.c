/* What programs do with descriptors, processes and threads. */
#include "life.h"
#include <linux/close_range.h>

static void still_there(void)
{
    for (int n = 0; n < count; n++)
        CHECK(is_open(ours[n]));
    works();
}

static void closing(void)
{
    int low = dup(0), high = fcntl(0, F_DUPFD, 200);
    find_ours();
    for (int fd = 3; fd < 256; fd++) {
        int is_theirs = is_open(fd) && fd != ours[0] && fd != ours[1] && fd != ours[2];
        errno = 0;
        CHECK(close(fd) == (is_theirs ? 0 : -1) && errno == (is_theirs ? 0 : EBADF));
    }
    CHECK(!is_open(low) && !is_open(high));
    still_there();
    extern int __close(int);
    FAILS(EBADF, __close(ours[0]));
    FAILS(EBUSY, dup2(0, ours[0]));
    FAILS(EBUSY, dup3(0, ours[1], O_CLOEXEC));
    still_there();

    high = fcntl(0, F_DUPFD, 200);
    int middle = fcntl(0, F_DUPFD, ours[0]);
    CHECK(close_range(3, ~0U, 0) == 0);
    CHECK(!is_open(high) && !is_open(middle));
    still_there();
    high = fcntl(0, F_DUPFD, 200);
    CHECK(close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) == 0);
    CHECK(is_open(high) && fcntl(high, F_GETFD) == FD_CLOEXEC);
    CHECK(close_range(ours[0], ours[0], 0) == 0);
    CHECK(close_range(3, ~0U, CLOSE_RANGE_UNSHARE) == 0 && !is_open(high));
    still_there();
    FAILS(EINVAL, close_range(9, 3, 0));
    FAILS(EINVAL, close_range(3, 9, 1 << 20));
    high = fcntl(0, F_DUPFD, 200);
    low = dup(0);
    closefrom(3);
    CHECK(!is_open(high) && !is_open(low));
    still_there();
    high = fcntl(0, F_DUPFD, 200);
    closefrom(ours[2] + 1);
    CHECK(!is_open(high));
    still_there();
}

/* A daemon closes its standard descriptors, and expects to get their numbers back. */
static void detached(void)
{
    close(0);
    close(1);
    works();
    CHECK(open("/dev/null", O_RDWR) == 0 && open("/dev/null", O_RDWR) == 1);
    works();
}

static void forking(void)
{
    works();
    for (int n = 0; n < 3; n++) {
        pid_t child = fork();
        if (child == 0) {
            works();
            pid_t grandchild = fork();
            if (grandchild == 0) {
                works();
                _exit(7);
            }
            CHECK(ended(grandchild) == 7);
            works();
            _exit(7);
        }
        CHECK(ended(child) == 7);
        works();
    }
    /* One that the C library does not know of. */
    pid_t raw = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (raw == 0) {
        works();
        _exit(7);
    }
    CHECK(ended(raw) == 7);
    works();
}

static volatile int vfork_errno;

/* A vfork child lives in its parent's memory: it gets no channel, and harms the parent's in no way. */
static void vforking(void)
{
    struct in_tproxy it = garbage(VERSION);
    int fd = new_socket();
    find_ours();
    pid_t child = vfork();
    if (child == 0) {
        vfork_errno = 0;
        if (setsockopt(fd, SOL_IP, IP_TPROXY, &it, sizeof it) == -1)
            vfork_errno = errno;
        _exit(7);
    }
    CHECK(ended(child) == 7 && vfork_errno == ENOPROTOOPT);
    still_there();
}

static void *work(void *unused)
{
    (void)unused;
    for (int n = 0; n < 300; n++)
        works();
    return NULL;
}

static void threading(void)
{
    pthread_t threads[16];
    for (int n = 0; n < 16; n++)
        CHECK(pthread_create(&threads[n], NULL, work, NULL) == 0);
    for (int n = 0; n < 20; n++) {
        pid_t child = fork(); /* while they are in the middle of it */
        if (child == 0) {
            alarm(10);
            works();
            _exit(7);
        }
        CHECK(ended(child) == 7);
    }
    for (int n = 0; n < 16; n++)
        CHECK(pthread_join(threads[n], NULL) == 0);
}

/* A number of ours that the program has used for something else behind our back. */
static void stolen(const char *root)
{
    find_ours();
    int here = open(".", O_PATH | O_DIRECTORY), theirs = open(root, O_PATH | O_DIRECTORY);
    CHECK(here >= 0 && theirs >= 0);
    for (int n = 0; n < count; n++)
        if (fchdir(ours[n]) == 0) {
            CHECK(fchdir(here) == 0);
            CHECK(syscall(SYS_dup3, theirs, ours[n], 0) == ours[n]);
            pid_t child = fork();
            if (child == 0) {
                works();
                CHECK(fchdir(ours[n]) == 0 && inode(".") == inode(root));
                _exit(7);
            }
            CHECK(ended(child) == 7);
            return;
        }
    CHECK(!"a folder");
}

static void *receive(void *with)
{
    struct msghdr message = {0};
    for (;;)
        recvmsg(*(int *)with, &message, 0);
    return NULL;
}

static void *ask_cancelled(void *unused)
{
    (void)unused;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_cancel(pthread_self());
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    works(); /* close is the one place to be cancelled at */
    return NULL;
}

/* A thread that waits in recvmsg can be cancelled, with and without the wish. */
static void cancelling(void)
{
    struct sockaddr_in local;
    int fd = bound(SOCK_DGRAM, "127.0.0.1", &local), one = 1;
    for (int n = 0; n < 2; n++) {
        pthread_t thread;
        void *result;
        CHECK(pthread_create(&thread, NULL, receive, &fd) == 0);
        usleep(50000);
        CHECK(pthread_cancel(thread) == 0);
        CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
        CHECK(setsockopt(fd, SOL_IP, IP_RECVORIGADDRS, &one, sizeof one) == 0);
    }
    /* The first question opens the channel, by calls that a thread could be cancelled in. */
    pid_t child = fork();
    if (child == 0) {
        pthread_t thread;
        void *result;
        CHECK(pthread_create(&thread, NULL, ask_cancelled, NULL) == 0);
        CHECK(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
        works();
        _exit(7);
    }
    CHECK(ended(child) == 7);
}

/* Where the daemon is was noted at the start. */
static void forgetful(void)
{
    CHECK(unsetenv("XTPROXY_RUNTIME_DIR") == 0);
    works();
}

int main(int argc, char **argv)
{
    alarm(25);
    const char *what = argc > 1 ? argv[1] : "", *root = argc > 2 ? argv[2] : "/";
    if (strcmp(what, "closing") == 0)
        closing();
    else if (strcmp(what, "detached") == 0)
        detached();
    else if (strcmp(what, "forking") == 0)
        forking();
    else if (strcmp(what, "vforking") == 0)
        vforking();
    else if (strcmp(what, "threading") == 0)
        threading();
    else if (strcmp(what, "cancelling") == 0)
        cancelling();
    else if (strcmp(what, "forgetful") == 0)
        forgetful();
    else if (strcmp(what, "stolen") == 0)
        stolen(root);
    else
        CHECK(!"a life of this name");
    return 0;
}
