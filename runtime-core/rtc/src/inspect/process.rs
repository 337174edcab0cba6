//! The processes as a tree: a child is below its parent.

use std::collections::HashMap;

use runtime_core::images::{Amount, Kind, Memory, Process, ProcessState};
use termtree::Tree;

use super::files;
use super::number::{bytes, count};
use super::style::{Style, escape};

/// A longer line of descendants goes on beside the last of these.
const DEEPEST: usize = 32;

pub(super) fn draw(processes: &[Process], kind: Kind, style: Style) -> Tree<String> {
    let number = u64::try_from(processes.len()).unwrap_or(u64::MAX);
    let threads: usize = processes.iter().map(|process| process.threads.len()).sum();
    let mut title = format!("{} {number}", style.title("processes"));
    if threads > processes.len() {
        title = format!("{title} with {threads} threads");
    }
    let mut trees: Vec<Option<Tree<String>>> =
        processes.iter().map(|process| Some(one(process, kind, style))).collect();
    let parents = parents(processes);
    let mut all = Tree::new(title);
    // A child comes after its parent, so from the end each has all of its own children when it is put to its parent.
    let mut below: HashMap<usize, Vec<Tree<String>>> = HashMap::new();
    for index in (0..processes.len()).rev() {
        let Some(mut tree) = trees[index].take() else { continue };
        tree.leaves.extend(below.remove(&index).unwrap_or_default().into_iter().rev());
        match parents[index] {
            Some(parent) => below.entry(parent).or_default().push(tree),
            None => all.leaves.push(tree),
        }
    }
    all.leaves.reverse();
    all
}

/// Under which process each is shown: one that comes before it, whatever the images say, and not too deep.
fn parents(processes: &[Process]) -> Vec<Option<usize>> {
    let mut seen = HashMap::new();
    let mut parents: Vec<Option<usize>> = Vec::new();
    let mut depths: Vec<usize> = Vec::new();
    for (index, process) in processes.iter().enumerate() {
        let mut parent: Option<usize> = seen.get(&process.parent).copied();
        if let Some(deep) = parent.filter(|parent| depths[*parent] >= DEEPEST) {
            parent = parents[deep];
        }
        depths.push(parent.map_or(0, |parent| depths[parent] + 1));
        parents.push(parent);
        seen.insert(process.pid, index);
    }
    parents
}

fn one(process: &Process, kind: Kind, style: Style) -> Tree<String> {
    let mut tree = Tree::new(title(process, style));
    if kind == Kind::Checkpoint {
        tree.push(format!("session {}, group {}", process.session, process.group));
    }
    if let Some(arguments) = &process.arguments {
        let words: Vec<_> = arguments.iter().map(|argument| escape(argument)).collect();
        tree.push(format!("arguments {}", words.join(" ")));
    }
    if process.threads.len() > 1 {
        let name = |name: &Option<String>| name.as_deref().map(escape).unwrap_or_default();
        let threads = process.threads.iter().map(|thread| format!("{} {}", thread.tid, name(&thread.name)));
        tree.push(format!("threads {}", threads.collect::<Vec<_>>().join(", ")));
    }
    if process.state != ProcessState::Zombie {
        tree.push(memory("memory", &process.memory, style));
    }
    if !process.files.is_empty() {
        let number = u64::try_from(process.files.len()).unwrap_or(u64::MAX);
        let files = process.files.iter().map(|open| Tree::new(files::line(open, style)));
        tree.push(Tree::new(count(number, "descriptor")).with_leaves(files));
    }
    tree
}

fn title(process: &Process, style: Style) -> String {
    let name = process.name.as_deref().map(escape).unwrap_or_default();
    let mut title = process.pid.to_string();
    if !name.is_empty() {
        title = format!("{title} {}", style.name(&name));
    }
    if let Some(executable) = &process.executable {
        title = format!("{title} {}", escape(executable));
    }
    let state = match process.state {
        ProcessState::Alive | ProcessState::Unknown => None,
        ProcessState::Stopped => Some("stopped".to_owned()),
        ProcessState::Zombie => Some("zombie".to_owned()),
    };
    let user = process.uid.map(|uid| format!("user {uid}:{}", process.gid.unwrap_or_default()));
    let seccomp = process.seccomp.then(|| "seccomp".to_owned());
    let notes: Vec<_> = [state, user, seccomp].into_iter().flatten().collect();
    if notes.is_empty() { title } else { format!("{title} ({})", notes.join(", ")) }
}

/// One line for each kind that there is any of.
pub(super) fn memory(title: &str, memory: &Memory, style: Style) -> Tree<String> {
    let kinds = [
        ("anonymous", &memory.anonymous),
        ("files", &memory.file),
        ("shared", &memory.shared),
        ("other", &memory.other),
    ];
    let any = kinds.into_iter().filter(|(_, amount)| **amount != Amount::default());
    let lines = any.map(|(kind, amount)| Tree::new(format!("{kind} {}", describe(amount))));
    Tree::new(format!("{} {}", style.title(title), describe(&memory.total()))).with_leaves(lines)
}

pub(super) fn describe(amount: &Amount) -> String {
    let mut parts = Vec::new();
    if amount.mapped > 0 {
        parts.push(format!("{} mapped", bytes(amount.mapped)));
    }
    parts.push(format!("{} in the images", bytes(amount.stored)));
    let elsewhere = [(amount.in_parent, "in the parent's"), (amount.lazy, "to be fetched")];
    parts.extend(
        elsewhere.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{} {what}", bytes(*number))),
    );
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32) -> Process {
        Process {
            pid,
            parent,
            group: 1,
            session: 1,
            name: Some(format!("p{pid}")),
            state: ProcessState::Alive,
            uid: Some(0),
            gid: Some(0),
            seccomp: false,
            executable: None,
            arguments: None,
            threads: Vec::new(),
            memory: Memory::default(),
            files: Vec::new(),
        }
    }

    #[test]
    fn children_are_below_their_parents() {
        let tree = draw(&[process(1, 0), process(2, 1), process(3, 2), process(4, 1)], Kind::Checkpoint, Style::none());
        let names = |tree: &Tree<String>| -> Vec<String> {
            let processes = tree.leaves.iter().filter(|leaf| leaf.root.contains(" p"));
            processes.map(|leaf| leaf.root.split(' ').next().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&tree), ["1"]);
        assert_eq!(names(&tree.leaves[0]), ["2", "4"]);
    }

    /// Neither a circle nor a line without end takes the stack.
    #[test]
    fn hostile_parents_are_harmless() {
        let mut line: Vec<_> = (1..100_000).map(|pid| process(pid, pid - 1)).collect();
        line.push(process(1, 1));
        line.push(process(7, 8));
        let text = draw(&line, Kind::Checkpoint, Style::none()).to_string();
        assert!(text.contains("99999 p99999"));
    }
}
