//! What `criu lazy-pages` and a page server of CRIU's say to each other (`page_server_iov` in CRIU's `page-xfer.c`), for who
//! serves pages in the place of CRIU's own server.
//!
//! ```text
//!                     0     4      8        16        24        32      in the machine's byte order
//!                     ┌─────┬──────┬────────┬─────────┐
//!   until CRIU 4.1    │ cmd │ pages│ address│ process │                 process: its pid in the images
//!                     ├─────┼──────┼────────┼─────────┼─────────┐
//!   since CRIU 4.2    │ cmd │ -    │ pages  │ address │ process │
//!                     └─────┴──────┴────────┴─────────┴─────────┘
//!   GET  ───────────────────>
//!        <─────────────────── ADD_F, present; the pages
//!   CLOSE ──────────────────>
//!        <─────────────────── an int, 0
//! ```
//! Nothing says which of the two it is, but no process has memory below 64 KiB, and nobody asks for so many pages at once.

use std::fmt;

const GET: u32 = 7;
const ADD_F: u32 = 6;
const CLOSE: [u32; 2] = [0x1023, 0x1024];
/// In the upper half of a command: the pages follow.
const PRESENT: u32 = 4 << 16;

/// No address is below, and no number of pages above.
const LOWEST: u64 = 64 << 10;

/// The form of the numbers, which a connection keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Short,
    Long,
}

/// What CRIU asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageRequest {
    Get(PageRange),
    /// It needs no more; to be answered with [`CLOSED`].
    Close,
}

/// Pages of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRange {
    /// Its pid in the images.
    pub process: u64,
    pub address: u64,
    pub pages: u64,
}

/// The answer to [`PageRequest::Close`].
pub const CLOSED: [u8; 4] = [0; 4];

/// It is no request, or not one of a client that only reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("criu lazy-pages asks for what no page server of its knows: command {command:#x}, {range:?}")]
pub struct UnknownRequest {
    command: u32,
    range: PageRange,
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages at {:#x} of process {}", self.pages, self.address, self.process)
    }
}

impl Layout {
    /// Of a connection whose first request begins so.
    pub fn of_first(begin: &[u8; Self::SHORT]) -> Self {
        if number(begin, 8) < LOWEST && u32_at(begin, 0) == GET { Self::Long } else { Self::Short }
    }

    /// Bytes of every request that has the form; the shortest one.
    pub const SHORT: usize = 24;
    pub const LONG: usize = 32;

    pub fn length(self) -> usize {
        match self {
            Self::Short => Self::SHORT,
            Self::Long => Self::LONG,
        }
    }

    /// `request` has [`Layout::length`] bytes.
    ///
    /// # Errors
    /// [`UnknownRequest`].
    pub fn decode(self, request: &[u8]) -> Result<PageRequest, UnknownRequest> {
        let command = u32_at(request, 0);
        let range = match self {
            Self::Short => PageRange {
                pages: u32_at(request, 4).into(),
                address: number(request, 8),
                process: number(request, 16),
            },
            Self::Long => {
                PageRange { pages: number(request, 8), address: number(request, 16), process: number(request, 24) }
            }
        };
        match command {
            GET if range.pages > 0 && range.pages < LOWEST && range.address >= LOWEST => Ok(PageRequest::Get(range)),
            command if CLOSE.contains(&command) => Ok(PageRequest::Close),
            command => Err(UnknownRequest { command, range }),
        }
    }

    /// What comes before the pages.
    pub fn answer(self, range: PageRange) -> Vec<u8> {
        let PageRange { process, address, pages } = range;
        let command = (ADD_F | PRESENT).to_ne_bytes();
        let mut bytes = Vec::with_capacity(self.length());
        bytes.extend(command);
        match self {
            // It was asked for so many.
            Self::Short => bytes.extend(u32::try_from(pages).unwrap_or(u32::MAX).to_ne_bytes()),
            Self::Long => {
                bytes.extend([0; 4]);
                bytes.extend(pages.to_ne_bytes());
            }
        }
        bytes.extend(address.to_ne_bytes());
        bytes.extend(process.to_ne_bytes());
        bytes
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>);
    field.copied().map_or(0, u64::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    field.copied().map_or(0, u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: PageRange = PageRange { process: 7, address: 0x7f00_0000_1000, pages: 1024 };

    fn request(layout: Layout, command: u32) -> Vec<u8> {
        let mut bytes = layout.answer(RANGE);
        bytes[..4].copy_from_slice(&command.to_ne_bytes());
        bytes
    }

    #[test]
    fn both_forms_are_told_apart_and_understood() {
        for layout in [Layout::Short, Layout::Long] {
            let bytes = request(layout, GET);
            assert_eq!(bytes.len(), layout.length());
            assert_eq!(Layout::of_first(bytes.first_chunk().unwrap()), layout);
            assert_eq!(layout.decode(&bytes), Ok(PageRequest::Get(RANGE)));
            assert_eq!(layout.decode(&request(layout, 0x1024)), Ok(PageRequest::Close));
        }
    }

    #[test]
    fn what_only_a_dump_says_is_refused() {
        for layout in [Layout::Short, Layout::Long] {
            let refused = layout.decode(&request(layout, 4)).unwrap_err().to_string();
            assert!(refused.contains("1024 pages at 0x7f0000001000 of process 7"), "{refused}");
        }
        assert!(Layout::Short.decode(&[]).is_err());
    }
}
