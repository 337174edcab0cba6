#![cfg_attr(fuzzing, no_main)]

rtc_fuzz::target!(containerd_shim_rtc_v2::fuzzing::rootfs_mount);
