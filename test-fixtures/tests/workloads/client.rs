//! A client outside of the container, in the first node: it asks one thing after another, from before the checkpoint until
//! after the restore, and checks each answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use test_fixtures::Node;

use crate::failure::{At, Failure, Result};
use crate::world::ADDRESS;

const LONG: Duration = Duration::from_secs(30);

/// What went wrong, in words.
type Problem = Box<dyn std::error::Error + Send + Sync>;

pub(crate) struct Client {
    thread: Option<JoinHandle<std::result::Result<(), Problem>>>,
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Client {
    /// Connects, and asks for each number from 1 on.
    pub(crate) fn start<C>(
        node: &Node,
        connect: impl FnOnce() -> std::result::Result<C, Problem> + Send + 'static,
        ask: impl Fn(&mut C, u64) -> std::result::Result<(), Problem> + Send + 'static,
    ) -> Result<Self> {
        Self::insist(node, connect, move |connection, number| ask(connection, number).map(|()| true))
    }

    /// The same, for what may have to be asked again: `ask` says whether it was answered.
    fn insist<C>(
        node: &Node,
        connect: impl FnOnce() -> std::result::Result<C, Problem> + Send + 'static,
        ask: impl Fn(&mut C, u64) -> std::result::Result<bool, Problem> + Send + 'static,
    ) -> Result<Self> {
        let (answered, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped) = (answered.clone(), stop.clone());
        let namespace = format!("/proc/{}/ns/net", node.pid());
        let thread = std::thread::spawn(move || {
            let namespace = std::fs::File::open(namespace)?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            let mut connection = connect()?;
            while !stopped.load(Ordering::Relaxed) {
                if ask(&mut connection, count.load(Ordering::Relaxed) + 1)? {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        let mut client = Self { thread: Some(thread), answered, stop };
        client.goes_on().map_err(|failure| Failure::at(At::Scene, failure.why))?;
        Ok(client)
    }

    /// Waits for twenty more answers.
    pub(crate) fn goes_on(&mut self) -> Result {
        let (before, started) = (self.answered.load(Ordering::Relaxed), Instant::now());
        while self.answered.load(Ordering::Relaxed) < before + 20 {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                self.join()?;
                return Err(Failure::after("the client ended"));
            }
            if started.elapsed() > LONG {
                return Err(Failure::after(format!("no answer to the client after number {before}")));
            }
            sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// How many were answered, all of them rightly.
    pub(crate) fn end(mut self) -> Result<u64> {
        self.goes_on()?;
        self.stop.store(true, Ordering::Relaxed);
        self.join()?;
        Ok(self.answered.load(Ordering::Relaxed))
    }

    fn join(&mut self) -> Result {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        ended.map_err(|problem| Failure::after(format!("the client: {problem}")))
    }
}

impl Drop for Client {
    /// It ends by itself: with its next answer, or when it waits for one in vain.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A connection, as soon as somebody listens.
pub(crate) fn connect(port: u16) -> std::result::Result<TcpStream, Problem> {
    let (address, started) = (format!("{ADDRESS}:{port}").parse()?, Instant::now());
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(LONG))?;
                return Ok(stream);
            }
            Err(error) if started.elapsed() > LONG => return Err(format!("connect to {address}: {error}").into()),
            Err(_) => sleep(Duration::from_millis(20)),
        }
    }
}

/// The same, for text.
pub(crate) fn connect_lines(port: u16) -> std::result::Result<BufReader<TcpStream>, Problem> {
    connect(port).map(BufReader::new)
}

/// Numbers to somebody who sends back what comes.
pub(crate) fn echo(node: &Node, port: u16) -> Result<Client> {
    let ask = |stream: &mut TcpStream, number: u64| {
        stream.write_all(&number.to_be_bytes())?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer)?;
        same(number, u64::from_be_bytes(answer))
    };
    Client::start(node, move || connect(port), ask)
}

/// Datagrams to somebody who counts them; sent again when no answer comes, as everybody has to who uses UDP.
pub(crate) fn datagrams(node: &Node, port: u16) -> Result<Client> {
    let connect = move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((ADDRESS, port))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(socket)
    };
    let ask = |socket: &mut UdpSocket, number: u64| {
        // Nobody may listen for a moment, and the kernel says so.
        socket.send(&number.to_be_bytes()).ok();
        let mut answer = [0; 16];
        let answered = socket.recv(&mut answer).is_ok_and(|count| count == answer.len());
        // That to an earlier one may have come twice.
        if !answered || answer[..8] != number.to_be_bytes() {
            return Ok(false);
        }
        same(number.to_be_bytes().as_slice(), &answer[8..]).map(|()| true)
    };
    Client::insist(node, connect, ask)
}

/// A line, and the line that comes back.
pub(crate) fn ask_line(stream: &mut BufReader<TcpStream>, line: &str) -> io::Result<String> {
    stream.get_mut().write_all(line.as_bytes())?;
    let mut answer = String::new();
    stream.read_line(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

pub(crate) fn same<T: PartialEq + std::fmt::Debug>(expected: T, found: T) -> std::result::Result<(), Problem> {
    if expected == found { Ok(()) } else { Err(format!("expected {expected:?}, got {found:?}").into()) }
}
