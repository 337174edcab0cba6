//! The checkpoint of a pod: what its members share, and each of them.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use runtime_core::container::{Inspection, PodManifest, PodMember, Verify};
use runtime_core::time::Rfc3339;
use serde::Serialize;
use termtree::Tree;

use super::number::{bytes, time};
use super::style::{Style, escape};
use super::{Format, tree};
use crate::error::Error;
use crate::output;

/// Its JSON is an interface: fields are added to it, and none is renamed.
#[derive(Serialize)]
struct Pod<'a> {
    directory: &'a Path,
    pod: &'a PodManifest,
    /// In their order.
    members: &'a [Inspection],
}

/// The whole as text, and how many problems it has.
pub(super) fn show(
    directory: &Path,
    manifest: &PodManifest,
    (verify, key): (Verify, Option<&Path>),
    format: Format,
) -> Result<(String, usize), Error> {
    let read = |member: &PodMember| Inspection::read(&directory.join(&member.id), verify, key).map_err(Error::Images);
    let members = manifest.members.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let problems = members.iter().map(|member| member.contents.problems.len()).sum();
    let text = match format {
        Format::Text => draw(directory, manifest, &members, Style::of_stdout()),
        Format::Json => {
            let pod = Pod { directory, pod: manifest, members: &members };
            super::style::escape_json(&output::json_pretty("the checkpoint", &pod, "  ")?) + "\n"
        }
    };
    Ok((text, problems))
}

fn draw(directory: &Path, manifest: &PodManifest, members: &[Inspection], style: Style) -> String {
    let sandbox = manifest.sandbox.as_deref().map(|id| format!(" {}", style.name(&escape(id)))).unwrap_or_default();
    let directory = escape(&directory.to_string_lossy());
    let title = format!("{}{sandbox} in {directory}, {} containers", style.title("checkpoint of pod"), members.len());
    let mut whole = Tree::new(title);
    let created = format!("{:.0}", Rfc3339(UNIX_EPOCH + Duration::from_nanos(manifest.created)));
    let after = if manifest.left_running { "left running" } else { "ended" };
    whole.push(format!("{} {created}, and the containers were {after}", style.title("made")));
    if let Some(total) = manifest.total {
        whole.push(format!("{} {}", style.title("dump"), time(total)));
    }
    for memory in &manifest.shared_memory {
        let of: Vec<_> = memory.members.iter().map(|member| escape(member)).collect();
        whole.push(format!("{} {} of {}", style.title("shared /dev/shm"), bytes(memory.bytes), of.join(", ")));
    }
    let shares = manifest.members.iter().filter(|member| !member.joined.is_empty()).map(|member| {
        let joined: Vec<_> =
            member.joined.iter().map(|joined| format!("{} of {}", escape(&joined.kind), escape(&joined.of))).collect();
        Tree::new(format!("{} {}", style.name(&escape(&member.id)), joined.join(", ")))
    });
    whole.push(Tree::new(style.title("joined namespaces")).with_leaves(shares));
    let mut text = whole.to_string();
    for member in members {
        text.push('\n');
        text.push_str(&tree::draw(member, style));
    }
    text
}

#[cfg(test)]
mod tests {
    use runtime_core::container::{Joined, SharedMemory};

    use super::*;

    #[test]
    fn what_the_members_share_is_told() {
        let joined = vec![Joined { kind: "ipc".into(), of: "pause".into() }];
        let member = |id: &str, joined| PodMember { id: id.into(), joined, bytes: None, frozen: None };
        let manifest = PodManifest {
            version: 1,
            created: 0,
            sandbox: Some("pause".into()),
            left_running: false,
            members: vec![member("pause", Vec::new()), member("we\u{1b}b", joined)],
            shared_memory: vec![SharedMemory { directory: "shm".into(), members: vec!["pause".into()], bytes: 2048 }],
            total: Some(7000),
        };
        let text = draw(Path::new("/cp"), &manifest, &[], Style::none());
        assert!(text.starts_with("checkpoint of pod pause in /cp, 0 containers\n"), "{text}");
        for part in ["made 1970-01-01T00:00:00Z, and the containers were ended", "dump 7.0 ms", "ipc of pause"] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(text.contains("shared /dev/shm 2.0 KiB of pause") && !text.contains('\u{1b}'), "{text}");
    }
}
