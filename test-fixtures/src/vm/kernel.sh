# Run in the emulator's tree while it is made: unpacks the newest kernel of the suite into /kernel, for the package itself
# would bring the makers of an initramfs, and a boot loader.
set -eu
apt-get update -q
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
mkdir /kernel
cd /kernel
apt-get download -q -o APT::Sandbox::User=root "$kernel"
dpkg-deb -x ./linux-image-*.deb .
rm ./linux-image-*.deb
mv boot/vmlinuz-* vmlinuz
ln -s usr/lib lib
depmod -b /kernel "${kernel#linux-image-}"
rm -r /var/lib/apt/lists /var/cache/apt/*.bin
