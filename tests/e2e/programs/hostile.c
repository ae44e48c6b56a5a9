/* A client of the daemon that keeps no rule of docs/shm-protocol.md, until it is killed.
 * hostile SOCKET scribble|flood|nonsense|fork|crowd */
#include "tproxy.h"
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/un.h>

enum { TOTAL = 16384, SLOTS = 48, FIRST = 1024, SLOT = 320, REQUEST = 64, POSTED = 64 };

static const char *path;
static unsigned char *memory;
static int channel = -1, bell = -1, file = -1;
static uint64_t random_state = 88172645463325252u;

static uint64_t any(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static int reach(void)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    CHECK(strlen(path) < sizeof at.sun_path);
    strcpy(at.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    if (connect(fd, (struct sockaddr *)&at, sizeof at) == 0)
        return fd;
    close(fd);
    return -1;
}

/* Whether there is a new channel. */
static int opened(void)
{
    static const char ask[] = "{\"version\":1,\"request\":\"channel\"}\n";
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(2 * sizeof(int))];
    } control;
    char hello[64];
    struct iovec data = {hello, sizeof hello};
    struct msghdr message = {NULL, 0, &data, 1, &control, sizeof control, 0};
    if (memory)
        munmap(memory, TOTAL);
    memory = NULL;
    close(channel), close(bell), close(file);
    channel = bell = file = -1;
    channel = reach();
    if (channel < 0 || send(channel, ask, sizeof ask - 1, MSG_NOSIGNAL) < 0 ||
        recvmsg(channel, &message, 0) < 12 || !CMSG_FIRSTHDR(&message))
        return 0;
    int both[2];
    memcpy(both, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof both);
    file = both[0], bell = both[1];
    memory = mmap(NULL, TOTAL, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    CHECK(memory != MAP_FAILED);
    return 1;
}

static int is_cut_off(void)
{
    struct pollfd hangup = {.fd = channel, .events = POLLIN};
    return poll(&hangup, 1, 0) != 0;
}

static void ring(void)
{
    uint64_t one = 1;
    (void)!write(bell, &one, sizeof one);
}

/* Anything anywhere, sizes and cursors too. */
static void scribble(void)
{
    for (int n = 0; n < 64; n++) {
        uint64_t word = any() % 4 ? any() : any() % 8;
        memcpy(memory + any() % (TOTAL / 8) * 8, &word, 8);
    }
    ring();
}

/* Posts slot n as a client should; what is in the request is another matter. */
static void post(int n)
{
    _Atomic uint32_t *state = (void *)(memory + FIRST + n * SLOT);
    _Atomic uint64_t *posted = (void *)(memory + POSTED);
    uint32_t now = atomic_load(state);
    if (now & 3)
        return;
    atomic_store(state, ((now >> 2) + 1) << 2 | 1);
    if (atomic_fetch_or(posted, 1ull << n) >> 63)
        ring();
}

static void flood(void)
{
    for (int n = 0; n < SLOTS; n++) {
        memset(memory + FIRST + n * SLOT + REQUEST, 0, 128);
        post(n);
    }
}

/* Well-posted requests that ask for what does not exist, about whatever descriptor. */
static void nonsense(void)
{
    for (int n = 0; n < SLOTS; n++) {
        unsigned char *request = memory + FIRST + n * SLOT + REQUEST;
        memset(request, 0, 128);
        for (unsigned at = any() % 16; at < 128; at += 1 + any() % 16)
            request[at] = any();
        uint32_t words[] = {any() % 70, any() % 3};
        int32_t fd = any() % 64;
        memcpy(request, words, sizeof words);
        memcpy(request + 16, &fd, sizeof fd);
        post(n);
    }
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    path = argv[1];
    const char *way = argv[2];
    unsigned long cut_off = 0;
    alarm(60);
    signal(SIGPIPE, SIG_IGN);
    for (int n = 0; n < 20; n++)
        bound(n % 2 ? SOCK_STREAM : SOCK_DGRAM, "127.0.0.1", 0);
    say("ready");
    if (strcmp(way, "crowd") == 0)
        for (;;)
            if (reach() < 0)
                usleep(1000);
    CHECK(opened());
    if (strcmp(way, "fork") == 0)
        for (int n = 0; n < 3; n++) {
            CHECK(fork() >= 0);
            CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
        }
    for (;;) {
        if (strcmp(way, "flood") == 0)
            flood();
        else if (strcmp(way, "nonsense") == 0)
            nonsense();
        else
            scribble();
        if (is_cut_off()) {
            if (++cut_off == 1)
                say("cut off");
            while (!opened())
                usleep(1000);
        }
    }
}
