//! The tests that SPEC.md and SECURITY.md name are there.

use std::collections::BTreeSet;
use std::path::Path;

/// How many sections of each document have a row.
const DOCUMENTS: &[(&str, usize)] = &[
    ("bundle.md", 1),
    ("config.md", 26),
    ("config-linux.md", 28),
    ("runtime.md", 10),
    ("runtime-linux.md", 2),
    ("features.md", 2),
    ("features-linux.md", 6),
];

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The cells of the rows of a page's tables, without their heads.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let cells = |line: &'_ str| line.trim_matches('|').split(" | ").map(str::trim).count();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 2 && rows.iter().all(|row| cells(row) == cells(rows[0])), "rows of unlike lengths");
    rows[2..].iter().map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// What stands in backquotes and has a path.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2).filter(|name| name.contains("::"))
}

/// Whether a test is there; a name may end in `*`.
fn exists(name: &str) -> bool {
    let found = |text: &str, function: &str| match function.strip_suffix('*') {
        Some(beginning) => text.contains(&format!("fn {beginning}")),
        None => text.contains(&format!("fn {function}()")),
    };
    match name.split_once("::tests::") {
        Some((module, function)) => {
            // Those of the command line are in its own package.
            let (source, module) = module.strip_prefix("rtc::").map_or(("src", module), |module| ("rtc/src", module));
            let path = module.replace("::", "/");
            let files = ["", "/mod", "/tests"].map(|file| format!("{source}/{path}{file}.rs"));
            files
                .iter()
                .filter(|file| Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists())
                .any(|file| found(&read(file), function))
        }
        None => {
            let (file, function) = name.split_once("::").unwrap();
            let path = format!("tests/lifecycle/{file}.rs");
            // A test that the list does not have is never run.
            Path::new(env!("CARGO_MANIFEST_DIR")).join(&path).exists() && {
                let text = read(&path);
                found(&text, function) && text.contains(&format!("\"{function}\""))
            }
        }
    }
}

fn every_row_has_tests(page: &str) -> Vec<String> {
    let page = read(page);
    let mut wrong = Vec::new();
    for row in rows(&page) {
        let tests = row.last().unwrap();
        if names(tests).next().is_none() {
            wrong.push(format!("{}: no test", row[..2].join(" ")));
        }
        wrong.extend(names(tests).filter(|name| !exists(name)).map(|name| format!("{}: there is no {name}", row[0])));
    }
    wrong
}

#[test]
fn every_section_of_the_specification_has_tests_that_exist() {
    assert_eq!(every_row_has_tests("SPEC.md"), Vec::<String>::new());
    let page = read("SPEC.md");
    let mut seen = BTreeSet::new();
    for (document, count) in DOCUMENTS {
        let sections = rows(&page).into_iter().filter(|row| row[0] == *document).map(|row| row[1].to_owned());
        let sections: Vec<_> = sections.collect();
        assert_eq!(sections.len(), *count, "sections of {document}");
        assert!(sections.into_iter().all(|section| seen.insert((document, section))), "{document}: a section twice");
    }
}

#[test]
fn every_advisory_has_tests_that_exist() {
    assert_eq!(every_row_has_tests("SECURITY.md"), Vec::<String>::new());
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    assert!(!exists("hooks::no_such_test") && !exists("no_such_file::test") && !exists("spec::tests::no_such_test"));
    assert!(
        !exists("rtc::exec::tests::no_such_test") && exists("rtc::exec::tests::a_user_is_a_uid_and_may_have_a_gid")
    );
    assert!(!exists("rootfs::tests::cve_1999_*") && exists("rootfs::tests::cve_2025_31133_*"));
}
