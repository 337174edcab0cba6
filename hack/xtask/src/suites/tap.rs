//! What a suite says: the Test Anything Protocol, with a line `# file NAME` before what each file of it says.

use std::collections::BTreeMap;

/// In order: of tests of one name in one file, the one that went worst counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Skipped,
    Passed,
    Failed,
}

/// By the test's name, which starts with its file's.
pub(crate) type Results = BTreeMap<String, Outcome>;

pub(crate) fn parse(output: &str) -> Results {
    let mut results = Results::new();
    let mut file = "";
    for line in output.lines() {
        if let Some(name) = line.strip_prefix("# file ") {
            file = name;
        } else if let Some((name, outcome)) = parse_test(line) {
            let so_far = results.entry(format!("{file}: {name}")).or_insert(outcome);
            *so_far = outcome.max(*so_far);
        }
    }
    results
}

/// `ok 3 - NAME`, `not ok 3 NAME`, `ok 3 NAME # skip REASON`, `not ok 3 NAME # TODO`, whose outcome does not matter.
fn parse_test(line: &str) -> Option<(&str, Outcome)> {
    let (passed, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let (name, directive) = rest.split_once(" #").unwrap_or((rest, ""));
    let name = name.trim_start_matches(|character: char| character.is_ascii_digit()).trim();
    let name = name.strip_prefix('-').unwrap_or(name).trim();
    let directive = directive.trim_start().get(..4).unwrap_or_default().to_ascii_lowercase();
    let outcome = match (directive.as_str(), passed) {
        ("skip" | "todo", _) => Outcome::Skipped,
        (_, true) => Outcome::Passed,
        (_, false) => Outcome::Failed,
    };
    Some((name, outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_suites_say() {
        let output = "# file exec\n1..4\nok 1 runc exec\nnot ok 2 runc exec --env # in 3 s\n# a line\n\
                      ok 3 runc exec --user # skip no user\nok 4 - runc exec - twice\n\
                      # file test_mounts\nok 1 - a # SKIP\nnot ok 2 - b # TODO\nnot ok - the program ended with 1\nokay\n";
        let expected = [
            ("exec: runc exec", Outcome::Passed),
            ("exec: runc exec --env", Outcome::Failed),
            ("exec: runc exec --user", Outcome::Skipped),
            ("exec: runc exec - twice", Outcome::Passed),
            ("test_mounts: a", Outcome::Skipped),
            ("test_mounts: b", Outcome::Skipped),
            ("test_mounts: the program ended with 1", Outcome::Failed),
        ];
        assert_eq!(parse(output), expected.map(|(name, outcome)| (name.to_owned(), outcome)).into());
    }

    #[test]
    fn of_tests_of_one_name_the_worst_counts() {
        let output = "# file f\nok 1 - a\nnot ok 2 - a\nok 3 - a\nok 4 - b # skip\nok 5 - b\n";
        let results = parse(output);
        assert_eq!(results.into_values().collect::<Vec<_>>(), [Outcome::Failed, Outcome::Passed]);
    }
}
