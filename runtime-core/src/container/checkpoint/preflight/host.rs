//! CRIU, kernel and CPU: of this host, and of one that is to restore.

use std::collections::BTreeSet;

use criu::{Criu, MINIMUM};
use serde::{Deserialize, Serialize};

use super::report::{Kind, Report};
use crate::container::checkpoint::host::Host;
use crate::container::checkpoint::options::CheckpointOptions;
use crate::container::checkpoint::swrk::Plain;

/// Since Linux 6.16 the kernel refuses a socket option of which an older CRIU asks every socket.
const NEW_OPTION: [u32; 2] = [6, 16];
const KNOWS_NEW_OPTION: [u32; 2] = [4, 2];

/// CPU features that change what a process has in its registers: CRIU refuses images with more of them than the CPU has.
const REGISTERS: [&str; 9] = ["fxsr", "xsave", "avx", "avx2", "avx512", "amx_", "pku", "sve", "sme"];

/// What a checkpoint depends on beside itself. The other side of a move writes one, this side reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostDescription {
    #[serde(flatten)]
    pub(super) host: Host,
    /// CRIU's version; empty if there is none.
    pub(super) criu: String,
}

impl HostDescription {
    /// Starts CRIU to ask for its version.
    pub fn of_this_machine() -> Self {
        let version = Criu::find().and_then(|criu| criu.version(&Plain));
        Self { host: Host::of_this_machine(), criu: version.map(|version| version.to_string()).unwrap_or_default() }
    }

    pub(super) fn recorded(host: &Host, criu: &str) -> Self {
        Self { host: host.clone(), criu: criu.to_owned() }
    }
}

/// What this host can do.
pub(super) fn check(options: &CheckpointOptions, report: &mut Report) {
    let Some(version) = check_criu(report) else { return };
    let kernel = Host::of_this_machine().kernel;
    if numbers(&kernel) >= NEW_OPTION && numbers(&version) < KNOWS_NEW_OPTION {
        let what = format!("CRIU {version} with Linux {kernel}");
        let why = "since Linux 6.16 only CRIU 4.2 or newer can dump every socket";
        report.warn(Kind::Criu, None, what, why, "install CRIU 4.2 or newer");
    }
    if !options.pre_dump && !options.lazy_pages {
        return;
    }
    match Criu::find().and_then(|criu| criu.features(&Plain)) {
        Ok(features) if options.pre_dump && !features.mem_track => {
            let why = "it needs a kernel that tracks memory (CONFIG_MEM_SOFT_DIRTY)";
            report.refuse(Kind::Kernel, None, "CRIU offers no pre-dump here".to_owned(), why, "checkpoint without it");
        }
        Ok(features) if options.lazy_pages && !features.lazy_pages => {
            let why = "they need a kernel with userfaultfd(2)";
            report.refuse(
                Kind::Kernel,
                None,
                "CRIU offers no lazy pages here".to_owned(),
                why,
                "checkpoint without them",
            );
        }
        Ok(_) => {}
        Err(err) => failed(&err, report),
    }
}

/// CRIU's version, if it is one that can be used.
pub(super) fn check_criu(report: &mut Report) -> Option<String> {
    match Criu::find().and_then(|criu| criu.require(MINIMUM, &Plain)) {
        Ok(version) => Some(version.to_string()),
        Err(err) => {
            failed(&err, report);
            None
        }
    }
}

fn failed(err: &criu::Error, report: &mut Report) {
    let remedy = format!("install CRIU {MINIMUM} or newer");
    report.refuse(Kind::Criu, None, "CRIU cannot be used".to_owned(), &crate::error::chain(err), &remedy);
}

/// Whether what `from` has dumped can be restored on `to`.
pub(super) fn compare(from: &HostDescription, to: &HostDescription, report: &mut Report) {
    if from.host.architecture != to.host.architecture {
        let what =
            format!("the processes are of {}, and the other CPU is {}", from.host.architecture, to.host.architecture);
        report.refuse(Kind::Cpu, None, what, "a process cannot change its architecture", "choose another host");
        return;
    }
    let have: BTreeSet<&str> = to.host.cpu_features.iter().map(String::as_str).collect();
    let missing: Vec<&str> = from.host.cpu_features.iter().map(String::as_str).filter(|f| !have.contains(f)).collect();
    let (registers, others): (Vec<&str>, Vec<&str>) =
        missing.into_iter().partition(|feature| REGISTERS.iter().any(|name| feature.starts_with(name)));
    if !registers.is_empty() && !have.is_empty() {
        let what = format!("the other CPU lacks {}", registers.join(", "));
        let why = "a process may have state in registers that are not there";
        report.refuse(Kind::Cpu, None, what, why, "choose a host with these features, or hide them from both");
    }
    if !others.is_empty() && !have.is_empty() {
        let what = format!("the other host has not {}", others.join(", "));
        let why = "a process that has found such a CPU feature at its start and uses it is killed";
        report.warn(Kind::Cpu, None, what, why, "see whether they matter to the program");
    }
    older(Kind::Kernel, "Linux", &from.host.kernel, &to.host.kernel, report);
    if to.criu.is_empty() {
        report.refuse(Kind::Criu, None, "the other host has no CRIU".to_owned(), "CRIU restores", "install CRIU there");
    } else {
        older(Kind::Criu, "CRIU", &from.criu, &to.criu, report);
    }
}

fn older(kind: Kind, name: &str, from: &str, to: &str, report: &mut Report) {
    if numbers(to) < numbers(from) {
        let what = format!("{name} {to} restores what {name} {from} has dumped");
        report.warn(
            kind,
            None,
            what,
            "an older one may not know what is in the images",
            "use the same version or a newer one",
        );
    }
}

/// The first two of `6.18.0-rc1`.
fn numbers(version: &str) -> [u32; 2] {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    [parts.next().unwrap_or(0), parts.next().unwrap_or(0)]
}

#[cfg(test)]
mod unit {
    use super::super::report::Severity;
    use super::*;

    fn host(kernel: &str, features: &[&str], criu: &str) -> HostDescription {
        let features = features.iter().map(|feature| (*feature).to_owned()).collect();
        let host = Host { kernel: kernel.to_owned(), architecture: "x86_64".to_owned(), cpu_features: features };
        HostDescription { host, criu: criu.to_owned() }
    }

    fn found(from: &HostDescription, to: &HostDescription) -> Vec<(Kind, Severity)> {
        let mut report = Report::default();
        compare(from, to, &mut report);
        report.findings.iter().map(|finding| (finding.kind, finding.severity)).collect()
    }

    #[test]
    fn the_same_and_a_better_host_have_nothing_against_it() {
        let from = host("6.1.0", &["avx", "fpu"], "4.1");
        assert_eq!(found(&from, &from), []);
        assert_eq!(found(&from, &host("6.12.3", &["avx", "avx2", "fpu"], "4.2.1")), []);
    }

    #[test]
    fn registers_refuse_and_the_rest_warns() {
        let from = host("6.12.0", &["avx512f", "avx", "rdrand"], "4.2.1");
        let to = host("6.9.0", &["avx"], "4.1.1");
        let expected = [
            (Kind::Cpu, Severity::Refuse),
            (Kind::Cpu, Severity::Warn),
            (Kind::Kernel, Severity::Warn),
            (Kind::Criu, Severity::Warn),
        ];
        assert_eq!(found(&from, &to), expected);
        assert_eq!(
            found(&from, &HostDescription { criu: String::new(), ..from.clone() }),
            [(Kind::Criu, Severity::Refuse)]
        );
    }

    #[test]
    fn another_architecture_is_refused_and_nothing_else_said() {
        let from = host("6.12.0", &["avx"], "4.2");
        let mut to = host("5.0.0", &[], "");
        to.host.architecture = "aarch64".to_owned();
        assert_eq!(found(&from, &to), [(Kind::Cpu, Severity::Refuse)]);
    }

    #[test]
    fn a_description_survives_the_file() {
        let from = host("6.12.0", &["avx"], "4.2");
        let json = serde_json::to_string(&from).unwrap();
        assert!(json.contains("\"cpuFeatures\":[\"avx\"]") && json.contains("\"criu\":\"4.2\""), "{json}");
        assert_eq!(serde_json::from_str::<HostDescription>(&json).unwrap(), from);
    }
}
