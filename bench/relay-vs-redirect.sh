#!/bin/bash
# A large download through one and the same proxy, redirected by xtproxyd and by the kernel's own
# REDIRECT (nftables), in turn, in one lab of network namespaces. Prints each pair and the ratio
# of its rates; rates themselves say little on a shared machine.
#
# As root, after `make build`:  bench/relay-vs-redirect.sh [ROUNDS [MEGABYTES [MODE]]]
# MODE is that of the ports: auto (native XDP with a copy on veth) or generic.
set -euo pipefail
rounds=${1:-5} megabytes=${2:-200} mode=${3:-auto}
bin=$(cd "$(dirname "$0")/.." && pwd)/target/release
lab=xtbench-$$
dir=$(mktemp -d /tmp/xtbench.XXXXXX)
chmod 755 "$dir"

remove() {
    local role pids
    for role in client fw server; do
        [[ -e /run/netns/$lab-$role ]] || continue
        # Only what runs in this lab's own namespaces.
        mapfile -t pids < <(ip netns pids "$lab-$role")
        [[ ${#pids[@]} -eq 0 ]] || kill "${pids[@]}" 2>/dev/null || true
    done
    wait
    for role in client fw server; do
        [[ ! -e /run/netns/$lab-$role ]] || ip netns del "$lab-$role"
    done
    rm -rf "$dir"
}
trap remove EXIT

in_ns() { local role=$1; shift; ip netns exec "$lab-$role" "$@"; }

for role in client fw server; do
    ip netns add "$lab-$role"
    ip -n "$lab-$role" link set lo up
    in_ns "$role" sh -c 'cd /proc/sys/net/ipv4; echo reno > tcp_congestion_control'
done
in_ns fw sh -c 'echo 0 > /proc/sys/net/ipv4/ip_forward'

cable() { # role port address-of-the-end address-of-the-firewall
    ip -n "$lab-fw" link add "$2" type veth peer name eth0 netns "$lab-$1"
    ip -n "$lab-fw" addr add "$4/24" dev "$2"
    ip -n "$lab-fw" link set "$2" up
    ip -n "$lab-$1" addr add "$3/24" dev eth0
    ip -n "$lab-$1" link set eth0 up
    ip -n "$lab-$1" route add default via "$4"
}
cable client eth1 192.168.1.10 192.168.1.1
cable server eth2 198.51.100.10 198.51.100.1

web() { # role port location: nginx in the foreground of a job
    mkdir -p "$dir/$1/tmp"
    cat > "$dir/$1/nginx.conf" <<END
daemon off; worker_processes 1; user root; pid $dir/$1/pid; error_log stderr crit;
events { worker_connections 256; }
http {
  access_log off; sendfile on; proxy_buffering off; proxy_max_temp_file_size 0;
  client_body_temp_path $dir/$1/tmp; proxy_temp_path $dir/$1/tmp; fastcgi_temp_path $dir/$1/tmp;
  uwsgi_temp_path $dir/$1/tmp; scgi_temp_path $dir/$1/tmp;
  server { listen $2; location / { $3; } }
}
END
    in_ns "$1" nginx -p "$dir/$1" -e stderr -c "$dir/$1/nginx.conf" &
}
mkdir "$dir/www"
head -c "$((megabytes * 1000000))" /dev/urandom > "$dir/www/file"
web server 80 "root $dir/www"
# The proxy knows its server, so that it needs nobody to tell it the original destination.
web fw 50080 "proxy_pass http://198.51.100.10:80"

cat > "$dir/iptables.conf" <<'END'
*tproxy
:PREROUTING ACCEPT [0:0]
-A PREROUTING -i eth1 -p tcp --dport 80 -j TPROXY --on-port 50080
COMMIT
END
cat > "$dir/xtproxyd.toml" <<END
runtime_dir = "$dir/run"
ruleset = "iptables.conf"
[[port]]
interface = "eth1"
mode = "$mode"
[[port]]
interface = "eth2"
mode = "$mode"
END

fetch() { # bytes per second
    in_ns client curl --silent --show-error --fail --max-time 120 --output /dev/null \
        --write-out '%{speed_download}' http://198.51.100.10/file
}

with_kernel() {
    in_ns fw nft -f - <<'END'
table ip kernel {
  chain prerouting {
    type nat hook prerouting priority dstnat;
    iifname "eth1" tcp dport 80 redirect to :50080
  }
}
END
    kernel=$(fetch)
    in_ns fw nft delete table ip kernel
}

with_xtproxy() {
    local pid tries
    in_ns fw "$bin/xtproxyd" --config "$dir/xtproxyd.toml" 2> "$dir/log" &
    for tries in $(seq 100); do
        grep -q ready "$dir/log" && break
        sleep 0.1
    done
    grep -q ready "$dir/log" || { cat "$dir/log" >&2; exit 1; }
    pid=$(<"$dir/run/lock")
    xtproxy=$(fetch)
    kill "$pid"
    while [[ -e /proc/$pid ]]; do sleep 0.1; done
    in_ns fw "$bin/xtproxyd" --config "$dir/xtproxyd.toml" --detach > /dev/null
}

sleep 1
echo "$(date -u +%F) $(uname -sr), $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg), mode $mode, $megabytes MB"
ratios=()
for round in $(seq "$rounds"); do
    # Who comes first changes, so that neither always meets the warmer machine.
    if ((round % 2)); then with_kernel; with_xtproxy; else with_xtproxy; with_kernel; fi
    ratio=$(awk "BEGIN { printf \"%.3f\", $xtproxy / $kernel }")
    ratios+=("$ratio")
    awk "BEGIN { printf \"%d: REDIRECT %.2f, xtproxy %.2f Gbit/s, ratio %s\n\", $round, $kernel * 8e-9, $xtproxy * 8e-9, \"$ratio\" }"
done
printf '%s\n' "${ratios[@]}" | sort -n | awk '{ r[NR] = $1 } END {
    printf "xtproxy / REDIRECT: median %s, from %s to %s, of %d\n", r[int((NR + 1) / 2)], r[1], r[NR], NR }'
