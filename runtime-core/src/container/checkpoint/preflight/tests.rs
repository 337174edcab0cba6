//! The preflight on this very process.

use super::processes::Status;
use super::report::{Finding, Kind, Report, Severity};

#[test]
fn a_status_is_read() {
    let text = "Name:\ta:b\nTracerPid:\t0\nThreads:\t3\nRssAnon:\t     12 kB\n";
    assert_eq!(
        Status::parse(text),
        Status { tracer: None, threads: 3, anonymous: 12 << 10, users: [0; 3], groups: [0; 3] }
    );
    assert_eq!(Status::parse("TracerPid:\t77\n").tracer, Some(77));
    let status = Status::parse("Uid:\t0\t105\t0\t105\nGid:\t7\t7\t7\t8\n");
    assert_eq!((status.users, status.groups), ([0, 105, 0], [7, 7, 7]));
    assert!(!status.is_of((0, 7)) && Status::parse("Uid:\t0\t0\t0\t9\nGid:\t7\t7\t7\t7\n").is_of((0, 7)));
}

#[test]
fn what_many_processes_have_is_found_once() {
    let mut report = Report::default();
    for pid in [4, 5] {
        report.warn(Kind::File, Some(pid), "fd 3 is /x".to_owned(), "it is so", "close it");
    }
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].pid, Some(4));
    assert!(!report.refuses());
    report.refuse(Kind::Space, None, "the disk".to_owned(), "is full", "free it");
    assert!(report.refuses());
    assert_eq!(report.to_string(), "process 4: fd 3 is /x: it is so; close it, and the disk: is full; free it");
    let refusals = report.into_refusals();
    assert_eq!(refusals.findings.len(), 1);
}

#[test]
fn a_finding_is_written_in_words() {
    let finding = Finding {
        kind: Kind::IoUring,
        severity: Severity::Refuse,
        pid: None,
        what: "w".to_owned(),
        why: "y".to_owned(),
        remedy: "r".to_owned(),
    };
    let json = serde_json::to_string(&finding).unwrap();
    assert_eq!(json, r#"{"kind":"io-uring","severity":"refuse","what":"w","why":"y","remedy":"r"}"#);
}
