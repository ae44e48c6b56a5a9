/* What programs do with descriptors, processes and threads. */
#include "check.h"
#include <linux/close_range.h>

static int new_socket(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    return fd;
}

/* The interface works: asked on a socket that is made for it. */
static void works(void)
{
    struct in_tproxy it;
    int fd = new_socket();
    CHECK(get(fd, VERSION, &it) == 0 && it.v.number == 0x02000006);
    CHECK(close(fd) == 0);
}

/* The descriptors that are open, without any function that the shim stands before. */
static int is_open(int fd)
{
    return syscall(SYS_fcntl, fd, F_GETFD) >= 0;
}

static int ended(pid_t child)
{
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* Open before first use, ours after it. */
static int ours[8], count;

static void find_ours(void)
{
    char before[256];
    for (int fd = 0; fd < 256; fd++)
        before[fd] = is_open(fd);
    works();
    for (int fd = 0; fd < 256; fd++)
        if (is_open(fd) && !before[fd])
            ours[count++] = fd;
    CHECK(count == 2);
}

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
        int is_theirs = is_open(fd) && fd != ours[0] && fd != ours[1];
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
    closefrom(ours[1] + 1);
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

/* Opened first: survives a new root and the loss of every right. */
static void jailed(const char *root)
{
    works();
    CHECK(chroot(root) == 0 && chdir("/") == 0);
    works();
    CHECK(setgid(65534) == 0 && setuid(65534) == 0);
    works();
}

/* Looked for by the parent, needed by a child behind a new root. */
static void jailed_child(const char *root)
{
    works();
    pid_t child = fork();
    if (child == 0) {
        CHECK(chroot(root) == 0 && chdir("/") == 0);
        CHECK(setgid(65534) == 0 && setuid(65534) == 0);
        works();
        _exit(7);
    }
    CHECK(ended(child) == 7);
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

static int open_now(void)
{
    int number = 0;
    for (int fd = 0; fd < 256; fd++)
        number += is_open(fd);
    return number;
}

/* Where the daemon is was noted at the start. */
static void forgetful(void)
{
    CHECK(unsetenv("XTPROXY_RUNTIME_DIR") == 0);
    works();
}

/* The daemon goes and comes again. */
static void outliving(void)
{
    struct in_tproxy it;
    int fd = new_socket(), seen = 0, open_first = 0;
    for (int n = 0; n < 2000 && seen < 3; n++) {
        int done = get(fd, VERSION, &it);
        CHECK(done == 0 || errno == ENOPROTOOPT);
        if (done == 0 && seen == 0)
            open_first = open_now();
        errno = 77; /* a call that succeeds leaves it, whatever was tried for it */
        CHECK(chroot("/") == 0 && errno == 77);
        if ((done == 0) != (seen % 2))
            seen++;
        usleep(5000);
    }
    CHECK(seen == 3);
    CHECK(open_now() == open_first); /* the old channel is closed */
    for (int other = 3; other < 256; other++)
        close(other); /* the new channel is spared, too */
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
    else if (strcmp(what, "jailed") == 0)
        jailed(root);
    else if (strcmp(what, "jailed_child") == 0)
        jailed_child(root);
    else if (strcmp(what, "cancelling") == 0)
        cancelling();
    else if (strcmp(what, "forgetful") == 0)
        forgetful();
    else if (strcmp(what, "outliving") == 0)
        outliving();
    else
        CHECK(!"a life of this name");
    return 0;
}
