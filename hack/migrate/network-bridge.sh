#!/bin/sh
# A network hook of `rtc migrate` (migrate/NETWORK-HOOK.md) for nodes that share one network of bridges: the container has
# joined a network namespace below /run/netns, in which a veth device leads to a bridge of the node's. The address and the
# MAC move with it.
#
#   rtc migrate receive --listen TARGET --network-hook /usr/local/lib/rtc/network-bridge.sh
#   rtc migrate web --to TARGET --network-hook /usr/local/lib/rtc/network-bridge.sh
#
# $RTC_BRIDGE names the bridge (br0), $RTC_DEVICE the device in the namespace (eth0). It needs iproute2 and jq.
#
# Announcing: a bridge learns from any frame where a MAC is, and with arp_notify and ndisc_notify the kernel sends a gratuitous
# ARP, and an unsolicited neighbour advertisement, whenever a device is given its MAC.
set -eu

bridge=${RTC_BRIDGE:-br0}
device=${RTC_DEVICE:-eth0}

eval "$(jq -r '@sh "moment=\(.moment) role=\(.role) netns=\(.netns // "") name=\(.namespace + "/" + .id)
    mac=\(.data.mac // "") addresses=\(.data.addresses // [] | join(" ")) gateway=\(.data.gateway // "")"')"

case $netns in
/run/netns/*) netns=${netns#/run/netns/} ;;
/var/run/netns/*) netns=${netns#/var/run/netns/} ;;
*)
    echo "the container has joined no network namespace below /run/netns: ${netns:-none}" >&2
    exit 1
    ;;
esac
# On the node, one name for one container: at most 15 bytes.
port=veth$(printf %s "$name" | cksum | cut -d ' ' -f 1)

announce() {
    ip -n "$netns" link set "$device" address "$mac"
}

undo() {
    if [ -e "/run/netns/$netns" ]; then
        # The pair goes with either end.
        ip -n "$netns" link delete "$device" 2>/dev/null || ip link delete "$port" 2>/dev/null || true
        ip netns delete "$netns"
    fi
}

case $role/$moment in
source/offer)
    ip -n "$netns" -json address show dev "$device" | jq \
        --arg gateway "$(ip -n "$netns" -json route show default | jq -r '.[0].gateway // ""')" \
        '{mac: .[0].address, gateway: $gateway,
          addresses: [.[0].addr_info[] | select(.scope == "global") | "\(.local)/\(.prefixlen)"]}'
    ;;
destination/prepare)
    ip netns add "$netns"
    ip link add "$port" type veth peer name "$device" netns "$netns" address "$mac"
    ip netns exec "$netns" sysctl -qw "net.ipv4.conf.$device.arp_notify=1" "net.ipv6.conf.$device.ndisc_notify=1"
    for address in $addresses; do
        case $address in
        *:*) ip -n "$netns" address add "$address" dev "$device" nodad ;;
        *) ip -n "$netns" address add "$address" dev "$device" ;;
        esac
    done
    # The container's sockets need the address and the routes; the other end leads nowhere yet.
    ip -n "$netns" link set lo up
    ip -n "$netns" link set "$device" up
    ip link set "$port" up
    if [ -n "$gateway" ]; then
        ip -n "$netns" route add default via "$gateway"
    fi
    ;;
source/frozen)
    # It answers nobody who asks for the address any more. What is on its way here still arrives, and is handed on.
    ip -n "$netns" link set "$device" arp off
    ;;
destination/take-over)
    ip link set "$port" master "$bridge"
    announce
    ;;
destination/started)
    announce
    ;;
source/aborted)
    ip -n "$netns" link set "$device" arp on
    ip netns exec "$netns" sysctl -qw "net.ipv4.conf.$device.arp_notify=1" "net.ipv6.conf.$device.ndisc_notify=1"
    announce
    ;;
source/committed | destination/aborted)
    undo
    ;;
esac
