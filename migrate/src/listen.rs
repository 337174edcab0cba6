//! Where a destination listens: a socket of its own, or the one that a service manager hands over (`LISTEN_FDS`,
//! sd_listen_fds(3)), of the same kind as the target that it was told.

use std::io;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::error::{Error, Result};
use crate::link::Stream;
use crate::target::Target;
use crate::tls::{Acceptor, TlsFiles};

#[derive(Debug)]
pub(crate) struct Listener {
    target: String,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Unix { listener: UnixListener, _path: Option<Bound> },
    Tls { listener: TcpListener, acceptor: Acceptor },
}

/// A socket's file, removed when it is dropped.
#[derive(Debug)]
struct Bound(PathBuf);

/// Somebody who has connected, and has said nothing yet.
#[derive(Debug)]
pub(crate) struct Caller {
    target: String,
    socket: CallerSocket,
}

#[derive(Debug)]
enum CallerSocket {
    Unix(UnixStream),
    Tls(TcpStream, Acceptor),
}

impl Listener {
    pub(crate) async fn bind(target: &Target, tls: &TlsFiles) -> Result<Self> {
        let text = target.to_string();
        let failed = |err| Error::Listen { target: text.clone(), err };
        let mut given = ListenFd::from_env();
        let socket = match target {
            Target::Unix(path) => match given.take_unix_listener(0).map_err(failed)? {
                Some(listener) => {
                    listener.set_nonblocking(true).map_err(failed)?;
                    Socket::Unix { listener: UnixListener::from_std(listener).map_err(failed)?, _path: None }
                }
                None => {
                    let listener = bind_unix(path).map_err(failed)?;
                    Socket::Unix { listener, _path: Some(Bound(path.clone())) }
                }
            },
            Target::Tls { host, port } => {
                let acceptor = tls.acceptor().map_err(|err| Error::Tls { target: text.clone(), err })?;
                let listener = match given.take_tcp_listener(0).map_err(failed)? {
                    Some(listener) => {
                        listener.set_nonblocking(true).map_err(failed)?;
                        TcpListener::from_std(listener).map_err(failed)?
                    }
                    None => TcpListener::bind((host.as_str(), *port)).await.map_err(failed)?,
                };
                Socket::Tls { listener, acceptor }
            }
            Target::Ssh { .. } => return Err(Error::Target(text)),
        };
        Ok(Self { target: text, socket })
    }

    pub(crate) async fn accept(&self) -> Result<Caller> {
        let failed = |err| Error::Listen { target: self.target.clone(), err };
        let socket = match &self.socket {
            Socket::Unix { listener, .. } => CallerSocket::Unix(listener.accept().await.map_err(failed)?.0),
            Socket::Tls { listener, acceptor } => {
                CallerSocket::Tls(listener.accept().await.map_err(failed)?.0, acceptor.clone())
            }
        };
        Ok(Caller { target: self.target.clone(), socket })
    }
}

impl Caller {
    /// Whoever may send containers. A handshake takes its time, and others are not to wait for it.
    pub(crate) async fn open(self) -> Result<Box<dyn Stream>> {
        let Self { target, socket } = self;
        match socket {
            CallerSocket::Unix(stream) => Ok(Box::new(stream)),
            CallerSocket::Tls(stream, acceptor) => {
                acceptor.accept(stream).await.map_err(|err| Error::Tls { target, err })
            }
        }
    }
}

/// A socket that nobody serves any more is replaced; only its owner may connect.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let listener = UnixListener::bind(path);
    rustix::process::umask(mask);
    listener
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Err(err) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %err, "remove a socket");
        }
    }
}
