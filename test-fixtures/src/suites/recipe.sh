# Run by sh in the root of the suites' tree: installs what they need, unpacks their sources below /suites, builds them.
export DEBIAN_FRONTEND=noninteractive

apt-get update -q
apt-get install -qy --no-install-recommends \
    attr bats bsdextrautils conmon docker-cli docker.io dpkg-dev file gawk gcc golang-github-google-uuid-dev golang-go \
    libc6-dev libseccomp-dev netavark pkgconf podman python3 sshfs sudo uidmap xz-utils
# The Go packages that they import; Debian's sources have no vendored ones.
apt-get build-dep -qy --no-install-recommends runc golang-github-opencontainers-runtime-tools
apt-get clean

# Where Go looks for packages when there are no modules, beside Debian's.
imports=/suites/go/src/github.com/opencontainers
mkdir -p $imports
cd /suites
for source in runc/forky golang-github-opencontainers-runtime-tools/forky crun/trixie; do
    apt-get source -q --tar-only "$source"
done
unpack() {
    mkdir "$2"
    tar -xf "$1" -C "$2" --strip-components=1
}
unpack runc_*.orig.tar.* $imports/runc
unpack golang-github-opencontainers-runtime-tools_*.orig.tar.* $imports/runtime-tools
unpack crun_*.orig.tar.* crun
rm -- *.orig.tar.*
ln -s $imports/runc runc
ln -s $imports/runtime-tools runtime-tools

export GO111MODULE=off GOPATH=/suites/go:/usr/share/gocode GOCACHE=/suites/cache
cd $imports/runc
for program in tests/cmd/*/; do
    go build -tags seccomp -o "tests/cmd/_bin/$(basename "$program")" "./$program"
done
# From the tree's maker. Its original is in no package.
mkdir -p /suites/go/src/github.com/mndrix/tap-go
mv /suites/tap.go /suites/go/src/github.com/mndrix/tap-go
cd $imports/runtime-tools
# Debian's selinux package is newer than this source, and has the function in another of its packages.
sed -i 's|go-selinux/label"|go-selinux"|; s/label\.FileLabel/selinux.FileLabel/' cmd/runtimetest/main.go
CGO_ENABLED=0 go build -o runtimetest ./cmd/runtimetest
for test in validation/*/; do
    name=$(basename "$test")
    [ "$name" = util ] || go build -o "$test/$name.t" "./$test"
done
cd /suites/crun/tests
# What its configure script finds out.
: >config.h
gcc -static -I. -DHAVE_ERROR_H -DHAVE_LINUX_IOPRIO_H -DHAVE_SECCOMP -o init init.c -lseccomp
rm -r "$GOCACHE"
cd /suites

# The images that runc's tests would load from the network, by the names that they look for first. What is in them is
# told by tar, whatever their names end with.
architecture=$(dpkg --print-architecture)
images=$imports/runc/tests/integration/testdata
tar -C debian -cf "$images/debian-$architecture.tar.xz" \
    --exclude=./dev --exclude=./proc --exclude=./usr/share --exclude=./var/cache --exclude=./var/lib/apt .
mkdir -p busybox/bin busybox/dev busybox/etc busybox/home busybox/lib busybox/root busybox/tmp busybox/usr/bin busybox/var
chmod 1777 busybox/tmp
cp /usr/bin/busybox busybox/bin
for applet in $(/usr/bin/busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "busybox/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n' \
    >busybox/etc/passwd
printf 'root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n' >busybox/etc/group
tar -C busybox -cf "$images/busybox-$architecture.tar.xz" .
rm -r debian busybox
