#!/usr/bin/env bash
# Make the image that docker/Dockerfile starts from, where no image registry is reachable.
#
#   docker/base-image.sh                       expertswarm-base; then build with
#   docker build -f docker/Dockerfile --build-arg BASE=expertswarm-base -t expertswarm .
#
# Needs root, debootstrap and an engine. Mirror, proxy and certificates are those of this machine.
set -euo pipefail
name=${1:-expertswarm-base}
suite=bookworm
packages=ca-certificates,iproute2,nftables,python3,python3-venv

mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $suite" 'Component: main' | head -n 1)
eval "$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy)"
export http_proxy="${http_proxy:-}" https_proxy="${https_proxy:-}"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include="$packages" "$suite" "$root" \
    "${mirror:-http://deb.debian.org/debian}" > "$root.log" 2>&1 ||
    { tail -n 20 "$root.log" >&2; exit 1; }
rm -f "$root.log"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}
tar --directory "$root" --create . | docker import --change 'CMD ["bash"]' - "$name"
