# What a test's virtual machine needs, whoever its PID 1 is.
hostname machine
ip link set lo up
# Nothing loads modules on demand before there is a module loader's configuration; and CRIU looks for some by itself.
modprobe -qa overlay tun fuse veth bridge nf_tables nft_chain_nat ip_tables iptable_filter unix_diag tcp_diag udp_diag \
    inet_diag raw_diag packet_diag netlink_diag || true
# The second disk has what the tests brought.
modprobe virtio_blk
mount -t ext4 -o ro,noload /dev/vda /opt/rtc
