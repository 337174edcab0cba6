//! What has to hold for every commit beside the tests.

use serde_json::Value;

use crate::error::Error;
use crate::host;
use crate::process::{cargo, read, run, say, succeeds};

/// Who may depend on whom within the workspace: the arrows of the layout, never upwards. In tests all may use
/// `test-fixtures` and the crates below themselves.
const ARROWS: &[(&str, &[&str])] = &[
    ("rtc-proto", &[]),
    ("criu", &["rtc-proto"]),
    ("runtime-core", &["criu"]),
    ("rtc", &["runtime-core"]),
    ("containerd-shim-rtc-v2", &["runtime-core", "rtc-proto"]),
    ("rtc-migrate", &["criu", "rtc-proto"]),
    ("test-fixtures", &["rtc-proto"]),
    ("cri-client", &[]),
    ("rtc-bench", &[]),
    ("rtc-fuzz", &["criu", "runtime-core", "rtc", "containerd-shim-rtc-v2", "rtc-migrate"]),
    ("xtask", &["test-fixtures"]),
];

/// Crates of the product that know neither containerd nor an asynchronous runtime.
const SYNCHRONOUS: &[&str] = &["rtc-proto", "criu", "runtime-core", "rtc"];
const ASYNCHRONOUS: &[&str] = &["tokio", "ttrpc", "containerd-shim", "containerd-shim-protos"];

/// Runs all checks, and then tells which of them failed.
fn run_all() -> Vec<(&'static str, Result<(), Error>)> {
    vec![
        ("format", run(cargo().args(["fmt", "--all", "--check"]))),
        (
            "lints",
            run(cargo().args(["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"])),
        ),
        ("layering", layering()),
        ("dependencies", dependencies()),
    ]
}

pub(crate) fn run_checks() -> Result<(), Error> {
    host::prepare()?;
    let failed: Vec<String> = run_all()
        .into_iter()
        .filter_map(|(name, result)| result.err().map(|error| format!("{name}: {error}")))
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(Error::Checks(failed)) }
}

fn dependencies() -> Result<(), Error> {
    if !succeeds(cargo().args(["deny", "--version"])) {
        say("installing cargo-deny (some minutes, once)");
        // As in `test`.
        run(cargo().args(["install", "cargo-deny", "--locked", "--debug"]))?;
    }
    run(cargo().args(["deny", "--all-features", "check", "bans", "licenses", "sources"]))?;
    // The database is a repository of its own, which is not to be had everywhere.
    if !succeeds(cargo().args(["deny", "fetch", "db"])) {
        say("advisories were not checked: their database cannot be reached");
        return Ok(());
    }
    run(cargo().args(["deny", "--all-features", "check", "--disable-fetch", "advisories"]))
}

fn layering() -> Result<(), Error> {
    let text = read(cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata = serde_json::from_str(&text).map_err(Error::Metadata)?;
    let wrong = violations(&metadata);
    if wrong.is_empty() { Ok(()) } else { Err(Error::Layering(wrong)) }
}

fn violations(metadata: &Value) -> Vec<String> {
    let empty = Vec::new();
    let packages = metadata["packages"].as_array().unwrap_or(&empty);
    let members: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            wrong.push(format!("{name} has no place in the layout: give it one in hack/xtask/src/check.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap_or(&empty) {
            let on = dependency["name"].as_str().unwrap_or_default();
            let in_tests = dependency["kind"] == "dev";
            if members.contains(&on) && !in_tests && !allowed.contains(&on) {
                wrong.push(format!("{name} depends on {on}"));
            }
            // Behind a feature, what is generated for an asynchronous crate is with the rest of its kind.
            let optional = dependency["optional"] == true;
            if SYNCHRONOUS.contains(&name) && ASYNCHRONOUS.contains(&on) && !in_tests && !optional {
                wrong.push(format!("{name} is synchronous and depends on {on}"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let all: Vec<Value> = dependencies.iter().map(|(name, kind)| json!({ "name": name, "kind": kind })).collect();
        json!({ "name": name, "dependencies": all })
    }

    fn check(packages: &[Value]) -> Vec<String> {
        violations(&json!({ "packages": packages }))
    }

    #[test]
    fn the_arrows_of_the_layout_hold() {
        let shim = package(
            "containerd-shim-rtc-v2",
            &[("runtime-core", None), ("tokio", None), ("test-fixtures", Some("dev"))],
        );
        let core = package("runtime-core", &[("criu", None), ("libc", None)]);
        let criu = package("criu", &[("rtc-proto", None), ("tokio", Some("dev"))]);
        let all = [shim, core, criu, package("rtc-proto", &[]), package("test-fixtures", &[])];
        assert_eq!(check(&all), [""; 0]);
    }

    #[test]
    fn an_arrow_upwards_is_told() {
        let criu = package("criu", &[("runtime-core", None)]);
        assert_eq!(check(&[criu, package("runtime-core", &[])]), ["criu depends on runtime-core"]);
    }

    #[test]
    fn fixtures_are_for_tests() {
        let core = package("runtime-core", &[("test-fixtures", None)]);
        assert_eq!(check(&[core, package("test-fixtures", &[])]), ["runtime-core depends on test-fixtures"]);
    }

    #[test]
    fn the_runtime_does_not_know_tokio() {
        let core = package("runtime-core", &[("tokio", None)]);
        assert_eq!(check(&[core]), ["runtime-core is synchronous and depends on tokio"]);
    }

    #[test]
    fn code_for_tokio_may_be_generated_behind_a_feature() {
        let mut proto = package("rtc-proto", &[("ttrpc", None)]);
        assert_eq!(check(std::slice::from_ref(&proto)), ["rtc-proto is synchronous and depends on ttrpc"]);
        proto["dependencies"][0]["optional"] = json!(true);
        assert_eq!(check(&[proto]), [""; 0]);
    }

    #[test]
    fn a_new_crate_needs_a_place() {
        assert_eq!(check(&[package("utils", &[])]).len(), 1);
    }
}
