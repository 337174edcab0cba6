//! With a pty in the place of the container.

use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use rustix::termios::tcgetwinsize;

use super::*;

async fn open(config: &StdioConfig) -> (Io, File) {
    let (mut io, stdio) = Io::open(config, "c1", "ns1").await.unwrap();
    assert!(matches!(stdio, Stdio::Terminal));
    let pty = openpty(None, None).unwrap();
    let mut raw = tcgetattr(&pty.slave).unwrap();
    cfmakeraw(&mut raw);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &raw).unwrap();
    io.start(Some(pty.master), Vec::new()).unwrap();
    (io, pty.slave.into())
}

fn client() -> Client {
    let mut client = Client::new();
    client.config.terminal = true;
    client.config.stderr.clear();
    client
}

#[tokio::test]
async fn everything_written_before_the_last_close_arrives() {
    let client = client();
    let (io, mut slave) = open(&client.config).await;
    let written = tokio::task::spawn_blocking(move || Noise::new(1 << 20).write_to(&mut slave));
    let path = client.path("stdout");
    let read = blocking(move || Hash::of(&mut reader(&path))).await;
    assert_eq!(read, written.await.unwrap());
    assert!(io.drained(LONG).await);
}

#[tokio::test]
async fn output_still_in_the_terminal_at_the_exit_arrives() {
    for _ in 0..20 {
        let client = client();
        let (io, mut slave) = open(&client.config).await;
        slave.write_all(&[b'x'; 3000]).unwrap();
        drop(slave);
        assert!(io.drained(LONG).await);
        let path = client.path("stdout");
        assert_eq!(blocking(move || Hash::of(&mut reader(&path))).await.1, 3000);
    }
}

#[tokio::test]
async fn the_keyboard_reaches_it_and_the_size_changes() {
    let client = client();
    let (io, mut slave) = open(&client.config).await;
    OpenOptions::new().write(true).open(client.path("stdin")).unwrap().write_all(b"ls\r").unwrap();
    let (text, slave) = blocking(move || {
        let mut text = [0; 3];
        slave.read_exact(&mut text).unwrap();
        (text, slave)
    })
    .await;
    assert_eq!(&text, b"ls\r");
    io.resize(132, 43).unwrap();
    let size = tcgetwinsize(&slave).unwrap();
    assert_eq!((size.ws_col, size.ws_row), (132, 43));
}

#[tokio::test]
async fn the_end_of_stdin_hangs_up_after_the_output_so_far() {
    let client = client();
    let (mut io, mut slave) = open(&client.config).await;
    slave.write_all(&[b'x'; 2000]).unwrap();
    io.close_stdin();
    assert!(io.drained(LONG).await);
    let path = client.path("stdout");
    assert_eq!(blocking(move || Hash::of(&mut reader(&path))).await.1, 2000);
    assert_eq!(slave.write(b"x").unwrap_err().raw_os_error(), Some(Errno::EIO as i32));
    assert!(matches!(io.resize(80, 25), Err(Error::NoTerminal)));
}

#[tokio::test]
async fn its_output_goes_to_a_file_or_nowhere_too() {
    let mut client = client();
    client.config.stdin.clear();
    client.config.stdout = format!("file://{}", client.path("log").display());
    let (io, mut slave) = open(&client.config).await;
    slave.write_all(b"hello").unwrap();
    drop(slave);
    assert!(io.drained(LONG).await);
    assert_eq!(fs::read_to_string(client.path("log")).unwrap(), "hello");

    client.config.stdout.clear();
    let (io, slave) = open(&client.config).await;
    let written = tokio::task::spawn_blocking(move || Noise::new(1 << 18).write_to(&mut { slave }));
    assert!(io.drained(LONG).await);
    assert_eq!(written.await.unwrap().1, 1 << 18);
}
