//! Input that is held back for a checkpoint.

use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use runtime_core::container::{Held, Input};

use super::*;

async fn hold(io: &Io) -> Held {
    let feed = io.feed().unwrap();
    blocking(move || feed.hold().unwrap()).await
}

fn writer(client: &Client) -> File {
    OpenOptions::new().write(true).open(client.path("stdin")).unwrap()
}

/// What is in a pipe now, and keeps nothing of it.
fn take(pipe: impl AsFd) -> Vec<u8> {
    let flags = nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
    nix::fcntl::fcntl(&pipe, flags).unwrap();
    let mut buffer = vec![0; 1 << 17];
    let length = nix::unistd::read(&pipe, &mut buffer).unwrap_or(0);
    buffer.truncate(length);
    buffer
}

#[tokio::test]
async fn nothing_enters_the_pipe_while_it_is_held_and_all_of_it_after() {
    let client = Client::new();
    let (mut io, process) = open(&client.config).await;
    let mut stdin = writer(&client);
    stdin.write_all(b"before ").unwrap();
    let first = blocking({
        let mut stdin = process.stdin.try_clone().unwrap();
        move || {
            let mut text = [0; 7];
            stdin.read_exact(&mut text).unwrap();
            text
        }
    });
    assert_eq!(&first.await, b"before ");

    let held = hold(&io).await;
    stdin.write_all(b"meanwhile ").unwrap();
    tokio::time::sleep(SHORT).await;
    assert_eq!(take(&process.stdin), b"");
    // Whoever holds it sees every byte once: none is in hand, all are in the fifo, which keeps them.
    assert_eq!(held.pending, b"");
    assert_eq!(rustix::io::ioctl_fionread(held.source.as_ref().unwrap()).unwrap(), 10);
    drop(held);

    stdin.write_all(b"after").unwrap();
    drop(stdin);
    io.close_stdin();
    nix::fcntl::fcntl(&process.stdin, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let rest = blocking(move || {
        let mut text = String::new();
        (&process.stdin).read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(rest.await, "meanwhile after");
    assert!(io.feed().is_none(), "the fifo is held open");
}

#[tokio::test]
async fn what_a_full_terminal_does_not_take_is_in_hand() {
    let mut client = Client::new();
    client.config.terminal = true;
    client.config.stderr.clear();
    let (mut io, _) = Io::open(&client.config, "c1", "ns1").await.unwrap();
    let pty = openpty(None, None).unwrap();
    let mut raw = tcgetattr(&pty.slave).unwrap();
    cfmakeraw(&mut raw);
    tcsetattr(&pty.slave, SetArg::TCSANOW, &raw).unwrap();
    io.start(Some(pty.master), b"first ".to_vec()).unwrap();
    let noise = vec![b'x'; 60_000];
    let mut stdin = writer(&client);
    stdin.write_all(&noise).unwrap();
    // Until the terminal is full: then no byte moves any more.
    let mut before = usize::MAX;
    let held = loop {
        let held = hold(&io).await;
        let waiting = rustix::io::ioctl_fionread(held.source.as_ref().unwrap()).unwrap() as usize;
        if !held.pending.is_empty() && waiting + held.pending.len() == before {
            break held;
        }
        before = waiting + held.pending.len();
        drop(held);
        tokio::time::sleep(SHORT).await;
    };
    assert!(before < noise.len());
    drop(held);
    let read = blocking(move || {
        let (mut slave, mut all) = (File::from(pty.slave), Vec::new());
        while all.len() < 60_006 {
            let mut buffer = [0; 4096];
            let length = slave.read(&mut buffer).unwrap();
            all.extend_from_slice(&buffer[..length]);
        }
        all
    });
    assert_eq!(read.await, [b"first ".as_slice(), &noise].concat());
}
