# runc's integration tests against the runtime $1, on standard output as TAP. $2: a part of the names of the files to run.
export RUNC="$(command -v "$1")"
cd /suites/runc
# Nothing is typed, and there is no end of it: at one, script(1) types a character, which a container may read and echo.
mkfifo /tmp/typed
for file in tests/integration/*"$2"*.bats; do
    echo "# file $(basename "$file" .bats)"
    # Many tests want a terminal. That of lazy pages is left out: on a host with small pipes (fs.pipe-max-size) CRIU fails in it,
    # and bats then waits for ever for what it has left running.
    timeout 600 script --quiet --return --command "bats --tap --negative-filter lazy-pages $file" /dev/null <>/tmp/typed 2>&1 ||
        echo "# status $?"
done
