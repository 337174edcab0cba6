//! The standard streams with bytes under way in them, and processes that exec has started.

use std::fs::{self, File};
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use runtime_core::Signal;
use runtime_core::container::{
    CheckpointOptions, Container, CreateOptions, ExecOptions, Held, Input, RestoreOptions, Started, Stdio,
};
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};
use serde_json::json;

use crate::scene::{Bundle, COUNT, chain, ok, pipes};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("input that was not read is carried", unread_input),
    ("what was typed ahead is carried", typed_ahead),
    ("an exec's process is refused by name, and left out where it is told so", execs),
];

/// Reads nothing before it is told to.
const CAT_LATER: &str = "echo ready; while [ ! -e /data/go ]; do usleep 5000; done; cat";

/// A writer that has bytes in hand and in its fifo.
#[derive(Debug)]
struct Writer {
    in_hand: &'static [u8],
    fifo: Option<OwnedFd>,
}

impl Writer {
    fn new(in_hand: &'static [u8], in_fifo: &[u8]) -> (Arc<Self>, PipeWriter) {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(in_fifo).unwrap();
        (Arc::new(Self { in_hand, fifo: Some(reader.into()) }), writer)
    }
}

impl Input for Writer {
    fn hold(&self) -> io::Result<Held> {
        let source = self.fifo.as_ref().map(OwnedFd::try_clone).transpose()?;
        Ok(Held { pending: self.in_hand.to_vec(), source, writer: Box::new(()) })
    }
}

/// stdin's writer, and the reader of stdout.
fn streams() -> (Stdio, PipeWriter, impl Read) {
    let (stdin, writer) = io::pipe().unwrap();
    let (Stdio::Fds { stdout, stderr, .. }, output) = pipes() else { panic!("a terminal") };
    (Stdio::Fds { stdin: stdin.into(), stdout, stderr }, writer, output)
}

fn read_to(output: &mut impl Read, end: &str) -> String {
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.ends_with(end) && output.read(&mut byte).unwrap_or(0) == 1 {
        text.push(char::from(byte[0]));
    }
    text
}

/// Lets it read, and takes all that it wrote until its end.
fn let_go(bundle: &Bundle, container: &Container, started: Started, output: &mut impl Read) -> String {
    let go = bundle.path().join("data/go");
    File::create(&go).unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(started.child.wait().unwrap().code, 0);
    ok(container.delete(false));
    fs::remove_file(go).unwrap();
    text
}

fn restore(create: CreateOptions, images: &Path) -> (Container, Started) {
    ok(Container::restore(RestoreOptions::new(create, images.to_owned())))
}

fn unread_input() {
    let bundle = Bundle::new(CAT_LATER);
    let images = bundle.images("one");
    let (stdio, mut stdin, mut output) = streams();
    let (container, started) = ok(Container::create(bundle.options("first", stdio)));
    ok(container.start());
    assert_eq!(read_to(&mut output, "\n"), "ready\n");
    // More than a page.
    let taken = "taken".repeat(2000);
    stdin.write_all(taken.as_bytes()).unwrap();
    let (writer, _fifo) = Writer::new(b" in hand", b" in the fifo");
    let mut options = CheckpointOptions::new(images.clone());
    options.leave_running = true;
    options.input = Some(writer);
    ok(container.checkpoint(&options));

    // The one that ran on has what was in its pipe, and once.
    stdin.write_all(b" after").unwrap();
    drop(stdin);
    assert_eq!(let_go(&bundle, &container, started, &mut output), format!("{taken} after"));

    // The restored one has it too, and before what is new.
    let (stdio, mut stdin, mut output) = streams();
    let (container, started) = restore(bundle.options("second", stdio), &images);
    stdin.write_all(b" new").unwrap();
    drop(stdin);
    let all = let_go(&bundle, &container, started, &mut output);
    assert_eq!(all, format!("{taken} in hand in the fifo new"));

    // Where there is nobody to write more, the rest, and then the end. From there, checkpointed again, the same.
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
    let (Stdio::Fds { stdout, stderr, .. }, mut output) = pipes() else { panic!("a terminal") };
    let stdio = Stdio::Fds { stdin: null.into(), stdout, stderr };
    let (container, started) = restore(bundle.options("third", stdio), &images);
    ok(container.checkpoint(&CheckpointOptions::new(bundle.images("two"))));
    started.child.wait().unwrap();
    ok(container.delete(false));
    assert_eq!(read_to(&mut output, "\n"), "");
    let (stdio, stdin, mut output) = streams();
    drop(stdin);
    let (container, started) = restore(bundle.options("fourth", stdio), &bundle.images("two"));
    let all = let_go(&bundle, &container, started, &mut output);
    assert_eq!(all, format!("{taken} in hand in the fifo"));

    // A restore that fails has put nothing into the new one.
    let mut failing = Bundle::new(CAT_LATER);
    failing.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    let (reader, mut stdin) = io::pipe().unwrap();
    stdin.write_all(b"own").unwrap();
    drop(stdin);
    let (Stdio::Fds { stdout, stderr, .. }, _) = pipes() else { panic!("a terminal") };
    let stdio = Stdio::Fds { stdin: reader.try_clone().unwrap().into(), stdout, stderr };
    let options = RestoreOptions::new(failing.options("fifth", stdio), images.clone());
    let refused = Container::restore(options).err().unwrap();
    assert!(chain(&refused).contains("hook /bin/false ended with 1"), "{}", chain(&refused));
    assert_eq!(io::read_to_string(reader).unwrap(), "own");

    // A file cannot have it before its own.
    let file = || OwnedFd::from(tempfile::tempfile_in(bundle.path()).unwrap());
    let stdio = Stdio::Fds { stdin: file(), stdout: file(), stderr: file() };
    let refused = Container::restore(RestoreOptions::new(bundle.options("fifth", stdio), images)).err().unwrap();
    assert!(chain(&refused).contains("input that was not read yet"), "{}", chain(&refused));
    bundle.assert_no_state("fifth");
}

fn typed_ahead() {
    let script = "x=kept; echo up; while [ ! -e /data/go ]; do usleep 5000; done; \
                  while read line; do echo got $line $x; done";
    let mut bundle = Bundle::new(script);
    bundle.spec["process"]["terminal"] = json!(true);
    let master = |started: &Started| File::from(started.console.as_ref().unwrap().try_clone().unwrap());
    let (container, started) = ok(Container::create(bundle.options("first", Stdio::Terminal)));
    ok(container.start());
    let mut first = master(&started);
    read_to(&mut first, "up\r\n");
    tcsetwinsize(&first, Winsize { ws_row: 33, ws_col: 77, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    first.write_all(b"one\rtw").unwrap();
    assert_eq!(read_to(&mut first, "tw"), "one\r\ntw");
    let (writer, _fifo) = Writer::new(b"o\rth", b"ree\r");
    let mut options = CheckpointOptions::new(bundle.images("one"));
    options.input = Some(writer);
    ok(container.checkpoint(&options));
    started.child.wait().unwrap();
    ok(container.delete(false));
    drop(started);

    let (container, started) = restore(bundle.options("second", Stdio::Terminal), &bundle.images("one"));
    let mut second = master(&started);
    let size = tcgetwinsize(&second).unwrap();
    assert_eq!((size.ws_row, size.ws_col), (33, 77));
    assert_eq!(started.input, b"o\rthree\r");
    second.write_all(&started.input).unwrap();
    // Only what comes now is echoed: the rest was.
    assert_eq!(read_to(&mut second, "three\r\n"), "o\r\nthree\r\n");
    File::create(bundle.path().join("data/go")).unwrap();
    assert_eq!(read_to(&mut second, "three kept\r\n"), "got one kept\r\ngot two kept\r\ngot three kept\r\n");
    ok(container.kill(Signal::KILL, false));
    started.child.wait().unwrap();
    ok(container.delete(false));
}

fn execs() {
    let mut bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    bundle.spec["process"]["args"] = json!(["sh", "-c", "while :; do usleep 10000; done & wait"]);
    let exec = |stdio: Stdio| {
        let process = serde_json::from_value(bundle.spec["process"].clone()).unwrap();
        ok(counter.container.exec(ExecOptions::new(process, stdio)))
    };
    let (stdio, _output) = pipes();
    let (piped, with_terminal) = (exec(stdio), exec(Stdio::Terminal));

    let mut options = CheckpointOptions::new(bundle.images("one"));
    options.exec_ids = [(piped.child.pid, "shell".to_owned())].into();
    let refused = chain(&counter.container.checkpoint(&options).unwrap_err());
    let (first, second) = (piped.child.pid, with_terminal.child.pid);
    assert!(refused.contains(&format!("{first} (sh, exec shell), {second} (sh)")), "{refused}");
    assert!(!bundle.images("one").exists());
    let last = counter.goes_on_after(0);

    // Left out, it runs on. What it has left behind is the init's: that is carried.
    counter.snapshot(bundle.images("one"));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(first.as_raw()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    piped.child.wait().unwrap();
    let last = counter.goes_on_after(last);
    options.end_execs = true;
    options.image_dir = bundle.images("two");
    // The init's end waits for that of every process in its namespace, and CRIU for the init's.
    let reaper = std::thread::spawn(move || with_terminal.child.wait().unwrap());
    ok(counter.container.checkpoint(&options));
    assert_eq!(reaper.join().unwrap().code, 137);
    let last = counter.gone(137, last);

    for (name, carried) in [("one", false), ("two", true)] {
        let mut counter = bundle.restore("second", &bundle.images(name));
        if carried {
            counter.goes_on_after(last);
        }
        let is_left_behind = |pid: &runtime_core::Pid| {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.contains("& wait")
        };
        assert_eq!(counter.container.pids().unwrap().iter().any(is_left_behind), carried);
        counter.kill();
    }
}
