//! What runs in a test's virtual machine and does what the host says: starts commands, carries their streams, tells how
//! they ended. See `test_fixtures::vm::frame` for what is said.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process_group};
use test_fixtures::vm::frame::{Frame, Kind};

/// The machine's only port; its number is that of its device among those of the machine.
const PORTS: &str = "/sys/class/virtio-ports";

fn main() -> ExitCode {
    let Err(error) = serve();
    // Standard error is the machine's console.
    writeln!(io::stderr(), "vm-agent: {error}").ok();
    ExitCode::FAILURE
}

fn open_port() -> io::Result<File> {
    let port = std::fs::read_dir(PORTS)?.next().ok_or_else(|| io::Error::other(format!("no port in {PORTS}")))??;
    OpenOptions::new().read(true).write(true).open(Path::new("/dev").join(port.file_name()))
}

/// A command that runs.
struct Running {
    group: Option<Pid>,
    /// `None` once it is closed; what is sent is written by a thread of its own.
    stdin: Option<Sender<Vec<u8>>>,
}

type Commands = Arc<Mutex<BTreeMap<u32, Running>>>;
type Port = Arc<Mutex<File>>;

/// Serves until the port fails, which it does not before the machine ends.
fn serve() -> io::Result<std::convert::Infallible> {
    let mut source = open_port()?;
    let port: Port = Arc::new(Mutex::new(source.try_clone()?));
    let commands = Commands::default();
    send(&port, Kind::Ready, 0, [])?;
    loop {
        let frame = Frame::read(&mut source)?;
        let mut running = commands.lock().unwrap_or_else(PoisonError::into_inner);
        // A command may have ended by itself before the host's frame for it came.
        let command = running.get_mut(&frame.id);
        match (frame.kind, command) {
            (Kind::Start, _) => {
                drop(running);
                if let Err(error) = start(&frame, &port, &commands) {
                    send(&port, Kind::Failed, frame.id, error.to_string())?;
                }
            }
            (Kind::Stdin, Some(Running { stdin: Some(stdin), .. })) => {
                // It does not read any more.
                stdin.send(frame.payload).ok();
            }
            (Kind::CloseStdin, Some(command)) => command.stdin = None,
            (Kind::Kill, Some(Running { group: Some(group), .. })) => {
                // Gone already.
                kill_process_group(*group, Signal::KILL).ok();
            }
            _ => {}
        }
    }
}

fn start(frame: &Frame, port: &Port, commands: &Commands) -> io::Result<()> {
    let text = String::from_utf8_lossy(&frame.payload);
    let mut words = text.split_terminator('\0');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let stdin = child.stdin.take().map(write_stdin);
    let output = [
        child.stdout.take().map(|stdout| forward(stdout, Kind::Stdout, frame.id, port)),
        child.stderr.take().map(|stderr| forward(stderr, Kind::Stderr, frame.id, port)),
    ];
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    commands.lock().unwrap_or_else(PoisonError::into_inner).insert(frame.id, Running { group, stdin });
    let (id, port, commands) = (frame.id, Arc::clone(port), Arc::clone(commands));
    thread::spawn(move || tell_end(child, output, id, &port, &commands));
    Ok(())
}

/// Waits for a command's end and for that of its output, which what it started may hold open for longer.
fn tell_end(
    mut child: Child,
    output: [Option<JoinHandle<()>>; 2],
    id: u32,
    port: &Port,
    commands: &Commands,
) -> io::Result<()> {
    let status = child.wait();
    for thread in output.into_iter().flatten() {
        // It says nothing more, in either case.
        thread.join().ok();
    }
    commands.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    match status {
        Ok(status) => send(port, Kind::Exited, id, status.into_raw().to_le_bytes()),
        Err(error) => send(port, Kind::Failed, id, error.to_string()),
    }
}

fn write_stdin(mut stdin: ChildStdin) -> Sender<Vec<u8>> {
    let (sender, receiver) = channel::<Vec<u8>>();
    thread::spawn(move || receiver.into_iter().try_for_each(|bytes| stdin.write_all(&bytes)));
    sender
}

fn forward(mut source: impl Read + Send + 'static, kind: Kind, id: u32, port: &Port) -> JoinHandle<()> {
    let port = Arc::clone(port);
    thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = source.read(&mut buffer) {
            if send(&port, kind, id, &buffer[..count]).is_err() {
                return;
            }
        }
    })
}

fn send(port: &Port, kind: Kind, id: u32, payload: impl Into<Vec<u8>>) -> io::Result<()> {
    Frame::new(kind, id, payload).write(&mut *port.lock().unwrap_or_else(PoisonError::into_inner))
}
