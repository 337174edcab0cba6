# Run in the emulator's tree, in a new directory of the host: leaves two programs there. The tree is left as it is.
mount -t tmpfs tmpfs /var/lib/apt
mount -t tmpfs tmpfs /var/cache/apt
apt-get update -q
apt-get download -q -o APT::Sandbox::User=root apparmor secilc
for package in *.deb; do
    dpkg-deb -x "$package" unpacked
done
mv unpacked/usr/sbin/apparmor_parser unpacked/usr/bin/secilc .
rm -r -- *.deb unpacked
