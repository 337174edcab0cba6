# Podman with the runtime $1, on standard output as TAP. It has but one file, so $2 is not looked at.
echo "# file podman"
number=0
# Runs the command that follows the name.
check() {
    name="$1"
    shift
    number=$((number + 1))
    if output=$("$@" 2>&1); then
        echo "ok $number $name"
    else
        echo "not ok $number $name"
        echo "$output" | sed 's/^/# /'
    fi
}
mkdir -p /var/lib/containers
# Overlays cannot lie upon the node's own.
mount -t tmpfs tmpfs /var/lib/containers
podman() {
    timeout 120 /usr/bin/podman --runtime "$RUNTIME" --cgroup-manager cgroupfs --events-backend file "$@"
}
run() {
    podman run --network none --log-driver k8s-file --pids-limit -1 "$@"
}
is() {
    [ "$1" = "$2" ] || { echo "expected $2, got $1"; false; }
}
status() {
    podman inspect --format '{{.State.Status}}' "$1"
}
counts() {
    before=$(podman exec "$1" cat /count) && sleep 1 && after=$(podman exec "$1" cat /count) && [ "$after" -gt "$before" ]
}
export PODMAN_IGNORE_CGROUPSV1_WARNING=1
RUNTIME="$(command -v "$1")"
podman import /suites/runc/tests/integration/testdata/busybox-*.tar.xz busybox >/dev/null 2>&1
counter='i=0; while :; do i=$((i + 1)); echo $i >/count; sleep 0.1; done'

output() { is "$(run --rm busybox sh -c 'echo out; exit 0')" out; }
check "run: output" output
code() { run --rm busybox sh -c 'exit 7'; is $? 7; }
check "run: exit code" code
user() { is "$(run --rm --user 1000:1000 --read-only --cap-drop all busybox id -u)" 1000; }
check "run: user, read-only root, no capabilities" user
userns() { is "$(run --rm --uidmap 0:100000:1000 --gidmap 0:100000:1000 busybox cat /proc/self/uid_map | awk '{print $2}')" 100000; }
check "run: user namespace" userns
check "run: detached" run -d --name c busybox sh -c "$counter"
executes() { is "$(podman exec -e A=b c sh -c 'echo $A')" b; }
check "exec: environment" executes
failure() { podman exec c sh -c 'exit 9'; is $? 9; }
check "exec: exit code" failure
pauses() { podman pause c && is "$(status c)" paused && podman unpause c && is "$(status c)" running; }
check "pause, unpause" pauses
check "top" podman top c
check "stats" podman stats --no-stream c
check "checkpoint" podman container checkpoint c
ended() { is "$(status c)" exited; }
check "checkpoint: the container has ended" ended
check "restore" podman container restore c
check "restore: it counts on" counts c
check "checkpoint, still running" podman container checkpoint --leave-running c
check "checkpoint, still running: it counts on" counts c
check "checkpoint: export" podman container checkpoint --export /tmp/c.tar.gz c
podman rm -f c >/dev/null 2>&1
check "restore: import" podman container restore --import /tmp/c.tar.gz
check "restore: import: it counts on" counts c
check "restore: import under another name" podman container restore --import /tmp/c.tar.gz --name d
check "restore: import under another name: it counts on" counts d
stops() { podman stop -t 1 c && is "$(status c)" exited; }
check "stop" stops
starts() { podman start c && is "$(status c)" running; }
check "start again" starts
check "kill" podman kill c
limits() { run --rm --memory 64m busybox true; }
check "run: limits" limits
removed() { podman rm -f -a && is "$(podman ps -aq)" ""; }
check "rm" removed
echo "1..$number"
