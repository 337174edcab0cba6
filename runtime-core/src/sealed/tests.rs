//! Sealed files through memory, and through a real file system of FUSE where this user may make one.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;

use super::cipher::DataKey;
use super::decode::{self, Decoder};
use super::encode::{self, Encoder, Suite};
use super::error::{Damage, SealError};
use super::format::CHUNK;

const KEY: [u8; 32] = [7; 32];

fn key(number: u8) -> DataKey {
    DataKey::from_bytes(&[number; 32]).unwrap()
}

fn suite(compress: bool, encrypt: bool) -> Suite {
    let compression = compress.then(|| "zstd:1".parse().unwrap());
    Suite { compression, key: encrypt.then(|| DataKey::from_bytes(&KEY).unwrap()) }
}

fn seal(name: &str, plain: &[u8], suite: &Suite) -> Vec<u8> {
    let mut sealed = Vec::new();
    let mut scratch = encode::Scratch::new(suite).unwrap();
    let mut encoder = Encoder::new(&mut sealed, name, suite).unwrap();
    for piece in plain.chunks(CHUNK) {
        encoder.chunk(&mut piece.to_vec(), &mut scratch).unwrap();
    }
    let written = encoder.finish().unwrap();
    assert_eq!((written.length, written.stored), (plain.len() as u64, sealed.len() as u64));
    sealed
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// As a restore does: everything is verified, and then read.
fn unseal(name: &str, sealed: &[u8], key: Option<&DataKey>) -> Result<Vec<u8>, SealError> {
    let mut scratch = decode::Scratch::new().unwrap();
    let decoder = Decoder::open(file(sealed), name, key)?;
    decoder.verify(&mut scratch)?;
    decoder.read(u64::MAX, &mut scratch)
}

fn damage(result: Result<Vec<u8>, SealError>) -> Damage {
    match result {
        Err(SealError::Damaged { name, damage }) => {
            assert_eq!(name, "pages-1.img");
            damage
        }
        other => panic!("{other:?}"),
    }
}

/// A bit of everything: what compresses, and what does not.
fn memory(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length).map(|at| if at / 5000 % 2 == 0 { (at / 100) as u8 } else { next() as u8 }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_sealed_comes_back(
        chunks in 0usize..3, rest in 0usize..CHUNK, seed: u64, compress: bool, encrypt: bool,
    ) {
        let plain = memory(chunks * CHUNK + rest, seed);
        let sealed = seal("pages-1.img", &plain, &suite(compress, encrypt));
        let key = encrypt.then(|| DataKey::from_bytes(&KEY).unwrap());
        prop_assert!(unseal("pages-1.img", &sealed, key.as_ref()).unwrap() == plain);
        if encrypt {
            prop_assert!(plain.len() < 64 || !sealed.windows(32).any(|window| window == &plain[plain.len() - 32..]));
        }
    }

    #[test]
    fn what_is_altered_is_refused(at: prop::sample::Index, bit in 0u8..8, compress: bool, encrypt: bool, seed: u64) {
        let mut sealed = seal("pages-1.img", &memory(CHUNK + 77, seed), &suite(compress, encrypt));
        let at = at.index(sealed.len());
        sealed[at] ^= 1 << bit;
        let key = encrypt.then(|| DataKey::from_bytes(&KEY).unwrap());
        damage(unseal("pages-1.img", &sealed, key.as_ref()));
    }

    #[test]
    fn what_is_cut_off_is_refused(at: prop::sample::Index, compress: bool, encrypt: bool, seed: u64) {
        let sealed = seal("pages-1.img", &memory(2 * CHUNK, seed), &suite(compress, encrypt));
        let key = encrypt.then(|| DataKey::from_bytes(&KEY).unwrap());
        damage(unseal("pages-1.img", &sealed[..at.index(sealed.len())], key.as_ref()));
    }
}

#[test]
fn every_byte_of_a_small_file_matters() {
    for encrypt in [false, true] {
        let sealed = seal("pages-1.img", &memory(300, 3), &suite(true, encrypt));
        let key = encrypt.then(|| DataKey::from_bytes(&KEY).unwrap());
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            damage(unseal("pages-1.img", &altered, key.as_ref()));
            damage(unseal("pages-1.img", &sealed[..at], key.as_ref()));
        }
    }
}

#[test]
fn a_file_is_accepted_under_its_name_and_its_key_alone() {
    let sealed = seal("pages-2.img", &memory(1000, 1), &suite(false, true));
    assert_eq!(damage(unseal("pages-1.img", &sealed, Some(&key(7)))), Damage::Index);
    assert!(unseal("pages-2.img", &sealed, Some(&key(7))).is_ok());
    assert!(unseal("pages-2.img", &sealed, Some(&key(8))).is_err());
    // Nor is one for the other kind.
    assert!(matches!(unseal("pages-2.img", &sealed, None), Err(SealError::Damaged { damage: Damage::Header, .. })));
    let plain = seal("pages-1.img", &memory(1000, 1), &suite(true, false));
    assert_eq!(damage(unseal("pages-1.img", &plain, Some(&key(7)))), Damage::Header);
}

/// Of one key: a chunk has its place in its file.
#[test]
fn chunks_cannot_be_moved() {
    let plain = memory(3 * CHUNK, 9);
    let sealed = seal("pages-1.img", &plain, &suite(false, true));
    let length = CHUNK + 16;
    let mut moved = sealed.clone();
    moved[32..32 + length].copy_from_slice(&sealed[32 + length..32 + 2 * length]);
    moved[32 + length..32 + 2 * length].copy_from_slice(&sealed[32..32 + length]);
    assert_eq!(damage(unseal("pages-1.img", &moved, Some(&key(7)))), Damage::Chunk { chunk: 0 });
    // Another file of this name and key has another salt.
    let other = seal("pages-1.img", &plain, &suite(false, true));
    let mut mixed = sealed;
    mixed[32..32 + length].copy_from_slice(&other[32..32 + length]);
    assert_eq!(damage(unseal("pages-1.img", &mixed, Some(&key(7)))), Damage::Chunk { chunk: 0 });
}

#[test]
fn what_does_not_compress_is_stored_as_it_is() {
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(CHUNK)
    .collect();
    let overhead = 32 + 32 + 12;
    assert_eq!(seal("pages-1.img", &noise, &suite(true, false)).len(), CHUNK + overhead);
    assert!(seal("pages-1.img", &vec![3; CHUNK], &suite(true, false)).len() < 200);
}

#[test]
fn a_table_without_an_end_is_not_read() {
    let sealed = seal("pages-1.img", &memory(5000, 2), &suite(true, false));
    let mut scratch = decode::Scratch::new().unwrap();
    let decoder = Decoder::open(file(&sealed), "pages-1.img", None).unwrap();
    let refused = decoder.read(4999, &mut scratch);
    assert_eq!(damage(refused), Damage::Size { found: 5000, written: 4999 });
}

mod views {
    use age::secrecy::ExposeSecret;

    use super::super::{Capture, SUFFIX, SealOptions, Sealed, Sealing};
    use super::*;

    /// Why there can be no such file system here, if so.
    fn missing() -> bool {
        let cannot = !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists();
        if cannot {
            std::io::stderr().write_all(b"skipped: it takes root and /dev/fuse\n").unwrap();
        }
        cannot
    }

    struct Scene {
        dir: tempfile::TempDir,
        keys: tempfile::TempDir,
        options: SealOptions,
    }

    impl Scene {
        fn new(compress: bool, encrypt: bool) -> Self {
            let (dir, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let identity = age::x25519::Identity::generate();
            fs::write(keys.path().join("identity"), identity.to_string().expose_secret()).unwrap();
            let options = SealOptions {
                compress: compress.then(|| "zstd".parse().unwrap()),
                recipients: encrypt.then(|| identity.to_public().to_string().parse().unwrap()).into_iter().collect(),
                key_files: Vec::new(),
            };
            Self { dir, keys, options }
        }

        fn open(&self, sealing: &Sealing) -> Result<Sealed, SealError> {
            let identity = self.keys.path().join("identity");
            Sealed::open(self.dir.path(), sealing, self.options.encrypts().then_some(identity.as_path()))
        }

        /// With these files.
        fn capture(&self, files: &[(&str, &[u8])]) -> Sealing {
            let capture = Capture::start(self.dir.path(), &self.options).unwrap();
            for (name, bytes) in files {
                let mut file = File::create(capture.path().join(name)).unwrap();
                // In pieces of odd sizes, as it comes.
                bytes.chunks(100_003).for_each(|piece| file.write_all(piece).unwrap());
            }
            capture.finish(&"statement").unwrap();
            let sealing = capture.sealing().clone();
            let closed = File::create(capture.path().join("late.img")).unwrap_err();
            assert_eq!(closed.raw_os_error(), Some(libc::EROFS));
            sealing
        }
    }

    #[test]
    fn what_is_written_through_one_view_is_read_through_another() {
        if missing() {
            return;
        }
        for (compress, encrypt) in [(true, false), (false, true), (true, true)] {
            let scene = Scene::new(compress, encrypt);
            let pages = memory(3 * CHUNK + 12345, 5);
            let sealing = scene.capture(&[("pages-1.img", &pages), ("core-1.img", b"core"), ("empty.img", b"")]);
            let mut names: Vec<_> =
                fs::read_dir(scene.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            assert!(
                names.iter().all(|name| name.to_str().unwrap().ends_with(SUFFIX) || name == "rtc-key.age"),
                "{names:?}"
            );
            assert_eq!(names.len(), if encrypt { 5 } else { 4 });

            let sealed = scene.open(&sealing).unwrap();
            assert_eq!(sealed.statement, "statement");
            sealed.verify().unwrap();
            let serving = sealed.serve().unwrap();
            let listed: Vec<_> =
                fs::read_dir(serving.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(listed, ["core-1.img", "empty.img", "pages-1.img"]);
            assert_eq!(fs::read(serving.path().join("core-1.img")).unwrap(), b"core");
            assert_eq!(fs::read(serving.path().join("empty.img")).unwrap(), b"");
            let path = serving.path().join("pages-1.img");
            assert_eq!(path.metadata().unwrap().len(), pages.len() as u64);
            assert!(fs::read(&path).unwrap() == pages);
            let mut piece = [0; 1000];
            std::os::unix::fs::FileExt::read_exact_at(&File::open(&path).unwrap(), &mut piece, CHUNK as u64 - 500)
                .unwrap();
            assert!(piece == pages[CHUNK - 500..CHUNK + 500]);
            assert!(!serving.path().join("none.img").exists());
            assert!(serving.failure().is_none());
            // Nothing of it is left.
            let gone = serving.path().to_owned();
            drop(serving);
            assert!(fs::read_dir(gone).is_err());
        }
    }

    #[test]
    fn a_gap_is_zeros_and_nothing_is_written_twice() {
        if missing() {
            return;
        }
        let scene = Scene::new(true, false);
        let capture = Capture::start(scene.dir.path(), &scene.options).unwrap();
        let file = File::create(capture.path().join("gap.img")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"end", 4096).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 4099);
        let again = std::os::unix::fs::FileExt::write_all_at(&file, b"x", 0).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(libc::EIO));
        assert!(matches!(capture.finish(&()), Err(SealError::Order { at: 0, length: 4099, .. })));
        drop((file, capture));

        let scene = Scene::new(true, false);
        let capture = Capture::start(scene.dir.path(), &scene.options).unwrap();
        fs::write(capture.path().join("again.img"), memory(CHUNK + 1, 1)).unwrap();
        fs::write(capture.path().join("again.img"), b"anew").unwrap();
        fs::write(capture.path().join("gone.img"), b"gone").unwrap();
        fs::remove_file(capture.path().join("gone.img")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&File::create(capture.path().join("gap.img")).unwrap(), b"end", 4096)
            .unwrap();
        capture.finish(&()).unwrap();
        let sealing = capture.sealing().clone();
        drop(capture);
        let serving = scene.open(&sealing).unwrap().serve().unwrap();
        assert_eq!(fs::read(serving.path().join("again.img")).unwrap(), b"anew");
        assert_eq!(fs::read(serving.path().join("gap.img")).unwrap(), [vec![0; 4096], b"end".to_vec()].concat());
        assert!(!serving.path().join("gone.img").exists());
    }

    #[test]
    fn a_file_that_is_gone_or_another_ones_is_named() {
        if missing() {
            return;
        }
        let files: &[(&str, &[u8])] = &[("core-1.img", b"core"), ("core-2.img", b"CORE"), ("optional.img", b"x")];
        let place = |scene: &Scene, name: &str| scene.dir.path().join(format!("{name}{SUFFIX}"));
        let refused = |scene: &Scene, sealing: &Sealing| match scene.open(sealing) {
            Err(SealError::Damaged { name, damage }) => (name, damage),
            other => panic!("{other:?}"),
        };
        for encrypt in [true, false] {
            let scene = Scene::new(true, encrypt);
            let sealing = scene.capture(files);
            fs::remove_file(place(&scene, "optional.img")).unwrap();
            assert_eq!(refused(&scene, &sealing), ("optional.img".to_owned(), Damage::Missing));
        }
        let scene = Scene::new(false, true);
        let sealing = scene.capture(files);
        fs::copy(place(&scene, "core-2.img"), place(&scene, "core-1.img")).unwrap();
        assert_eq!(refused(&scene, &sealing), ("core-1.img".to_owned(), Damage::Index));
        // What is whole in another checkpoint for the same recipient.
        let other = Scene {
            dir: tempfile::tempdir().unwrap(),
            keys: tempfile::tempdir().unwrap(),
            options: scene.options.clone(),
        };
        other.capture(files);
        fs::copy(place(&other, "core-1.img"), place(&scene, "core-1.img")).unwrap();
        assert_eq!(refused(&scene, &sealing), ("core-1.img".to_owned(), Damage::Index));
        fs::copy(place(&other, "rtc-table.json"), place(&scene, "rtc-table.json")).unwrap();
        assert_eq!(refused(&scene, &sealing), ("rtc-table.json".to_owned(), Damage::Index));
    }

    #[test]
    fn a_full_disk_is_told_and_the_writer_has_an_error() {
        if missing() {
            return;
        }
        let scene = Scene::new(false, true);
        let capture = Capture::start(scene.dir.path(), &scene.options).unwrap();
        // Nothing can be made where a directory is.
        fs::create_dir(scene.dir.path().join(format!("pages-1.img{SUFFIX}"))).unwrap();
        let mut file = File::create(capture.path().join("pages-1.img")).unwrap();
        let failed = (0..1000).find_map(|_| file.write_all(&[1; 4096]).err()).unwrap();
        assert_eq!(failed.raw_os_error(), Some(libc::EIO));
        assert!(matches!(capture.failure(), Some(SealError::File { operation: "open", .. })));
    }

    #[test]
    fn keys_are_asked_for_and_compared() {
        if missing() {
            return;
        }
        let scene = Scene::new(false, true);
        let sealing = scene.capture(&[("core-1.img", b"core")]);
        assert!(matches!(Sealed::open(scene.dir.path(), &sealing, None), Err(SealError::KeyMissing)));
        let (other, plain) = (Scene::new(false, true), Scene::new(true, false));
        let foreign = other.keys.path().join("identity");
        assert!(matches!(Sealed::open(scene.dir.path(), &sealing, Some(&foreign)), Err(SealError::WrongKey { .. })));
        let sealing = plain.capture(&[("core-1.img", b"core")]);
        assert!(matches!(Sealed::open(plain.dir.path(), &sealing, Some(&foreign)), Err(SealError::NotEncrypted)));
    }
}
