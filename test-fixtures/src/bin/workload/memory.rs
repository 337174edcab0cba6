//! Memory of a known size and contents, dirtied at a known rate.

use std::fs;
use std::time::{Duration, Instant};

use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;

use crate::args::Args;
use crate::stream::Random;
use crate::{Outcome, say};

const PAGE: usize = 4096;
const PAGES_PER_MIB: u64 = 256;

/// Pages of pseudo-random words, which no page is like another and none compresses; each has its generation first.
struct Pages {
    words: Vec<u64>,
    generations: Vec<u32>,
}

impl Pages {
    const WORDS: usize = PAGE / 8;

    fn new(pages: usize) -> Self {
        let mut this = Self { words: vec![0; pages * Self::WORDS], generations: vec![0; pages] };
        for page in 0..pages {
            this.write(page);
        }
        this
    }

    fn write(&mut self, page: usize) {
        let mut random = Self::random(page, self.generations[page]);
        let words = &mut self.words[page * Self::WORDS..][..Self::WORDS];
        words.fill_with(|| random.next());
    }

    fn dirty(&mut self, page: usize) {
        self.generations[page] = self.generations[page].wrapping_add(1);
        self.write(page);
    }

    fn first_damaged(&self) -> Option<usize> {
        (0..self.generations.len()).find(|&page| {
            let mut random = Self::random(page, self.generations[page]);
            self.words[page * Self::WORDS..][..Self::WORDS].iter().any(|&word| word != random.next())
        })
    }

    fn random(page: usize, generation: u32) -> Random {
        Random::new((page as u64) << 32 | u64::from(generation))
    }
}

pub(crate) fn memory(args: &Args) -> Outcome {
    let mib: u64 = args.number("mib")?;
    let rate: u64 = args.number_or("dirty-mib-per-s", 0)?;
    let mut signals = Signals::new([SIGUSR1])?;
    let count = usize::try_from(mib * PAGES_PER_MIB)?;
    let mut pages = Pages::new(count);
    if let Some(path) = args.get("ready") {
        fs::write(path, "ready\n")?;
    }
    say("ready\n")?;

    let tick = Duration::from_millis(10);
    let mut next = 0;
    let mut dirtied = 0;
    let started = Instant::now();
    loop {
        let due = u64::try_from(started.elapsed().as_millis())? * rate * PAGES_PER_MIB / 1000;
        // A clock that jumped (a restore) makes no burst.
        dirtied = dirtied.max(due.saturating_sub(rate * PAGES_PER_MIB));
        while dirtied < due && count > 0 {
            pages.dirty(next);
            next = (next + 1) % count;
            dirtied += 1;
        }
        for _ in signals.pending() {
            let verdict = match pages.first_damaged() {
                None => "intact\n".to_owned(),
                Some(page) => format!("damaged at page {page} of {count}\n"),
            };
            if let Some(path) = args.get("verdict") {
                fs::write(path, &verdict)?;
            }
            say(&verdict)?;
        }
        std::thread::sleep(tick);
    }
}
