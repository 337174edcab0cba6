//! What is told of the suites: how many tests passed, and those that a peer passes and rtc does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use test_fixtures::Cgroups;

use super::suite::{Runtime, Suite};
use super::tap::{Outcome, Results};

/// One suite, run once.
pub(crate) struct Row {
    pub(crate) suite: Suite,
    pub(crate) cgroups: Cgroups,
    pub(crate) runtime: Runtime,
    pub(crate) results: Results,
}

pub(crate) fn layout(cgroups: Cgroups) -> &'static str {
    match cgroups {
        Cgroups::Hybrid => "hybrid",
        Cgroups::V2 => "v2",
    }
}

pub(crate) fn counts(rows: &[Row]) -> String {
    let mut text = "suite          cgroups  runtime  passed  skipped  failed\n".to_owned();
    for row in rows {
        let count = |outcome| row.results.values().filter(|&&found| found == outcome).count();
        let (passed, skipped, failed) = (count(Outcome::Passed), count(Outcome::Skipped), count(Outcome::Failed));
        let Row { suite, cgroups, runtime, .. } = row;
        let layout = layout(*cgroups);
        // Writing into a string cannot fail.
        writeln!(text, "{suite:<13}  {layout:<7}  {runtime:<7}  {passed:>6}  {skipped:>7}  {failed:>6}").ok();
    }
    text
}

/// The tests that a peer passes and rtc, run under the same conditions, does not. Those that were not even run are told
/// file by file: one that ends early leaves hundreds.
pub(crate) fn differences(rows: &[Row]) -> String {
    let (mut text, mut compared) = (String::new(), false);
    for own in rows.iter().filter(|row| row.runtime == Runtime::Rtc) {
        let is_peer = |row: &&Row| row.runtime != Runtime::Rtc && row.suite == own.suite && row.cgroups == own.cgroups;
        let peers: Vec<&Row> = rows.iter().filter(is_peer).collect();
        compared |= !peers.is_empty();
        let mut found = BTreeMap::new();
        for name in peers.iter().flat_map(|peer| peer.results.keys()).collect::<BTreeSet<_>>() {
            let passes = |peer: &&&Row| peer.results.get(name) == Some(&Outcome::Passed);
            let by: Vec<&str> = peers.iter().filter(passes).map(|peer| peer.runtime.name()).collect();
            let file = name.split(':').next().unwrap_or(name);
            let (test, outcome) = match own.results.get(name) {
                Some(Outcome::Passed) => continue,
                Some(Outcome::Failed) => (name.as_str(), "failed"),
                Some(Outcome::Skipped) => (name.as_str(), "skipped"),
                None => (file, "not run"),
            };
            if !by.is_empty() {
                *found.entry((test, outcome, by.join(" and "))).or_insert(0) += 1;
            }
        }
        for ((test, outcome, by), count) in found {
            let times = if count == 1 { String::new() } else { format!(" ({count} tests)") };
            writeln!(text, "{} on {}: {test}: {outcome}{times}; passed by {by}", own.suite, layout(own.cgroups)).ok();
        }
    }
    match (compared, text.is_empty()) {
        (false, _) => "nothing to compare: it takes rtc and a peer".to_owned(),
        (true, true) => "rtc passes whatever a peer passes".to_owned(),
        (true, false) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(runtime: Runtime, cgroups: Cgroups, results: &[(&str, Outcome)]) -> Row {
        let results = results.iter().map(|(name, outcome)| ((*name).to_owned(), *outcome)).collect();
        Row { suite: Suite::Crun, cgroups, runtime, results }
    }

    #[test]
    fn tells_what_a_peer_passes_and_rtc_does_not() {
        let rows = [
            row(Runtime::Rtc, Cgroups::V2, &[("a", Outcome::Passed), ("b", Outcome::Failed), ("c", Outcome::Failed)]),
            row(Runtime::Runc, Cgroups::V2, &[("a", Outcome::Passed), ("b", Outcome::Passed), ("c", Outcome::Skipped)]),
            row(
                Runtime::Crun,
                Cgroups::V2,
                &[("b", Outcome::Passed), ("d: e", Outcome::Passed), ("d: f", Outcome::Passed)],
            ),
            // Another layout is no measure.
            row(Runtime::Crun, Cgroups::Hybrid, &[("c", Outcome::Passed)]),
        ];
        let expected =
            "crun on v2: b: failed; passed by runc and crun\ncrun on v2: d: not run (2 tests); passed by crun\n";
        assert_eq!(differences(&rows), expected);
        let peer = row(Runtime::Runc, Cgroups::V2, &[("a", Outcome::Passed), ("b", Outcome::Failed)]);
        let own = row(Runtime::Rtc, Cgroups::V2, &[("a", Outcome::Passed)]);
        assert_eq!(differences(&[own, peer]), "rtc passes whatever a peer passes");
        for one in [&rows[..1], &rows[1..]] {
            assert_eq!(differences(one), "nothing to compare: it takes rtc and a peer");
        }
        let line = "crun           v2       rtc           1        0       2";
        assert_eq!(counts(&rows).lines().nth(1), Some(line));
    }
}
