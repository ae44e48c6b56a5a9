/* What sources written for TProxy 2.0 rely on. */
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include <linux/netfilter_ipv4/ip_tproxy.h>

typedef char size[sizeof(struct in_tproxy) == 12 ? 1 : -1];
typedef char union_at[offsetof(struct in_tproxy, v) == 4 ? 1 : -1];
typedef char port_at[offsetof(struct in_tproxy, v.addr.fport) == 8 ? 1 : -1];
typedef char addrs[sizeof(struct in_origaddrs) == 12 ? 1 : -1];
typedef char dst_at[offsetof(struct in_origaddrs, ioa_dstaddr) == 4 ? 1 : -1];
typedef char sport_at[offsetof(struct in_origaddrs, ioa_srcport) == 8 ? 1 : -1];
typedef char dport_at[offsetof(struct in_origaddrs, ioa_dstport) == 10 ? 1 : -1];

int connect_as(int fd, const struct sockaddr_in *client);

int connect_as(int fd, const struct sockaddr_in *client)
{
    struct in_tproxy itp;

    itp.op = TPROXY_VERSION;
    itp.v.version = 0x02000000;
    if (setsockopt(fd, IPPROTO_IP, IP_TPROXY, &itp, sizeof(itp)) != 0)
        return -1;
    itp.op = TPROXY_ASSIGN;
    itp.v.addr.faddr = client->sin_addr;
    itp.v.addr.faddr.s_addr = client->sin_addr.s_addr;
    itp.v.addr.fport = 0;
    if (setsockopt(fd, IPPROTO_IP, IP_TPROXY, &itp, sizeof(itp)) != 0)
        return -1;
    itp.op = TPROXY_FLAGS;
    itp.v.flags = ITP_CONNECT | ITP_ONCE;
    return setsockopt(fd, IPPROTO_IP, IP_TPROXY, &itp, sizeof(itp));
}

int main(void)
{
    struct sockaddr_in client;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(&client, 0, sizeof(client));
    /* A kernel does not know the option. */
    return connect_as(fd, &client) == -1 ? 0 : 1;
}
