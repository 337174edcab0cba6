# Run by sh on the host, as the first process of a node to be: joins the node's cgroups (the directories in $1), then
# becomes the node's PID 1 in namespaces of its own. Standard input is the lifeline: the node ends when it is closed.
set -eu
for directory in $1; do
    echo 0 >"$directory/cgroup.procs"
done
export ROOT="$2" WORK="$3" NAME="$4" CGROUPS="$5"
exec unshare --mount --propagation private --pid --fork --kill-child=KILL --uts --net --ipc --cgroup -- sh -c "$6"
