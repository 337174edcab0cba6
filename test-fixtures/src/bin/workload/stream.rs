//! Bytes with a digest, so that one lost, doubled or changed byte is seen.

use std::fs;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use sha2::{Digest, Sha256};

use crate::args::Args;
use crate::{Outcome, say};

/// splitmix64: fast, and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Writes pseudo-random bytes; what was written is told by its SHA-256 in a file.
pub(crate) fn stream(args: &Args) -> Outcome {
    let mut left: u64 = args.number("bytes")?;
    let mut random = Random::new(args.number_or("seed", 1)?);
    let mut sink: Box<dyn Write> = match args.get("to").unwrap_or("stdout") {
        "stdout" => Box::new(io::stdout().lock()),
        "stderr" => Box::new(io::stderr().lock()),
        other => return Err(format!("--to {other:?} is neither stdout nor stderr").into()),
    };
    let mut hash = Sha256::new();
    let mut block = vec![0; 64 * 1024];
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        let part = &block[..usize::try_from(left).map_or(block.len(), |left| left.min(block.len()))];
        hash.update(part);
        sink.write_all(part)?;
        left -= part.len() as u64;
    }
    sink.flush()?;
    if let Some(path) = args.get("hash") {
        fs::write(path, format!("{}\n", hex(&hash.finalize())))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads standard input to its end and says `BYTES SHA-256`.
pub(crate) fn digest() -> Outcome {
    let mut hash = Sha256::new();
    let mut stdin = io::stdin().lock();
    let mut block = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        match stdin.read(&mut block)? {
            0 => break,
            count => {
                hash.update(&block[..count]);
                bytes += count;
            }
        }
    }
    say(&format!("{bytes} {}\n", hex(&hash.finalize())))?;
    Ok(ExitCode::SUCCESS)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
