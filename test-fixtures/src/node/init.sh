# The node's PID 1, still on the host's files: lays out the node's file system, pivots into it, becomes tini.
# In: ROOT (the lower layers: rtc's binaries, the shared root tree), WORK (an empty directory of the host), NAME, CGROUPS
# (v2, or v1 hierarchies as "options=directory" words). Says "pid N" (the host's number) and "ready" on standard output, and
# then waits for a line on standard input.
set -eu

# The host's /proc is still mounted here, and it knows this process by the host's number.
read -r pid _ </proc/self/stat
echo "pid $pid"

mount -t tmpfs -o mode=755 node "$WORK"
mkdir "$WORK/upper" "$WORK/work" "$WORK/root"
root="$WORK/root"
mount -t overlay -o "lowerdir=$ROOT,upperdir=$WORK/upper,workdir=$WORK/work" overlay "$root"
cd "$root"

mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
if [ "$CGROUPS" = v2 ]; then
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
else
    mount -t tmpfs -o nosuid,nodev,noexec,mode=755 tmpfs sys/fs/cgroup
    for hierarchy in $CGROUPS; do
        directory="sys/fs/cgroup/${hierarchy##*=}"
        mkdir "$directory"
        case "$hierarchy" in
        cgroup2=*) mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$directory" ;;
        *) mount -t cgroup -o "nosuid,nodev,noexec,${hierarchy%=*}" cgroup "$directory" ;;
        esac
    done
fi

mount -t tmpfs -o nosuid,mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/mqueue dev/net
for device in null zero full random urandom tty fuse net/tun userfaultfd; do
    [ -e "/dev/$device" ] || continue
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mount -t devpts -o nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 shm dev/shm
mount -t mqueue -o nosuid,nodev,noexec mqueue dev/mqueue
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr

mkdir -p var/lib/containerd
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs run
mount -t tmpfs -o mode=711 tmpfs var/lib/containerd
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs tmp
mkdir run/lock

echo "$NAME" >/proc/sys/kernel/hostname
echo "$NAME" >etc/hostname
printf '127.0.0.1 localhost %s\n::1 localhost\n' "$NAME" >etc/hosts

mkdir .host
# The tree's: not every Debian host has one.
usr/bin/busybox pivot_root . .host
cd /
umount -l .host
rmdir .host
ip link set lo up

echo ready
# Its owner moves this process out of the root of the node's cgroup2, before it has children there.
read -r _
# The lifeline is cat's standard input: when its other end is closed, cat ends, so tini ends, and with PID 1 the kernel
# kills all that is in the node. Its owner writes one line into it, to hear from cat that all is up.
exec tini -- cat 2>/dev/null
