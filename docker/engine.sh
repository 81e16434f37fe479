#!/usr/bin/env bash
# A Docker engine for a machine that has none, from Debian's packages; as root.
#
#   eval "$(docker/engine.sh up /tmp/engine)"      sets DOCKER_HOST
#   docker/engine.sh down /tmp/engine              ends it; its images stay in the directory
#
# Where an engine answers already, `up` does nothing.
set -euo pipefail
action=${1:-} dir=${2:-}
socket="unix://$dir/docker.sock"

install_packages() {
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        docker.io docker-compose debootstrap iptables
}

up() {
    if docker info > /dev/null 2>&1; then return; fi
    if docker --host "$socket" info > /dev/null 2>&1; then
        echo "export DOCKER_HOST=$socket"
        return
    fi
    for program in dockerd docker-compose debootstrap iptables; do
        command -v "$program" > /dev/null || { install_packages >&2; break; }
    done
    mkdir -p "$dir"
    rm -f "$dir/docker.pid"  # of an engine that was killed
    # It outlives this shell, so it must not hold what a caller has open: a lock, or a pipe.
    start-stop-daemon --start --background --output "$dir/dockerd.log" \
        --pidfile "$dir/docker.pid" --startas "$(command -v dockerd)" -- \
        --host "$socket" --data-root "$dir/data" --exec-root "$dir/exec" \
        --pidfile "$dir/docker.pid"
    for _ in $(seq 60); do
        if docker --host "$socket" info > /dev/null 2>&1; then
            echo "export DOCKER_HOST=$socket"
            return
        fi
        sleep 0.5
    done
    tail -n 20 "$dir/dockerd.log" >&2
    echo "dockerd does not answer" >&2
    exit 1
}

down() {
    local pid
    pid=$(cat "$dir/docker.pid" 2> /dev/null) || return 0
    kill "$pid" 2> /dev/null || return 0
    tail --pid="$pid" -f /dev/null
}

case "$action $dir" in
    "up /"* | "down /"*) "$action" ;;
    *) echo "usage: docker/engine.sh up|down /DIRECTORY" >&2; exit 2 ;;
esac
