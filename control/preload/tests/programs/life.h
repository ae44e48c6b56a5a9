/* What the lives of processes share. */
#include "check.h"

static inline int new_socket(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    return fd;
}

/* The interface works: asked on a socket that is made for it. */
static inline void works(void)
{
    struct in_tproxy it;
    int fd = new_socket();
    CHECK(get(fd, VERSION, &it) == 0 && it.v.number == 0x02000006);
    CHECK(close(fd) == 0);
}

/* The descriptors that are open, without any function that the shim stands before. */
static inline int is_open(int fd)
{
    return syscall(SYS_fcntl, fd, F_GETFD) >= 0;
}

static inline int ended(pid_t child)
{
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* Open before first use, ours after it. */
static int ours[8], count;

static inline void find_ours(void)
{
    char before[256];
    for (int fd = 0; fd < 256; fd++)
        before[fd] = is_open(fd);
    works();
    for (int fd = 0; fd < 256; fd++)
        if (is_open(fd) && !before[fd])
            ours[count++] = fd;
    CHECK(count == 3);
}

static inline int open_now(void)
{
    int number = 0;
    for (int fd = 0; fd < 256; fd++)
        number += is_open(fd);
    return number;
}

static inline ino_t inode(const char *path)
{
    struct stat found;
    CHECK(stat(path, &found) == 0);
    return found.st_ino;
}

/* Ends as the process that it waits for. */
static inline void forked(void (*life)(void))
{
    pid_t child = fork();
    if (child == 0) {
        life();
        _exit(7);
    }
    CHECK(ended(child) == 7);
}
