/* Datagrams with their original addresses. The daemon of the test says that one from port P came from
 * 10.1.(P / 256).(P % 256), port P, and went to 192.0.2.1, port 53. */
#include "check.h"

struct origaddrs {
    uint32_t src, dst;
    uint16_t sport, dport;
};

static struct sockaddr_in local;
static int receiver;

static int sender(int *port)
{
    struct sockaddr_in from;
    int fd = bound(SOCK_DGRAM, "127.0.0.1", &from);
    *port = ntohs(from.sin_port);
    CHECK(connect(fd, (struct sockaddr *)&local, sizeof local) == 0);
    return fd;
}

/* The message with the addresses must be the last, and be right; others before it. */
static int others_before(struct msghdr *message, int port)
{
    int others = 0;
    struct cmsghdr *at = CMSG_FIRSTHDR(message);
    for (; at; at = CMSG_NXTHDR(message, at), others++) {
        if (at->cmsg_type != IP_RECVORIGADDRS)
            continue;
        struct origaddrs got;
        CHECK(at->cmsg_level == SOL_IP && at->cmsg_len == CMSG_LEN(sizeof got));
        memcpy(&got, CMSG_DATA(at), sizeof got);
        CHECK(ntohl(got.src) == 0x0a010000u + port && ntohs(got.sport) == port);
        CHECK(got.dst == inet_addr("192.0.2.1") && ntohs(got.dport) == 53);
        CHECK(CMSG_NXTHDR(message, at) == NULL && !(message->msg_flags & MSG_CTRUNC));
        return others;
    }
    return -1;
}

static void many(int sources, int each)
{
    int fds[2000], ports[2000];
    for (int n = 0; n < sources; n++)
        fds[n] = sender(&ports[n]);
    for (int round = 0; round < each; round++)
        for (int n = 0; n < sources; n++) {
            char text[4] = {0}, control[64];
            struct sockaddr_in from;
            struct iovec data = {text, sizeof text};
            struct msghdr message = {&from, sizeof from, &data, 1, control, sizeof control, 0};
            CHECK(send(fds[n], "abc", 3, 0) == 3);
            CHECK(recvmsg(receiver, &message, 0) == 3 && strcmp(text, "abc") == 0);
            CHECK(message.msg_namelen == sizeof from && ntohs(from.sin_port) == ports[n]);
            CHECK(others_before(&message, ports[n]) == 0);
            CHECK(message.msg_controllen == CMSG_SPACE(12));
        }
}

/* Every shape of header. */
static void shapes(void)
{
    int port, fd = sender(&port), one = 1;
    char text[8], control[128];
    struct iovec data = {text, sizeof text};
    CHECK(setsockopt(receiver, SOL_IP, IP_PKTINFO, &one, sizeof one) == 0);
    for (int round = 0; round < 2; round++) {
        struct sockaddr_storage from;
        int lens[] = {0, 1, 8, 16, 28, 128, 500};
        for (unsigned n = 0; n < sizeof lens / sizeof *lens; n++) {
            memset(&from, 0x5a, sizeof from);
            struct msghdr message = {&from, lens[n], &data, 1, control, sizeof control, 0};
            CHECK(send(fd, "abc", 3, 0) == 3 && recvmsg(receiver, &message, 0) == 3);
            CHECK(message.msg_namelen == 16 && others_before(&message, port) == 1);
            struct sockaddr_in right = at("127.0.0.1", port);
            int given = lens[n] < 16 ? lens[n] : 16;
            CHECK(memcmp(&from, &right, given) == 0);
            for (unsigned byte = given; byte < sizeof from; byte++)
                CHECK(((char *)&from)[byte] == 0x5a);
        }
        struct msghdr bare = {NULL, 99, &data, 1, control, sizeof control, 0};
        CHECK(send(fd, "", 0, 0) == 0 && recvmsg(receiver, &bare, 0) == 0);
        CHECK(bare.msg_namelen == 99 && others_before(&bare, port) == 1);
        /* Room for the kernel's message and no more: cut, and said so. */
        size_t fits = CMSG_SPACE(sizeof(struct in_pktinfo));
        for (size_t room = 0; room <= fits + CMSG_SPACE(12); room++) {
            memset(control, 0x5a, sizeof control);
            struct msghdr tight = {NULL, 0, &data, 1, control, room, 0};
            CHECK(send(fd, "abc", 3, 0) == 3 && recvmsg(receiver, &tight, 0) == 3);
            int is_enough = room >= fits + CMSG_LEN(12);
            CHECK(tight.msg_controllen <= room);
            CHECK(others_before(&tight, port) == (is_enough ? 1 : -1));
            CHECK(((tight.msg_flags & MSG_CTRUNC) == 0) == is_enough);
            for (size_t byte = room; byte < sizeof control; byte++)
                CHECK(control[byte] == 0x5a);
        }
        struct msghdr none = {NULL, 0, &data, 1, NULL, 64, 0};
        CHECK(send(fd, "abc", 3, 0) == 3);
        /* Not where no buffer is, whatever its length says; the kernel minds, or does not. */
        long got = recvmsg(receiver, &none, MSG_DONTWAIT);
        CHECK(got == 3 || (got == -1 && errno == EFAULT));
        receiver = dup(receiver); /* the same by another number */
    }
    FAILS(EAGAIN, recvmsg(receiver, &(struct msghdr){.msg_iov = &data, .msg_iovlen = 1}, MSG_DONTWAIT));
    CHECK(send(fd, "abc", 3, 0) == 3);
    FAILS(EFAULT, recvmsg(receiver, NULL, 0));
    FAILS(EFAULT, recvmsg(receiver, (void *)16, 0));
    struct msghdr odd = {control, -1, &data, 1, NULL, 0, 0};
    FAILS(EINVAL, recvmsg(receiver, &odd, 0));
    odd.msg_namelen = 0;
    CHECK(recvmsg(receiver, &odd, MSG_DONTWAIT) == 3);
}

static void batches(void)
{
    enum { SOURCES = 40 };
    int ports[SOURCES];
    struct mmsghdr many[64];
    struct sockaddr_in from[64];
    struct iovec data[64];
    char text[64][16], control[64][64];
    memset(many, 0, sizeof many);
    for (int n = 0; n < SOURCES; n++) {
        int fd = sender(&ports[n]);
        CHECK(send(fd, "abcdefgh", n % 9, 0) == n % 9);
    }
    for (int n = 0; n < 64; n++) {
        data[n] = (struct iovec){text[n], sizeof text[n]};
        many[n].msg_hdr = (struct msghdr){n % 2 ? &from[n] : NULL, sizeof from[n], &data[n], 1,
                                          control[n], sizeof control[n], 0};
    }
    CHECK(recvmmsg(receiver, many, 64, MSG_DONTWAIT, NULL) == SOURCES);
    for (int n = 0; n < SOURCES; n++) {
        CHECK(many[n].msg_len == (unsigned)n % 9);
        CHECK(others_before(&many[n].msg_hdr, ports[n]) == 0);
        CHECK(n % 2 == 0 || ntohs(from[n].sin_port) == ports[n]);
    }
    CHECK(many[SOURCES].msg_hdr.msg_controllen == sizeof control[0]);
    FAILS(EAGAIN, recvmmsg(receiver, many, 64, MSG_DONTWAIT, NULL));
    int port, fd = sender(&port);
    CHECK(send(fd, "abc", 3, 0) == 3);
    FAILS(EFAULT, recvmmsg(receiver, (void *)16, 4, MSG_DONTWAIT, NULL));
}

/* After the wish is taken back, and on others, nothing is added. */
static void without(int expects)
{
    int port, fd = sender(&port);
    char text[8], control[64];
    struct iovec data = {text, sizeof text};
    struct msghdr message = {NULL, 0, &data, 1, control, sizeof control, 0};
    CHECK(send(fd, "abc", 3, 0) == 3 && recvmsg(receiver, &message, 0) == 3);
    CHECK(others_before(&message, port) == (expects ? 0 : -1));
    CHECK(expects || message.msg_controllen == 0);
}

/* More sockets with the wish than are remembered without looking which are gone. */
static void crowd(void)
{
    for (int n = 0; n < 10000; n++) {
        int fd = socket(AF_INET, SOCK_DGRAM, 0), one = 1;
        CHECK(fd >= 0 && setsockopt(fd, SOL_IP, IP_RECVORIGADDRS, &one, sizeof one) == 0);
        close(fd);
    }
    without(1);
}

int main(int argc, char **argv)
{
    int one = 1, off = 0;
    alarm(25);
    CHECK(argc > 1);
    struct rlimit limit = {4096, 4096};
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    receiver = bound(SOCK_DGRAM, "127.0.0.1", &local);
    if (strcmp(argv[1], "without") == 0) {
        without(0);
        int other = socket(AF_INET, SOCK_DGRAM, 0);
        CHECK(setsockopt(other, SOL_IP, IP_RECVORIGADDRS, &one, sizeof one) == 0);
        without(0);
        CHECK(setsockopt(receiver, SOL_IP, IP_RECVORIGADDRS, &one, sizeof one) == 0);
        without(1);
        CHECK(setsockopt(receiver, SOL_IP, IP_RECVORIGADDRS, &off, sizeof off) == 0);
        without(0);
        return 0;
    }
    CHECK(setsockopt(receiver, SOL_IP, IP_RECVORIGADDRS, &one, sizeof one) == 0);
    if (strcmp(argv[1], "many") == 0)
        many(atoi(argv[2]), atoi(argv[3]));
    else if (strcmp(argv[1], "shapes") == 0)
        shapes();
    else if (strcmp(argv[1], "batches") == 0)
        batches();
    else if (strcmp(argv[1], "crowd") == 0)
        crowd();
    else if (strcmp(argv[1], "unknown") == 0)
        without(0);
    else
        CHECK(!"a test of this name");
    return 0;
}
