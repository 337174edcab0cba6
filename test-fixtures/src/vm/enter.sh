# Run by sh on the host, in mount and PID namespaces of its own: runs a command on the files of the emulator's tree ($1), in
# the host's directory $2. The host's files are below /mnt there.
set -eu
tree=$1 directory=$2
shift 2
mount --rbind / "$tree/mnt"
mount --rbind /dev "$tree/dev"
mount -t proc proc "$tree/proc"
exec chroot "$tree" sh -euc 'cd "/mnt$0"; exec "$@"' "$directory" "$@"
