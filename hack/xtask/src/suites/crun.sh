# crun's tests against the runtime $1, on standard output as TAP. $2: a part of the names of the files to run.
export OCI_RUNTIME="$(command -v "$1")" INIT=/suites/crun/tests/init
cd /suites/crun/tests
for file in test_*"$2"*.py; do
    echo "# file $(basename "$file" .py)"
    timeout 200 python3 "$file" 2>&1 || echo "# status $?"
done
