//! Changes of stored bytes, always the same ones: a test that fails fails again.

/// Values that parsers are wrong about, of two bytes to eight, and words that they look for.
const WORDS: &[&[u8]] = &[
    &[0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff],
    &[0, 0, 0, 0],
    &[0, 0, 0, 0x80],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    b"-1",
    b"0",
    b"4294967296",
    b"18446744073709551616",
    b"1e999",
    b"null",
    b"[]",
    b"{}",
    b"\"\"",
    b"..",
    b"/../",
    b"\\040",
    b"\xc3\xa9",
    b"\n",
    b" ",
    b":",
    b"=",
    b",",
    b"-",
    b"%",
];

/// Makes changed copies of a corpus.
pub(crate) struct Mutator<'a> {
    corpus: &'a [Vec<u8>],
    state: u64,
}

impl<'a> Mutator<'a> {
    pub(crate) fn new(corpus: &'a [Vec<u8>]) -> Self {
        Self { corpus, state: 0x9e37_79b9_7f4a_7c15 }
    }

    /// One of the files, changed in one to four places.
    pub(crate) fn next(&mut self) -> Vec<u8> {
        let mut bytes = self.pick().to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let to = at + self.below((bytes.len() - at).min(32) + 1);
        match self.below(7) {
            0 => {
                let bit = 1 << self.below(8);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= bit;
                }
            }
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..to)),
            3 => {
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                let other = self.pick();
                let from = self.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            5 => {
                let word = WORDS[self.below(WORDS.len())];
                bytes.splice(at..at, word.iter().copied());
            }
            _ => {
                let word = WORDS[self.below(WORDS.len())];
                bytes.splice(at..to, word.iter().copied());
            }
        }
    }

    fn pick(&mut self) -> &'a [u8] {
        let place = self.below(self.corpus.len());
        &self.corpus[place]
    }

    /// Xorshift: nobody has to be surprised by it.
    fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % limit as u64) as usize
    }
}

#[test]
fn changes_are_many_and_always_the_same() {
    let corpus = [b"0-3,7".to_vec(), b"5".to_vec()];
    let changes = || {
        let mut mutator = Mutator::new(&corpus);
        std::iter::repeat_with(|| mutator.next()).take(200).collect::<Vec<_>>()
    };
    assert_eq!(changes(), changes());
    let distinct: std::collections::HashSet<_> = changes().into_iter().collect();
    assert!(distinct.len() > 100, "{}", distinct.len());
}
