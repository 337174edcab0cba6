//! A checkpoint as a tree that a person likes to read.

use runtime_core::container::{Inspection, Maker, Record, RestoreTimings, SealRecord, Timings};
use runtime_core::images::{Contents, Kind, Mount, Problem};
use serde_json::Value;
use termtree::Tree;

use super::number::{bytes, count, time};
use super::process;
use super::style::{Style, escape};

pub(super) fn draw(inspection: &Inspection, style: Style) -> String {
    let contents = &inspection.contents;
    let mut tree = Tree::new(title(inspection, style));
    if !contents.problems.is_empty() {
        tree.push(problems(&contents.problems, style));
    }
    if let Some(record) = &inspection.record {
        tree.push(about(record, style));
    }
    let sealed = inspection.record.as_ref().and_then(|record| record.sealed.as_ref());
    if let Some(sealed) = sealed {
        tree.push(seal(sealed, style));
    }
    let opened = sealed.is_none_or(|sealed| sealed.opened);
    if opened {
        tree.push(process::draw(&contents.processes, contents.kind, style));
    }
    if contents.processes.len() > 1 {
        tree.push(process::memory("memory of all", &contents.memory(), style));
    }
    if !contents.mounts.is_empty() {
        tree.push(mounts(&contents.mounts, style));
    }
    if contents.kind == Kind::Checkpoint && opened {
        tree.push(namespaces(contents, inspection.record.as_ref(), style));
    }
    if let Some(record) = &inspection.record {
        tree.push(options(record, style));
    }
    if let Some(timings) = &inspection.timings {
        tree.push(dump_times(timings, style));
    }
    if let Some(restore) = &inspection.restore {
        tree.push(restore_times(restore, style));
    }
    tree.push(sizes(contents, inspection.record.as_ref(), style));
    if !contents.parents.is_empty() {
        let parents = contents.parents.iter().map(|path| Tree::new(escape(&path.to_string_lossy())));
        tree.push(Tree::new(style.title("parents")).with_leaves(parents));
    }
    tree.to_string()
}

fn title(inspection: &Inspection, style: Style) -> String {
    let kind = match inspection.contents.kind {
        Kind::Checkpoint => "checkpoint",
        Kind::PreDump => "pre-dump",
    };
    let of = inspection.record.as_ref().map(|record| format!(" of {}", style.name(&escape(&record.id))));
    let maker = match inspection.maker {
        Maker::Rtc => "rtc",
        Maker::Runc => "runc",
        Maker::Criu => "CRIU",
    };
    let criu = inspection.criu.as_deref().map(|version| match inspection.maker {
        Maker::Criu => format!(" {}", escape(version)),
        _ => format!(" with CRIU {}", escape(version)),
    });
    let directory = escape(&inspection.directory.to_string_lossy());
    let (of, criu) = (of.unwrap_or_default(), criu.unwrap_or_default());
    format!("{}{of} in {directory}, by {maker}{criu}", style.title(kind))
}

fn problems(problems: &[Problem], style: Style) -> Tree<String> {
    let line = |problem: &Problem| {
        let file = problem.file.as_deref().map(escape);
        let at = problem.offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
        let reason = escape(&problem.reason);
        style.bad(&file.map_or_else(|| reason.clone(), |file| format!("{file}{at}: {reason}")))
    };
    Tree::new(style.bad("problems")).with_leaves(problems.iter().map(|problem| Tree::new(line(problem))))
}

fn about(record: &Record, style: Style) -> Tree<String> {
    let mut tree = Tree::new(format!("{} {}", style.title("made"), escape(&record.created)));
    tree.push(format!("on Linux {} ({})", escape(&record.kernel), escape(&record.architecture)));
    tree.push(
        match record.left_running {
            true => "the container was left running",
            false => "the container was ended",
        }
        .to_owned(),
    );
    let streams: Vec<_> = record.descriptors.iter().map(|stream| escape(stream)).collect();
    let terminal = if record.terminal { " (a terminal)" } else { "" };
    tree.push(format!("standard streams {}{terminal}", streams.join(", ")));
    tree.push(format!("spec {}", escape(&record.spec_digest)));
    tree
}

/// How the images are kept.
fn seal(sealed: &SealRecord, style: Style) -> Tree<String> {
    let level = sealed.level.map(|level| format!(" (level {level})")).unwrap_or_default();
    let compression = sealed.compression.as_deref().map(|name| format!("compressed by {}{level}", escape(name)));
    let encryption = sealed.encryption.as_deref().map(|name| format!("encrypted by {}", escape(name)));
    let how: Vec<_> = compression.into_iter().chain(encryption).collect();
    let mut tree = Tree::new(format!("{} {}", style.title("images"), how.join(", ")));
    tree.push(format!("{} on the disk", bytes(sealed.bytes)));
    if !sealed.opened {
        tree.push("not opened, so that processes, memory, files and mounts are not shown (--decrypt-key)".to_owned());
    }
    tree
}

fn mounts(mounts: &[Mount], style: Style) -> Tree<String> {
    let line = |mount: &Mount| {
        let external = match &mount.external {
            Some(key) if *key == mount.path => " (external)".to_owned(),
            Some(key) => format!(" (external: {})", escape(key)),
            None => String::new(),
        };
        format!("{} {}{external}", style.name(&escape(&mount.path)), escape(&mount.filesystem))
    };
    let number = u64::try_from(mounts.len()).unwrap_or(u64::MAX);
    let external = mounts.iter().filter(|mount| mount.external.is_some()).count();
    let title = format!("{} {number}, {external} of them external", style.title("mounts"));
    Tree::new(title).with_leaves(mounts.iter().map(|mount| Tree::new(line(mount))))
}

fn namespaces(contents: &Contents, record: Option<&Record>, style: Style) -> Tree<String> {
    let mut own: Vec<String> = contents.namespaces.iter().map(|kind| (*kind).to_owned()).collect();
    if let Some(hostname) = &contents.hostname {
        own.push(format!("hostname {}", escape(hostname)));
    }
    let mut tree = Tree::new(format!("{} {}", style.title("namespaces"), own.join(", ")));
    let external = record.map(|record| record.external_namespaces.as_slice()).unwrap_or_default();
    tree.leaves.extend(external.iter().map(|kind| Tree::new(format!("{} (external)", escape(kind)))));
    tree
}

/// Those that were given.
fn options(record: &Record, style: Style) -> Tree<String> {
    let given = record.options.iter().filter_map(|(name, value)| {
        let text = match value {
            Value::Null | Value::Bool(false) => return None,
            Value::Bool(true) => escape(name),
            Value::String(text) => format!("{} {}", escape(name), escape(text)),
            value => format!("{} {}", escape(name), escape(&value.to_string())),
        };
        Some(text)
    });
    let given: Vec<_> = given.collect();
    let text = if given.is_empty() { "none".to_owned() } else { given.join(", ") };
    Tree::new(format!("{} {text}", style.title("options")))
}

fn dump_times(timings: &Timings, style: Style) -> Tree<String> {
    let frozen = format!("{} {}, frozen for {}", style.title("dump"), time(timings.total), time(timings.frozen));
    let parts = [
        format!("freezing {}", time(timings.freezing)),
        format!("memory {}, writing it {}", time(timings.memory_dump), time(timings.memory_write)),
        format!("{} written, {} in the parent's", count(timings.pages_written, "page"), timings.pages_in_parent),
    ];
    Tree::new(frozen).with_leaves(parts.map(Tree::new))
}

fn restore_times(timings: &RestoreTimings, style: Style) -> Tree<String> {
    let pages = count(timings.pages_restored, "page");
    let text =
        format!("{} {}, forking {}, {pages}", style.title("last restore"), time(timings.total), time(timings.forking));
    Tree::new(text)
}

fn sizes(contents: &Contents, record: Option<&Record>, style: Style) -> Tree<String> {
    let files = contents.sizes.iter().map(|size| size.files).sum();
    let mut title = format!("{} {} in {}", style.title("size"), bytes(contents.bytes), count(files, "file"));
    if let Some(checksums) = record.and_then(|record| record.checksums) {
        title = format!("{title}, {} with a checksum", checksums.with_checksum);
    }
    let line = |(kind, number, files): (&str, u64, u64)| match files {
        1 => Tree::new(format!("{} {}", escape(kind), bytes(number))),
        _ => Tree::new(format!("{} {} in {}", escape(kind), bytes(number), count(files, "file"))),
    };
    let (large, small): (Vec<_>, Vec<_>) = contents.sizes.iter().partition(|size| size.bytes >= contents.bytes / 100);
    let mut leaves: Vec<_> = large.iter().map(|size| line((&size.kind, size.bytes, size.files))).collect();
    if !small.is_empty() {
        let files = small.iter().map(|size| size.files).sum();
        leaves.push(line(("others", small.iter().map(|size| size.bytes).sum(), files)));
    }
    Tree::new(title).with_leaves(leaves)
}
