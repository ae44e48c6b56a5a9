/* One UNIDIR listener: prints of every datagram its true source and destination, and what is
 * in it. Ends when COUNT have come, or when none has for ten seconds.
 * datagrams LOCAL PORT FOREIGN FOREIGN-PORT COUNT */
#include "tproxy.h"

static void print(struct msghdr *message, const char *text, int len)
{
    struct cmsghdr *part = CMSG_FIRSTHDR(message);
    while (part && !(part->cmsg_level == SOL_IP && part->cmsg_type == IP_ORIGADDRS))
        part = CMSG_NXTHDR(message, part);
    CHECK(part && part->cmsg_len == CMSG_LEN(sizeof(struct in_origaddrs)));
    struct in_origaddrs origin;
    memcpy(&origin, CMSG_DATA(part), sizeof origin);
    char src[INET_ADDRSTRLEN], dst[INET_ADDRSTRLEN];
    CHECK(inet_ntop(AF_INET, &origin.ioa_srcaddr, src, sizeof src));
    CHECK(inet_ntop(AF_INET, &origin.ioa_dstaddr, dst, sizeof dst));
    printf("%s:%d %s:%d %.*s\n", src, ntohs(origin.ioa_srcport), dst, ntohs(origin.ioa_dstport),
           len, text);
}

int main(int argc, char **argv)
{
    CHECK(argc == 6);
    alarm(120);
    int one = 1, room = 32 << 20, count = atoi(argv[5]);
    int fd = bound(SOCK_DGRAM, argv[1], atoi(argv[2]));
    CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) == 0);
    CHECK(set_address(fd, TPROXY_ASSIGN, argv[3], atoi(argv[4])) == 0);
    CHECK(set_flags(fd, ITP_LISTEN | ITP_UNIDIR) == 0);
    CHECK(setsockopt(fd, SOL_IP, IP_RECVORIGADDRS, &one, sizeof one) == 0);
    say("ready");
    for (int n = 0; n < count; n++) {
        char text[128], control[64];
        struct sockaddr_in from;
        struct iovec data = {text, sizeof text};
        struct msghdr message = {&from, sizeof from, &data, 1, control, sizeof control, 0};
        struct pollfd come = {.fd = fd, .events = POLLIN};
        if (poll(&come, 1, 10000) != 1)
            break;
        ssize_t len = recvmsg(fd, &message, 0);
        CHECK(len >= 0);
        print(&message, text, len);
    }
    say("end");
    return 0;
}
