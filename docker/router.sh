#!/usr/bin/env bash
# A home router: joins a LAN to the internet of the testnet, through NAT.
#
#   router.sh INTERNET_PREFIX LAN_GATEWAY MASQUERADE...
#   router.sh 11.7.0. 192.168.101.1/24 masquerade
#
# Docker keeps LAN_GATEWAY free and makes it the default route of everybody in the LAN.
# `masquerade` keeps source ports, which makes the mapping endpoint-independent; `masquerade
# fully-random` is a symmetric NAT. See tests/nat/topology.py.
set -euo pipefail
internet=$1 gateway=$2
shift 2

# The interfaces are named in the order in which the engine happened to connect them.
interface_of() { ip -4 -oneline address show | awk -v net="$1" 'index($4, net) == 1 {print $2}'; }
wan=$(interface_of "$internet")
lan=$(interface_of "${gateway%.*}.")

ip route delete default 2> /dev/null || true
ip address add "$gateway" dev "$lan"
# What comes unasked is dropped: refusing it would leave entries in the connection tracking that
# spoil hole punching.
nft -f - << EOF
table ip home {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname $wan $*
    }
    chain input {
        type filter hook input priority 0;
        ct state established,related accept
        iifname $wan drop
    }
    chain forward {
        type filter hook forward priority 0;
        ct state established,related accept
        iifname $wan drop
    }
}
EOF
echo "routes $lan to $wan: $*"
exec sleep infinity
