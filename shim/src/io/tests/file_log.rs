//! `file://`.

use super::*;

fn config(path: &Path) -> StdioConfig {
    let uri = format!("file://{}", path.display());
    StdioConfig { stdout: uri.clone(), stderr: uri, ..StdioConfig::default() }
}

#[tokio::test]
async fn both_streams_are_appended_to_one_file_that_is_made_with_its_parents() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/c.log");
    for round in 1..=2 {
        let (io, mut process) = open(&config(&path)).await;
        process.stdout.write_all(b"out\n").unwrap();
        process.stderr.write_all(b"err\n").unwrap();
        drop(process);
        assert!(io.drained(LONG).await);
        let mut lines: Vec<_> = fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(lines, [vec!["err"; round], vec!["out"; round]].concat());
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
}

#[tokio::test]
async fn a_log_is_exact_and_can_be_truncated_by_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (io, mut process) = open(&config(&path)).await;
    process.stdout.write_all(b"old").unwrap();
    while fs::metadata(&path).unwrap().len() < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
    let written = blocking(move || process.write_noise(40 << 20)).await;
    assert!(io.drained(LONG).await);
    assert_eq!(Hash::of(&mut reader(&path)), written);
}

#[tokio::test]
async fn a_full_disk_holds_the_process_and_drops_nothing() {
    let config = StdioConfig { stdout: "/dev/full".into(), ..StdioConfig::default() };
    let (io, process) = open(&config).await;
    let written = tokio::task::spawn_blocking(move || (&process.stdout).write_all(&[1; 1 << 20]));
    assert!(!io.drained(Duration::from_millis(200)).await);
    assert!(!written.is_finished());
    drop(io);
    assert_eq!(written.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
