//! Where the other side is, and the stream of bytes to it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::str::FromStr;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Join, ReadBuf};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::error::{Error, Result};
use crate::journal::Record;
use crate::link::Stream;

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `unix:///PATH`: `rtc migrate receive --listen` serves there.
    Unix(PathBuf),
    /// `ssh://[USER@]NODE[:PORT]`: ssh starts `rtc migrate receive --stdio` there.
    Ssh { node: String, port: Option<u16> },
    /// `tls://HOST:PORT`: `rtc migrate receive --listen` serves there.
    Tls { host: String, port: u16 },
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::Target(text.to_owned());
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            // A dash would be an option of ssh's.
            Some(("ssh", node)) if !node.is_empty() && !node.starts_with('-') => match node.rsplit_once(':') {
                Some((node, port)) if !node.is_empty() => {
                    Ok(Self::Ssh { node: node.to_owned(), port: Some(port.parse().map_err(|_| bad())?) })
                }
                Some(_) => Err(bad()),
                None => Ok(Self::Ssh { node: node.to_owned(), port: None }),
            },
            Some(("tls", address)) => {
                let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
                let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
                let host = inner.unwrap_or(host);
                // An address of version 6 has its brackets.
                if host.is_empty() || inner.is_none() && host.contains(':') {
                    return Err(bad());
                }
                Ok(Self::Tls { host: host.to_owned(), port: port.parse().map_err(|_| bad())? })
            }
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Ssh { node, port: None } => write!(f, "ssh://{node}"),
            Self::Ssh { node, port: Some(port) } => write!(f, "ssh://{node}:{port}"),
            Self::Tls { host, port } if host.contains(':') => write!(f, "tls://[{host}]:{port}"),
            Self::Tls { host, port } => write!(f, "tls://{host}:{port}"),
        }
    }
}

/// To the destination of a migration.
pub(crate) async fn connect(record: &Record) -> Result<Box<dyn Stream>> {
    let failed = |err| Error::Connect { target: record.target.clone(), err };
    match record.target.parse()? {
        Target::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?)),
        Target::Ssh { node, port } => Ok(Box::new(ssh(&node, port, record).map_err(failed)?)),
        Target::Tls { host, port } => {
            let connected = record.tls.connect(&host, port).await;
            connected.map_err(|err| Error::Tls { target: record.target.clone(), err })
        }
    }
}

fn ssh(node: &str, port: Option<u16>, record: &Record) -> io::Result<Remote> {
    let mut command = Command::new("ssh");
    if let Some(port) = port {
        command.args(["-p", &port.to_string()]);
    }
    command.args([node, "rtc", "migrate", "receive", "--stdio", "--namespace", &record.namespace]);
    if let Some(hook) = &record.network_hook {
        command.arg("--network-hook").arg(quoted(&hook.executable));
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    match (child.stdout.take(), child.stdin.take()) {
        (Some(stdout), Some(stdin)) => Ok(Remote { streams: tokio::io::join(stdout, stdin), _child: child }),
        _ => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
    }
}

/// ssh hands its words to a shell at the other side.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

/// A program's standard streams.
#[derive(Debug)]
struct Remote {
    streams: Join<ChildStdout, ChildStdin>,
    _child: Child,
}

impl AsyncRead for Remote {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.streams).poll_read(cx, buf)
    }
}

impl AsyncWrite for Remote {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.streams).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.streams).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.streams).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_survive_their_text() {
        for text in ["unix:///run/rtc.sock", "ssh://node-b", "ssh://root@node-b:2222", "tls://b:7070", "tls://[::1]:7"]
        {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_remote_shell_takes_a_path_as_it_is() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in [
            "tls://b",
            "tls://:7",
            "tls://::1:7",
            "tls://b:x",
            "tls://b:70000",
            "",
            "node-b",
            "unix://relative",
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://a:b",
            "http://a",
        ] {
            assert!(matches!(text.parse::<Target>(), Err(Error::Target(_))), "{text}");
        }
    }
}
