# PID 1 of the emulator's namespace: the machine ends when standard input is closed at its other end, and this process
# when the machine does; what is left then, the kernel kills.
exec 3<&0
"$@" </dev/null 3<&- &
machine=$!
{ cat <&3 >/dev/null; kill -KILL "$machine"; } &
wait "$machine"
