//! The differences as a tree: what is new is green, what is gone red.

use runtime_core::container::{Change, Comparison, MemoryChange, OptionChange, OwnedFile, ProcessName, Sets};
use runtime_core::images::Mount;
use serde_json::Value;
use termtree::Tree;

use crate::inspect::files;
use crate::inspect::number::{bytes, change};
use crate::inspect::style::{Style, escape};

pub(super) fn draw(comparison: &Comparison, style: Style) -> String {
    let path = |path: &std::path::Path| escape(&path.to_string_lossy());
    let (before, after) = (path(&comparison.before), path(&comparison.after));
    let mut tree = Tree::new(format!("{} {before} -> {after}", style.title("checkpoints")));
    let mut size = Tree::new(format!("{} {}", style.title("size"), amount(comparison.bytes)));
    let sizes = comparison.sizes.iter();
    size.leaves.extend(sizes.map(|size| Tree::new(format!("{} {}", escape(&size.kind), amount(size.bytes)))));
    tree.push(size);
    let sections = [
        ("processes", sets(&comparison.processes, style, process)),
        ("memory", comparison.memory.iter().map(|change| Tree::new(memory(change))).collect()),
        ("files", sets(&comparison.files, style, file)),
        ("mounts", sets(&comparison.mounts, style, mount)),
        ("options", comparison.options.iter().map(|change| Tree::new(option(change))).collect()),
    ];
    for (name, leaves) in sections {
        let title = style.title(name);
        let title = if leaves.is_empty() { format!("{title} the same") } else { title };
        tree.push(Tree::new(title).with_leaves(leaves));
    }
    tree.to_string()
}

fn sets<T>(sets: &Sets<T>, style: Style, line: fn(&T) -> String) -> Vec<Tree<String>> {
    let gone = sets.gone.iter().map(|one| style.bad(&format!("- {}", line(one))));
    let new = sets.new.iter().map(|one| style.good(&format!("+ {}", line(one))));
    gone.chain(new).map(Tree::new).collect()
}

fn process(process: &ProcessName) -> String {
    let name = process.name.as_deref().map(escape).unwrap_or_default();
    format!("{} {name}", process.pid).trim_end().to_owned()
}

fn memory(change: &MemoryChange) -> String {
    format!("{}: {} {}", process(&change.process), change.kind, amount(change.bytes))
}

/// Without colours of its own: the whole line has one.
fn file(owned: &OwnedFile) -> String {
    format!("{}: {}", process(&owned.process), files::line(&owned.open, Style::none()))
}

fn mount(mount: &Mount) -> String {
    let external = if mount.external.is_some() { " (external)" } else { "" };
    format!("{} {}{external}", escape(&mount.path), escape(&mount.filesystem))
}

fn option(change: &OptionChange) -> String {
    let text = |value: &Option<Value>| {
        value.as_ref().map_or_else(|| "not given".to_owned(), |value| escape(&value.to_string()))
    };
    format!("{} {} -> {}", escape(&change.name), text(&change.before), text(&change.after))
}

fn amount(of: Change) -> String {
    if of.before == of.after {
        return format!("{}, the same", bytes(of.after));
    }
    format!("{} -> {} ({})", bytes(of.before), bytes(of.after), change(of.before, of.after))
}

#[cfg(test)]
mod tests {
    use runtime_core::images::{File, OpenFile};

    use super::*;

    #[test]
    fn what_changed_is_told_and_what_did_not_as_well() {
        let sh = || ProcessName { pid: 1, name: Some("sh\x1b".into()) };
        let comparison = Comparison {
            before: "a".into(),
            after: "b".into(),
            bytes: Change { before: 1024, after: 3072 },
            sizes: Vec::new(),
            processes: Sets { gone: vec![ProcessName { pid: 7, name: None }], new: Vec::new() },
            memory: vec![MemoryChange { process: sh(), kind: "anonymous", bytes: Change { before: 0, after: 5 } }],
            files: Sets {
                gone: Vec::new(),
                new: vec![OwnedFile { process: sh(), open: OpenFile { fd: 4, file: File::Epoll } }],
            },
            mounts: Sets { gone: Vec::new(), new: Vec::new() },
            options: vec![OptionChange {
                name: "fileLocks".into(),
                before: Some(false.into()),
                after: Some(true.into()),
            }],
        };
        let text = draw(&comparison, Style::none());
        for line in [
            "checkpoints a -> b",
            "size 1.0 KiB -> 3.0 KiB (+2.0 KiB)",
            "- 7",
            "1 sh\\u{1b}: anonymous 0 B -> 5 B (+5 B)",
            "+ 1 sh\\u{1b}: 4 epoll",
            "mounts the same",
            "fileLocks false -> true",
        ] {
            assert!(text.lines().any(|found| found.ends_with(line)), "{line} in\n{text}");
        }
    }
}
