#!/usr/bin/env bash
# Ends with 0 if the node in this container says that it is well (`/healthz`).
# In bash, so that no Python has to start every few seconds.
set -euo pipefail
exec 3<> /dev/tcp/127.0.0.1/9100
printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3
read -r _ status _ <&3
[[ $status == 200 ]]
