#!/bin/sh
# Moves all running containers of this node to another one, a few at a time. What cannot go is named, and stays.
#
#   drain.sh TARGET [JOBS]        drain.sh ssh://node-b 4
#
# $CONTAINERD_NAMESPACE names containerd's namespace, as for ctr. Ends with 1 if something has stayed.
set -eu

target=${1:?usage: drain.sh TARGET [JOBS]}
jobs=${2:-2}

running() {
    ctr task ls | awk 'NR > 1 && $3 == "RUNNING" { print $1 }'
}

# Each line is a whole report; xargs ends with 123 if one has failed.
if running | xargs -r -P "$jobs" -I ID rtc migrate ID --to "$target"; then
    exit 0
fi
printf 'these have stayed:\n%s\n' "$(running)" >&2
exit 1
