//! The tree of `cargo xtask suites`: Debian 14's with the sources of the field's public suites for OCI runtimes below
//! `/suites`, built there, and with the Go, Python, bats and Podman that they need.
//!
//! The sources come from Debian's source packages and stay in the tree. Its lists of sources are its own, so that the host
//! needs none; `apt-get` compares what it loads with the checksums of the signed lists. Only the upstream archive of each
//! is taken, since none of Debian's patches is to a test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tree::{complete, debootstrap};
use crate::{Error, Result, Tree, cache};

/// Bumped when the way the tree is made changes, and not its recipe.
const REVISION: &str = "1";

/// Run in the tree, as root.
const RECIPE: &str = include_str!("recipe.sh");
/// Where its packages come from.
const SOURCES: &str = include_str!("debian.sources");

/// What runtime-tools imports and Debian lacks.
const TAP: &str = include_str!("tap.go");

/// In the tree, while it is made: the root of the Debian container that runc's tests want.
const DEBIAN: &str = "suites/debian";

pub(crate) fn path() -> PathBuf {
    let base = Tree::Forky.path();
    let base = base.file_name().unwrap_or_default().to_string_lossy();
    let hash = cache::hash([REVISION, &base, RECIPE, SOURCES, TAP]);
    cache::directory().join("trees").join(format!("suites-{hash}"))
}

/// The tree's root directory, made first when it is missing: some minutes and 3 GB.
///
/// # Errors
/// When a package or a source cannot be had, or a suite does not build; nothing is left behind then.
pub(crate) fn ensure(progress: &dyn Fn(&str)) -> Result<PathBuf> {
    let base = Tree::Forky.ensure(progress)?;
    let path = path();
    cache::ensure(&path, |partial| {
        progress(&format!("making the tree of the suites in {} (some minutes, once)", path.display()));
        complete("cp -a", Command::new("cp").arg("-a").arg(&base).arg(partial))?;
        // The base may have been made in another network.
        let names = partial.join("etc/resolv.conf");
        fs::copy("/etc/resolv.conf", &names).map_err(Error::path("copy to", &names))?;
        write(&partial.join("etc/apt/sources.list"), "")?;
        write(&partial.join("etc/apt/sources.list.d/suites.sources"), SOURCES)?;
        debootstrap(Tree::Forky.suite(), &[], &partial.join(DEBIAN))?;
        write(&partial.join("suites/tap.go"), TAP)?;
        run_recipe(partial)
    })?;
    Ok(path)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::path("write", path))
}

/// In namespaces of its own: its mounts, and whatever a build leaves running, go with it.
fn run_recipe(tree: &Path) -> Result<()> {
    let enter = "mount -t proc proc \"$0/proc\"; mount --bind /dev \"$0/dev\"; exec chroot \"$0\" sh -euc \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--"]);
    command.args(["sh", "-euc", enter]).arg(tree).arg(RECIPE);
    complete("the recipe of the suites' tree", &mut command)
}
