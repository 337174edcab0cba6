# The validation of runtime-tools against the runtime $1, on standard output as TAP. $2: a part of the names of its programs.
export RUNTIME="$(command -v "$1")"
cd /suites/runtime-tools
for file in validation/*/*"$2"*.t; do
    echo "# file $(basename "$file" .t)"
    # Some say nothing when they fail.
    timeout 60 "$file" 2>&1 || echo "not ok - the program ended with $?"
done
