//! The contract: what containerd and ctr expect of a shim, end to end, against `io.containerd.runc.v2` and
//! `io.containerd.rtc.v2` alike.
//!
//! Each lane is a runtime, a containerd and a cgroup layout; each test is a group of checks that share one node. All
//! checks of a group run, whatever failed before; after each one the node is searched for what it left. A name of a lane
//! filters: `cargo nextest run -p test-fixtures --test contract runc_`.

#![expect(clippy::print_stderr, reason = "why a test is skipped, and which check a failure belongs to")]

mod bundle;
mod by_socket;
mod checkpoint;
mod cli;
mod client;
mod events;
mod exec;
mod given_up;
mod host;
mod kernel;
mod killed;
mod labels;
mod limits;
mod many;
mod plain;
mod pod;
mod refused;
mod restart;
mod rootless;
mod run;
mod runc_shim;
mod stdio;
mod stop;
mod task;

use host::{Lane, Runtime};
use test_fixtures::{Cgroups, Tree};

macro_rules! lane {
    ($name:ident: $runtime:ident, $tree:ident, $cgroups:ident) => {
        mod $name {
            use super::*;

            const LANE: Lane = Lane { runtime: Runtime::$runtime, tree: Tree::$tree, cgroups: Cgroups::$cgroups };

            #[test]
            fn run_and_its_flags() {
                host::check(LANE, run::CHECKS);
            }

            #[test]
            fn limits() {
                host::check(LANE, limits::CHECKS);
            }

            #[test]
            fn whole_kernel() {
                if LANE.cgroups == Cgroups::Hybrid {
                    eprintln!("skipped: these are of cgroup2");
                    return;
                }
                host::check(LANE, kernel::CHECKS);
            }

            #[test]
            fn streams_are_exact() {
                host::check(LANE, stdio::CHECKS);
            }

            #[test]
            fn task_verbs() {
                host::check(LANE, task::CHECKS);
            }

            #[test]
            fn exec() {
                host::check(LANE, super::exec::CHECKS);
            }

            #[test]
            fn stop() {
                host::check(LANE, super::stop::CHECKS);
            }

            #[test]
            fn bad_input_is_refused() {
                host::check(LANE, refused::CHECKS);
            }

            #[test]
            fn killed_shim() {
                host::check(LANE, killed::CHECKS);
            }

            #[test]
            fn killed_ctr() {
                host::check(LANE, given_up::CHECKS);
            }

            #[test]
            fn checkpoint_and_restore() {
                host::check_after(LANE, super::checkpoint::prepare, super::checkpoint::CHECKS);
            }

            #[test]
            fn many_at_once() {
                host::check(LANE, many::CHECKS);
            }

            #[test]
            fn pod() {
                if LANE.lacks_controllers() {
                    eprintln!("skipped: CRI limits every sandbox's CPU, and cgroup2 has no controllers here");
                    return;
                }
                host::check_after(LANE, super::pod::prepare, super::pod::CHECKS);
            }

            #[test]
            fn command_line() {
                if LANE.tree == Tree::Trixie {
                    eprintln!("skipped: its runc is an old one, with other words");
                    return;
                }
                host::check(LANE, cli::CHECKS);
            }

            #[test]
            fn command_line_from_a_bundle() {
                if LANE.tree == Tree::Trixie {
                    eprintln!("skipped: its runc is an old one, with other words");
                    return;
                }
                host::check_after(LANE, super::bundle::prepare, super::bundle::CHECKS);
            }

            #[test]
            fn users_other_than_root() {
                if LANE.tree == Tree::Trixie {
                    eprintln!("skipped: its runc is an old one, with other words");
                    return;
                }
                host::check_after(LANE, super::rootless::prepare, super::rootless::CHECKS);
            }

            #[test]
            fn delegated_cgroup() {
                if LANE.tree == Tree::Trixie || LANE.cgroups == Cgroups::Hybrid {
                    eprintln!("skipped: v1 delegates nothing to users, and one tree shows it");
                    return;
                }
                host::check_after(LANE, super::rootless::prepare, super::rootless::DELEGATED);
            }

            #[test]
            fn command_line_restores() {
                if LANE.tree == Tree::Trixie {
                    eprintln!("skipped: its CRIU cannot dump on every kernel");
                    return;
                }
                host::check_after(LANE, super::bundle::prepare, super::bundle::RESTORE);
            }

            #[test]
            fn command_line_under_runcs_shim() {
                host::check_after(LANE, runc_shim::prepare, runc_shim::CHECKS);
            }

            #[test]
            fn containerd_goes_away() {
                host::check(LANE, restart::CHECKS);
            }

            #[test]
            fn apparmor() {
                if let Some(why) = labels::lacks_apparmor() {
                    eprintln!("skipped: {why}");
                    return;
                }
                host::check_after(LANE, labels::prepare_apparmor, labels::APPARMOR);
            }

            #[test]
            fn selinux() {
                if let Some(why) = labels::lacks_selinux() {
                    eprintln!("skipped: {why}");
                    return;
                }
                host::check_after(LANE, labels::prepare_selinux, labels::SELINUX);
            }

            #[test]
            fn client_goes_away() {
                if LANE.runtime == Runtime::Runc {
                    eprintln!(
                        "skipped: that a call outlives its client is what rtc promises; of the Go shim nothing is asked"
                    );
                    return;
                }
                host::check(LANE, client::CHECKS);
            }
        }
    };
}

lane!(runc_1_7_hybrid: Runc, Trixie, Hybrid);
lane!(runc_2_1_hybrid: Runc, Forky, Hybrid);
lane!(runc_1_7_v2: Runc, Trixie, V2);
lane!(runc_2_1_v2: Runc, Forky, V2);
lane!(rtc_1_7_hybrid: Rtc, Trixie, Hybrid);
lane!(rtc_2_1_hybrid: Rtc, Forky, Hybrid);
lane!(rtc_1_7_v2: Rtc, Trixie, V2);
lane!(rtc_2_1_v2: Rtc, Forky, V2);

/// containerd 1.6 starts shims in another way (it reads a bare address) and has an older client: what is plain, again.
mod rtc_1_6_hybrid {
    use super::*;

    const LANE: Lane = Lane { runtime: Runtime::Rtc, tree: Tree::Bookworm, cgroups: Cgroups::Hybrid };

    #[test]
    fn what_is_plain() {
        eprintln!("skipped: checkpoints, as Debian 12's CRIU 3.17 does not start on kernels of 2025 and later");
        host::check(LANE, &[plain::CHECKS, super::exec::CHECKS, super::stop::CHECKS, killed::CHECKS].concat());
    }
}

/// The lanes of cgroup2 once more, in a virtual machine: with controllers, with all capabilities, on a kernel that tracks
/// dirty memory. What is of nothing of that is left out, for everything takes long there.
mod vm {
    use std::time::Duration;

    use test_fixtures::{Tree, VmConfig, vm};

    /// Of the groups of a lane, those for which the host's kernel matters.
    #[track_caller]
    fn run(lane: &str, groups: &[&str]) {
        run_on(lane, groups, &VmConfig { tree: Tree::Forky, ..VmConfig::default() });
    }

    /// On a kernel that runs a security module, with the compiler of its policy.
    #[track_caller]
    fn run_labelled(lane: &str, group: &str, parameters: &'static str) {
        if let Some(why) = vm::skip_reason() {
            eprintln!("skipped: {why}");
            return;
        }
        match vm::policy_compilers() {
            Ok(files) => run_on(lane, &[group], &VmConfig { files, parameters, ..VmConfig::default() }),
            Err(why) => eprintln!("skipped: {why}"),
        }
    }

    #[track_caller]
    fn run_on(lane: &str, groups: &[&str], config: &VmConfig) {
        let tests: Vec<String> = groups.iter().map(|group| format!("{lane}::{group}")).collect();
        let arguments: Vec<&str> = tests.iter().map(String::as_str).collect();
        vm::run_tests(config, &arguments, Duration::from_secs(580)).unwrap();
    }

    #[test]
    fn runc_2_1() {
        run("runc_2_1_v2", &["limits", "whole_kernel", "delegated_cgroup"]);
    }

    #[test]
    fn rtc_2_1() {
        run("rtc_2_1_v2", &["limits", "whole_kernel", "delegated_cgroup", "checkpoint_and_restore"]);
    }

    #[test]
    fn rtc_2_1_apparmor() {
        run_labelled("rtc_2_1_v2", "apparmor", "security=apparmor");
    }

    #[test]
    fn rtc_2_1_selinux() {
        run_labelled("rtc_2_1_v2", "selinux", "security=selinux selinux=1 enforcing=0");
    }

    #[test]
    fn rtc_2_1_pods() {
        run("rtc_2_1_v2", &["pod"]);
    }
}
