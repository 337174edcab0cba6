# Docker with the runtime $1, and with the containerd shim of its name if there is one, on standard output as TAP. It has
# but one file, so $2 is not looked at.
echo "# file docker"
number=0
# Runs the command that follows the name.
check() {
    name="$prefix$1"
    shift
    number=$((number + 1))
    if output=$("$@" 2>&1); then
        echo "ok $number $name"
    else
        echo "not ok $number $name"
        echo "$output" | sed 's/^/# /'
    fi
}
# With a containerd of its own. A bridge takes rules of iptables, and the containers here need no network.
start_daemon() {
    mkdir -p /etc/docker
    path=$(command -v "$1")
    cat >/etc/docker/daemon.json <<JSON
{
    "runtimes": { "given": { "path": "$path" } },
    "bridge": "none", "iptables": false, "ip6tables": false, "ip-forward": false, "ip-masq": false,
    "storage-driver": "vfs", "experimental": true
}
JSON
    dockerd >/run/dockerd.log 2>&1 &
    daemon=$!
    for _ in $(seq 100); do
        docker info >/dev/null 2>&1 && return
        sleep 0.1
    done
    tail -n 5 /run/dockerd.log | sed 's/^/# /'
    echo "Bail out! dockerd does not answer"
    exit 1
}
docker() {
    timeout 120 /usr/bin/docker "$@"
}
run() {
    docker run --network none --runtime "$runtime" "$@"
}
is() {
    [ "$1" = "$2" ] || { echo "expected $2, got $1"; false; }
}
inspect() {
    docker inspect --format "{{.State.$2}}" "$1"
}
counts() {
    before=$(docker exec "$1" cat /count) && sleep 1 && after=$(docker exec "$1" cat /count) && [ "$after" -gt "$before" ]
}
counter='i=0; while :; do i=$((i + 1)); echo $i >/count; sleep 0.1; done'

output() { is "$(run --rm busybox sh -c 'echo out; echo err >&2' 2>/dev/null)" out; }
input() { is "$(echo in | run --rm -i busybox cat)" in; }
code() { run --rm busybox sh -c 'exit 7'; is $? 7; }
killed() { run --rm --init busybox sh -c 'kill -9 $$'; is $? 137; }
not_found() { run --rm busybox nosuch; is $? 127; }
not_executable() { run --rm busybox /etc/passwd; is $? 126; }
terminal() { is "$(run --rm -t busybox sh -c 'test -t 0 && echo terminal' | tr -d '\r')" terminal; }
user() { is "$(run --rm --user 1000:1000 --read-only --cap-drop ALL --security-opt no-new-privileges busybox id -u)" 1000; }
privileged() { run --rm --privileged busybox mount -t tmpfs tmpfs /tmp; }
volume() { is "$(run --rm -v /etc/docker:/given:ro --tmpfs /tmp:size=1m busybox sh -c 'touch /given/x 2>/dev/null || ls /given')" daemon.json; }
settings() { is "$(run --rm -h name --ulimit nofile=100:200 --sysctl kernel.msgmax=1000 busybox sh -c 'hostname; ulimit -n; cat /proc/sys/kernel/msgmax' | tr '\n' ' ')" "name 100 1000 "; }
limits() { run --rm --memory 64m --pids-limit 20 --cpus 0.5 busybox true; }
oom() { run --name oom --memory 20m busybox sh -c 'head -c 100m /dev/zero | tail'; is "$(inspect oom OOMKilled)" true; }
executes() { is "$(docker exec -e A=b -u 33:33 -w /tmp cc sh -c 'echo $A $(id -u) $(pwd)')" "b 33 /tmp"; }
failure() { docker exec cc sh -c 'exit 9'; is $? 9; }
pauses() { docker pause cc && is "$(inspect cc Status)" paused && docker unpause cc && is "$(inspect cc Status)" running; }
stops() { docker stop -t 1 cc && is "$(inspect cc Status) $(inspect cc ExitCode)" "exited 137"; }
starts() { docker start cc && is "$(inspect cc Status)" running; }
restarted() {
    run -d --name again --restart on-failure:2 busybox sh -c 'exit 3'
    for _ in $(seq 50); do
        [ "$(docker inspect --format '{{.RestartCount}}' again)" = 2 ] && [ "$(inspect again Status)" = exited ] && return
        sleep 0.1
    done
    docker inspect r
    false
}
removed() { docker ps -aq | xargs /usr/bin/docker rm -f && is "$(docker ps -aq)" ""; }

all() {
    check "run: output" output
    check "run: input" input
    check "run: exit code" code
    check "run: exit code of a signal" killed
    check "run: a program that is not there" not_found
    check "run: a program that is not executable" not_executable
    check "run: terminal" terminal
    check "run: user, read-only root, no capabilities" user
    check "run: privileged" privileged
    check "run: volume, tmpfs" volume
    check "run: hostname, ulimit, sysctl" settings
    check "run: limits" limits
    check "run: out of memory" oom
    check "run: detached" run -d --name cc busybox sh -c "$counter"
    check "exec: environment, user, directory" executes
    check "exec: exit code" failure
    check "pause, unpause" pauses
    check "pause, unpause: it counts on" counts cc
    check "top" docker top cc
    check "stats" docker stats --no-stream cc
    check "update" docker update --pids-limit 50 cc
    check "checkpoint, still running" docker checkpoint create --leave-running cc one
    check "checkpoint, still running: it counts on" counts cc
    check "stop" stops
    check "start again" starts
    check "restart" restarted
    check "kill" docker kill cc
    check "rm" removed
}
start_daemon "$1"
docker import /suites/runc/tests/integration/testdata/busybox-*.tar.xz busybox >/dev/null 2>&1
prefix="" runtime=given
all
if command -v "containerd-shim-$1-v2" >/dev/null; then
    prefix="shim: " runtime="io.containerd.$1.v2"
    all
fi
kill "$daemon"
wait "$daemon"
echo "1..$number"
