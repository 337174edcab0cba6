//! Memory that follows the container: read from the processes that stand still here, as the destination wants it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use proto::stream::message::Kind as Message;
use proto::stream::{Pages, PagesWanted};
use tokio::task::block_in_place;

use crate::error::{Error, Result};
use crate::frame::CHUNK;
use crate::link::Link;

/// In CRIU's pagemaps.
const PAGE: u64 = 4096;

/// The processes of a dumped container, by their pids in the images.
#[derive(Debug)]
pub(super) struct Memory {
    processes: HashMap<u64, File>,
    /// That were sent.
    pub(super) bytes: u64,
}

impl Memory {
    /// `init` is one of `pids`.
    ///
    /// # Errors
    /// A process is gone.
    pub(super) fn open(init: u32, pids: &[u32]) -> Result<Self> {
        let level = namespace_pids(init)?.len();
        let mut processes = HashMap::new();
        for &pid in pids {
            let path = format!("/proc/{pid}/mem");
            let memory = File::open(&path).map_err(Error::file("open", path))?;
            // In the pid namespace of the init, which is what the images have.
            if let Some(&inside) = namespace_pids(pid)?.get(level.saturating_sub(1)) {
                processes.insert(inside, memory);
            }
        }
        Ok(Self { processes, bytes: 0 })
    }

    /// # Errors
    /// The connection's; there is no such process or memory, or no more.
    pub(super) async fn send(&mut self, link: &mut Link, wanted: PagesWanted) -> Result<()> {
        let PagesWanted { process, address, pages } = wanted;
        let unknown = || Error::Unexpected { expected: "a process of the container", found: process.to_string() };
        let memory = self.processes.get(&process).ok_or_else(unknown)?;
        link.send(Message::Pages(Pages { process, address, pages })).await?;
        let mut buffer = vec![0; CHUNK];
        let (mut sent, all) = (0, u64::from(pages) * PAGE);
        while sent < all {
            let length = usize::try_from(all - sent).map_or(CHUNK, |left| left.min(CHUNK));
            let chunk = buffer.get_mut(..length).unwrap_or_default();
            let read = block_in_place(|| memory.read_exact_at(chunk, address.saturating_add(sent)));
            read.map_err(Error::file("read", format!("the memory of process {process} at {address:#x}")))?;
            link.data_meanwhile(sent, chunk).await?;
            sent += u64::try_from(length).unwrap_or_default();
        }
        self.bytes += all;
        Ok(())
    }
}

/// A process's pids, the outermost first (`NSpid` in proc_pid_status(5)).
fn namespace_pids(pid: u32) -> Result<Vec<u64>> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(Error::file("read", path))?;
    Ok(parse_namespace_pids(&status))
}

fn parse_namespace_pids(status: &str) -> Vec<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_pid_in_each_namespace() {
        assert_eq!(parse_namespace_pids("Name:\tx\nNSpid:\t4711\t12\t1\nNSpgid:\t1\n"), [4711, 12, 1]);
        assert!(parse_namespace_pids("Name:\tx\n").is_empty());
        let own = std::process::id();
        assert_eq!(namespace_pids(own).unwrap().last(), Some(&u64::from(own)));
        assert!(Memory::open(own, &[own]).unwrap().processes.contains_key(&u64::from(own)));
    }
}
