/* Calls that are none of the shim's, or that it has nothing to say to: what each returns, and its errno.
 * Prints the same with and without it. */
#include "check.h"
#include <linux/tcp.h>

static int line;

#define SAY(call)                                                                                  \
    do {                                                                                           \
        errno = 0;                                                                                 \
        long got_ = (long)(call);                                                                  \
        printf("%d %s: %ld %d\n", ++line, #call, got_, errno);                                     \
    } while (0)

/* What is of this socket or this moment alone: cookies, processors, memory, times. */
static int differs(int level, int option)
{
    int socket[] = {SO_COOKIE, SO_NETNS_COOKIE, SO_INCOMING_CPU, SO_INCOMING_NAPI_ID, SO_MEMINFO};
    int tcp[] = {TCP_INFO, TCP_TIMESTAMP, TCP_CC_INFO, TCP_ZEROCOPY_RECEIVE};
    for (unsigned n = 0; n < sizeof socket / sizeof *socket; n++)
        if (level == SOL_SOCKET && option == socket[n])
            return 1;
    for (unsigned n = 0; n < sizeof tcp / sizeof *tcp; n++)
        if (level == IPPROTO_TCP && option == tcp[n])
            return 1;
    return 0;
}

/* Every number of every level on a socket, with several lengths. */
static void options(int fd, const char *name)
{
    int levels[] = {SOL_IP, SOL_SOCKET, IPPROTO_TCP, IPPROTO_UDP, SOL_IPV6, -1, 77};
    for (unsigned l = 0; l < sizeof levels / sizeof *levels; l++)
        for (int option = -1; option < 300; option++) {
            if (differs(levels[l], option))
                continue;
            for (int len = 0; len <= 32; len += 8) {
                unsigned char value[64];
                memset(value, 0x11, sizeof value);
                socklen_t room = len;
                errno = 0;
                int done = getsockopt(fd, levels[l], option, value, &room);
                unsigned sum = 0;
                for (unsigned n = 0; n < sizeof value; n++)
                    sum = sum * 31 + value[n];
                printf("get %s %d %d %d: %d %d %u %u\n", name, levels[l], option, len, done, errno,
                       room, sum);
            }
        }
    int zero = 0;
    for (int option = 0; option < 90; option++) {
        errno = 0;
        int done = setsockopt(fd, SOL_IP, option, &zero, sizeof zero);
        printf("set %s %d: %d %d\n", name, option, done, errno);
        SAY(setsockopt(fd, SOL_IP, option, (void *)16, sizeof zero));
        SAY(getsockopt(fd, SOL_IP, option, &zero, (void *)16));
    }
}

static void descriptors(void)
{
    int pair[2], copy;
    SAY(pipe(pair));
    SAY(copy = dup(pair[0]));
    SAY(dup(-1));
    SAY(dup2(pair[0], 90));
    SAY(dup2(pair[0], pair[0]));
    SAY(dup2(-1, 91));
    SAY(dup2(0, -1));
    SAY(dup3(pair[0], 92, O_CLOEXEC));
    SAY(dup3(pair[0], pair[0], 0));
    SAY(dup3(pair[0], 92, 1));
    SAY(fcntl(92, F_GETFD));
    SAY(fcntl(pair[0], F_DUPFD, 93));
    SAY(fcntl(-1, F_GETFD));
    SAY(close(90));
    SAY(close(90));
    SAY(close(-1));
    SAY(close(1 << 30));
    SAY(close_range(92, 93, 0));
    SAY(close_range(92, 93, 0));
    SAY(close_range(93, 92, 0));
    SAY(close_range(92, 93, 0x100));
    SAY(close_range(80, ~0U, 4));
    SAY((closefrom(80), 0));
    SAY(fcntl(copy, F_GETFD));
    SAY(chroot("/nowhere"));
    SAY(chroot((void *)16));
}

static void messages(void)
{
    int pair[2], one = 1;
    char text[8] = "", control[64];
    struct iovec data = {text, sizeof text};
    struct sockaddr_storage from;
    struct mmsghdr many[2] = {0};
    struct timespec moment = {0, 1000000};
    SAY(recvmsg(-1, NULL, 0));
    SAY(recvmsg(0, NULL, 0));
    SAY(recvmmsg(-1, NULL, 1, 0, NULL));
    SAY(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    SAY(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
    SAY(recvmsg(pair[1], NULL, MSG_DONTWAIT));
    SAY(send(pair[0], "abc", 3, 0));
    struct msghdr message = {&from, sizeof from, &data, 1, control, sizeof control, 0};
    SAY(recvmsg(pair[1], &message, 0));
    printf("%u %zu %d %s\n", message.msg_namelen, message.msg_controllen, message.msg_flags, text);
    SAY(recvmsg(pair[1], &message, MSG_DONTWAIT));
    SAY(recvmsg(pair[1], (void *)16, MSG_DONTWAIT));
    SAY(send(pair[0], "abc", 3, 0));
    SAY(recvmmsg(pair[1], many, 2, MSG_WAITFORONE, &moment));
    SAY(recvmmsg(pair[1], (void *)16, 2, MSG_DONTWAIT, NULL));
    SAY(recvmmsg(pair[1], many, 0, 0, NULL));
    /* A descriptor that is passed on. */
    char beside[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr sent = {NULL, 0, &data, 1, beside, sizeof beside, 0};
    struct cmsghdr *header = CMSG_FIRSTHDR(&sent);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &pair[0], sizeof(int));
    SAY(sendmsg(pair[0], &sent, 0));
    message.msg_controllen = sizeof control;
    SAY(recvmsg(pair[1], &message, MSG_CMSG_CLOEXEC));
    printf("%u %zu %d\n", message.msg_namelen, message.msg_controllen, message.msg_flags);
}

int main(void)
{
    options(socket(AF_INET, SOCK_STREAM, 0), "tcp");
    options(socket(AF_INET, SOCK_DGRAM, 0), "udp");
    options(socket(AF_INET6, SOCK_STREAM, 0), "tcp6");
    options(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), "icmp");
    options(socket(AF_UNIX, SOCK_STREAM, 0), "unix");
    options(open("/dev/null", O_RDWR), "file");
    options(-1, "none");
    descriptors();
    messages();
    return 0;
}
