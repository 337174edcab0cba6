//! Whether the images have room. An older checkpoint in the directory stays until the new one is complete, and its place is
//! not free before.

use std::path::Path;

use rustix::fs::{statfs, statvfs};

use super::processes::Process;
use super::report::{Finding, Kind, Report, Severity};
use crate::container::checkpoint::images;
use crate::container::checkpoint::options::CheckpointOptions;

/// Filesystems on which a byte takes a byte (linux/magic.h): ext4, XFS and tmpfs. Others may compress.
const PLAIN: [i64; 3] = [0xef53, 0x5846_5342, 0x0102_1994];

/// Files of a process in the images: core, mm, pagemap, ids and fs, at the least.
const FILES: u64 = 5;

/// `compressed`: nobody knows how small it becomes.
pub(super) fn check(options: &CheckpointOptions, compressed: bool, processes: &[Process], report: &mut Report) {
    if let Err(err) = images::check(options) {
        let what = format!("the image directory {}", options.image_dir.display());
        report.refuse(Kind::Images, None, what, &crate::error::chain(&err), "choose another image directory");
    }
    // The directory itself may be still to be made.
    let Some(there) = options.image_dir.ancestors().find(|path| path.exists()) else { return };
    let Ok(filesystem) = statvfs(there) else { return };
    let free = filesystem.f_bfree.saturating_mul(filesystem.f_frsize);
    // Elsewhere, or in part in an earlier checkpoint.
    let elsewhere = options.page_server.is_some() || options.lazy_pages || options.parent.is_some();
    let needed: u64 = processes.iter().map(|process| process.anonymous).sum();
    if !elsewhere && needed > free {
        let plain = statfs(there).is_ok_and(|filesystem| PLAIN.contains(&filesystem.f_type));
        let severity = if plain && !compressed { Severity::Refuse } else { Severity::Warn };
        let why = format!("it has {free} bytes free, and the memory of the processes is {needed} bytes");
        add(&options.image_dir, severity, why, report);
    }
    let threads: u64 = processes.iter().map(|process| process.threads).sum();
    let files = threads.saturating_add(processes.len() as u64 * FILES);
    // Some filesystems count none.
    if filesystem.f_files > 0 && filesystem.f_ffree < files {
        let inodes = filesystem.f_ffree;
        let why = format!("it has {inodes} inodes free, and the images are {files} files at the least");
        add(&options.image_dir, Severity::Refuse, why, report);
    }
}

fn add(dir: &Path, severity: Severity, why: String, report: &mut Report) {
    let what = format!("the image directory {}", dir.display());
    let remedy = "free space in the image directory, or choose another".to_owned();
    report.add(Finding { kind: Kind::Space, severity, pid: None, what, why, remedy });
}
