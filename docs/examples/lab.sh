#!/bin/sh
# Three boxes as network namespaces, with the addresses of the examples:
#   xtlab-client 192.168.1.10 -- eth1 192.168.1.1 xtlab-fw 198.51.100.1 eth2 -- 198.51.100.10 xtlab-server
# As root: lab.sh up, then `ip netns exec xtlab-fw bash` and so on; lab.sh down removes them.
set -eu

cable() { # role port address-of-the-end address-of-the-firewall
    ip netns add "xtlab-$1"
    ip -n xtlab-fw link add "$2" type veth peer name eth0 netns "xtlab-$1"
    ip -n xtlab-fw addr add "$4/24" dev "$2"
    ip -n xtlab-fw link set "$2" up
    ip -n "xtlab-$1" link set lo up
    ip -n "xtlab-$1" addr add "$3/24" dev eth0
    ip -n "xtlab-$1" link set eth0 up
    ip -n "xtlab-$1" route add default via "$4"
}

case ${1:-} in
up)
    ip netns add xtlab-fw
    ip -n xtlab-fw link set lo up
    # What crosses the firewall shall be xtproxy's work.
    ip netns exec xtlab-fw sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward'
    cable client eth1 192.168.1.10 192.168.1.1
    cable server eth2 198.51.100.10 198.51.100.1
    ;;
down)
    for role in client fw server; do
        ip netns pids "xtlab-$role" | xargs -r kill
        ip netns del "xtlab-$role"
    done
    ;;
*)
    echo "usage: $0 up|down" >&2
    exit 2
    ;;
esac
