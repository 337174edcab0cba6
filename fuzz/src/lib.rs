//! Everything that reads bytes from outside, fed with bytes that nobody would write.
//!
//! Each target is a function of the crate that it belongs to (`fuzzing` there, with the feature of that name), a program in
//! `fuzz_targets` and a directory in `corpus`, all of one name. They run in two ways:
//!
//! | by | what |
//! | --- | --- |
//! | `cargo test` | each file of the corpus, and some thousand changes of it, always the same ones |
//! | `cargo xtask fuzz` | libFuzzer, which sees what code it reaches, for as long as it is let |
//!
//! What either finds becomes a file of the corpus, and a test beside the code that was wrong.

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod mutate;

/// A target's program: with libFuzzer, or one that takes the files which it is given, under a debugger for instance.
#[macro_export]
macro_rules! target {
    ($function:path) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $function(bytes));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            std::env::args_os().skip(1).try_for_each(|path| std::fs::read(path).map(|bytes| $function(&bytes)))
        }
    };
}
