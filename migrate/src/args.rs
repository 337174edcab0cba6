//! The command line.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use migrate::{Address, Error, MapMount, Migrate, Mode, Pace, Receive, Target, TlsFiles, Verdict};

use crate::view;

const ADDRESS: &str = "/run/containerd/containerd.sock";
const NAMESPACE: &str = "default";
const STATE: &str = "/var/lib/rtc/migrate";

/// Move a running container to another node
///
/// The container's memory, files and connections go on where they were; its id stays. Until the destination runs it, it stands
/// still here, and any failure lets it run on.
#[derive(Debug, Parser)]
#[command(name = "rtc migrate", args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Line {
    #[command(flatten)]
    to: To,

    /// Log what is done
    #[arg(long, global = true)]
    debug: bool,

    #[command(subcommand)]
    command: Option<Sub>,
}

#[derive(Debug, Subcommand)]
enum Sub {
    Receive(ReceiveCommand),
    Status(Status),
    Recover(Recover),
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Args {
    pub(crate) debug: bool,
    pub(crate) command: Command,
}

#[derive(Debug)]
pub(crate) enum Command {
    To(To),
    Receive(ReceiveCommand),
    Status(Status),
    Recover(Recover),
}

impl Args {
    /// Of this process; ends it where they are none.
    pub(crate) fn parse() -> Self {
        let Line { to, debug, command } = Line::parse();
        let command = match command {
            None => Command::To(to),
            Some(Sub::Receive(command)) => Command::Receive(command),
            Some(Sub::Status(command)) => Command::Status(command),
            Some(Sub::Recover(command)) => Command::Recover(command),
        };
        Self { debug, command }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Containerd {
    /// containerd's socket [default: $CONTAINERD_ADDRESS, or /run/containerd/containerd.sock]
    #[arg(short, long, value_name = "SOCKET")]
    address: Option<PathBuf>,

    /// containerd's namespace, the same on both sides [default: $CONTAINERD_NAMESPACE, or default]
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

impl Containerd {
    pub(crate) fn resolve(self) -> Address {
        let socket = self.address.or_else(|| std::env::var_os("CONTAINERD_ADDRESS").map(PathBuf::from));
        let namespace = self.namespace.or_else(|| std::env::var("CONTAINERD_NAMESPACE").ok());
        Address {
            socket: socket.unwrap_or_else(|| PathBuf::from(ADDRESS)),
            namespace: namespace.unwrap_or_else(|| NAMESPACE.to_owned()),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct To {
    /// The container's id; it stays the same
    #[arg(required = true)]
    container: Option<String>,

    /// Where to: ssh://[USER@]NODE, which starts `rtc migrate receive` there, tls://HOST:PORT, or unix:///PATH
    #[arg(long, value_name = "TARGET", required = true)]
    to: Option<Target>,

    #[command(flatten)]
    containerd: Containerd,

    /// When the memory goes
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    mode: ModeName,

    /// With --mode auto and precopy: for how long the container may stand still, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 300)]
    downtime_target: u64,

    /// With --mode auto and precopy: how many rounds of memory are sent ahead, at the most
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    max_rounds: u32,

    /// Keep the stopped container in this node's containerd
    #[arg(long)]
    keep_source: bool,

    /// The network namespace at the destination, for a container that has joined one here
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,

    /// The source of bind mounts at the destination, where it is another than here; may be given several times
    #[arg(long, value_name = "FROM:TO")]
    map_mount: Vec<MapMount>,

    /// Say whether it can be moved, and move nothing
    #[arg(long)]
    dry_run: bool,

    /// Print the summary as JSON; with =events also, on a line each, what is done, and the summary on the last
    #[arg(long, value_name = "WHAT", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "summary")]
    json: Option<JsonName>,

    /// Send no more than so many bytes a second; with a suffix of k, m or g times 1024, 1024² or 1024³
    #[arg(long, value_name = "BYTES", value_parser = pace)]
    bandwidth_limit: Option<Pace>,

    /// Compress what is sent, with zstd
    #[arg(long)]
    compress: bool,

    /// Where the journals of migrations and the images are
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,

    #[command(flatten)]
    network: Network,

    #[command(flatten)]
    tls: Tls,
}

/// What moves a container's address; the same on both sides.
#[derive(Debug, clap::Args)]
struct Network {
    /// An executable that moves the container's address; with ssh, the same path at the destination
    ///
    /// It is called at named moments, with JSON on standard input: see migrate/NETWORK-HOOK.md.
    #[arg(long, value_name = "EXECUTABLE")]
    network_hook: Option<PathBuf>,
}

/// What a side shows to the other over tls://, and what it takes; PEM files.
#[derive(Debug, clap::Args)]
struct Tls {
    /// This side's certificate, for tls:// [default: /etc/rtc/tls/cert.pem]
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// Its private key [default: /etc/rtc/tls/key.pem]
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// The authority whose certificates the other side may show; it should have no other purpose [default: /etc/rtc/tls/ca.pem]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
}

impl Tls {
    /// Absolute, for a recovery from elsewhere.
    fn resolve(self) -> Result<TlsFiles, Error> {
        let default = TlsFiles::default();
        let file = |given: Option<PathBuf>, default: PathBuf| {
            let path = given.unwrap_or(default);
            std::path::absolute(&path).map_err(|err| Error::File { operation: "find", path, err })
        };
        Ok(TlsFiles {
            cert: file(self.tls_cert, default.cert)?,
            key: file(self.tls_key, default.key)?,
            ca: file(self.tls_ca, default.ca)?,
        })
    }
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum ModeName {
    /// While the container stands still
    #[default]
    StopCopy,
    /// When it runs at the destination: it stands still for a moment, but IS LOST if the link or a node is lost before all of
    /// its memory has followed
    #[value(name = "postcopy")]
    PostCopy,
    /// While it runs, in rounds, until the rest is so little that the pause is foreseen to be within --downtime-target; takes a
    /// kernel that tracks which memory is written to (CONFIG_MEM_SOFT_DIRTY)
    #[value(name = "precopy")]
    PreCopy,
    /// stop-copy if the pause is foreseen to be within --downtime-target, else precopy where the kernel can do it and the
    /// container does not write faster than can be sent, else postcopy if both nodes can do it
    Auto,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum JsonName {
    Summary,
    Events,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::StopCopy => Self::StopCopy,
            ModeName::PostCopy => Self::PostCopy,
            ModeName::PreCopy => Self::PreCopy,
            ModeName::Auto => Self::Auto,
        }
    }
}

impl To {
    pub(crate) async fn run(self) -> Result<ExitCode, Error> {
        let (Some(id), Some(target)) = (self.container, self.to) else {
            return Err(Error::Target(String::new()));
        };
        let progress = match self.json {
            Some(JsonName::Events) => view::as_json(),
            _ => view::at_terminal(&id),
        };
        let options = Migrate {
            id,
            target,
            containerd: self.containerd.resolve(),
            state: self.state,
            keep_source: self.keep_source,
            netns: self.netns,
            maps: self.map_mount,
            dry_run: self.dry_run,
            pace: self.bandwidth_limit,
            compress: self.compress,
            network_hook: self.network.network_hook,
            tls: self.tls.resolve()?,
            mode: self.mode.into(),
            downtime_target: Duration::from_millis(self.downtime_target),
            max_rounds: self.max_rounds,
            progress,
        };
        let report = migrate::migrate(options).await?;
        view::end();
        match self.json {
            Some(JsonName::Summary) => json(&report)?,
            Some(JsonName::Events) => view::report_as_json(&report)?,
            None => print(&format!("{report}\n"))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Take containers in that come from other nodes
#[derive(Debug, clap::Args)]
pub(crate) struct ReceiveCommand {
    /// One, over standard input and output; for ssh
    #[arg(long, conflicts_with = "listen", required_unless_present = "listen")]
    stdio: bool,

    /// Any number of them, on a socket: unix:///PATH or tls://ADDRESS:PORT; on the one of a service manager, if it hands one over
    #[arg(long, value_name = "TARGET")]
    listen: Option<Target>,

    #[command(flatten)]
    containerd: Containerd,

    /// Where the journals of migrations and the images are
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,

    #[command(flatten)]
    network: Network,

    #[command(flatten)]
    tls: Tls,
}

impl ReceiveCommand {
    pub(crate) async fn run(self) -> Result<ExitCode, Error> {
        let options = Receive {
            containerd: self.containerd.resolve(),
            state: self.state,
            network_hook: self.network.network_hook,
            tls: self.tls.resolve()?,
        };
        migrate::receive(options, self.listen).await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// List migrations that are under way or were left behind; ends with 1 if one was
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// Print it as JSON
    #[arg(long)]
    json: bool,

    /// Where the journals of migrations are
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
}

impl Status {
    pub(crate) fn run(self) -> Result<ExitCode, Error> {
        tell(&migrate::status(&self.state)?, self.json)
    }
}

/// Bring migrations to their end that were left behind; ends with 1 if one could not be
///
/// What the destination has started is ended here, what it has not started runs on here. A destination that cannot be asked
/// leaves it as it is.
#[derive(Debug, clap::Args)]
pub(crate) struct Recover {
    /// Only of this container
    container: Option<String>,

    /// Print it as JSON
    #[arg(long)]
    json: bool,

    /// Where the journals of migrations are
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
}

impl Recover {
    pub(crate) async fn run(self) -> Result<ExitCode, Error> {
        tell(&migrate::recover(&self.state, self.container.as_deref()).await?, self.json)
    }
}

fn tell(verdicts: &[Verdict], as_json: bool) -> Result<ExitCode, Error> {
    if as_json {
        json(&verdicts)?;
    } else {
        for verdict in verdicts {
            print(&format!("{verdict}\n"))?;
        }
    }
    let open = verdicts.iter().any(|verdict| verdict.open);
    Ok(if open { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(|err| Error::Json { what: "the output".to_owned(), err })?;
    print(&format!("{text}\n"))
}

pub(crate) fn print(text: &str) -> Result<(), Error> {
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::Connection)
}

/// `500`, `10m`.
fn pace(text: &str) -> Result<Pace, String> {
    let (digits, factor) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (text.get(..at), 1 << 10),
        Some((at, 'm' | 'M')) => (text.get(..at), 1 << 20),
        Some((at, 'g' | 'G')) => (text.get(..at), 1 << 30),
        _ => (Some(text), 1_u64),
    };
    let number = digits.and_then(|digits| digits.parse::<u64>().ok()).and_then(|number| number.checked_mul(factor));
    number
        .filter(|rate| *rate > 0)
        .map(Pace)
        .ok_or_else(|| "it is a number of bytes above 0, such as 500k or 10m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Line, clap::Error> {
        Line::try_parse_from([&["rtc migrate"], words].concat())
    }

    #[test]
    fn a_container_and_a_target_are_a_move() {
        let line = parse(&["web", "--to", "ssh://b", "--map-mount", "/a:/b", "--bandwidth-limit", "10m"]).unwrap();
        assert_eq!(line.to.container.as_deref(), Some("web"));
        assert_eq!(line.to.to, Some("ssh://b".parse().unwrap()));
        assert_eq!(line.to.bandwidth_limit, Some(Pace(10 << 20)));
        assert!(line.command.is_none());
        assert!(line.to.json.is_none());
        for (word, json) in [("--json", JsonName::Summary), ("--json=events", JsonName::Events)] {
            assert_eq!(parse(&["web", "--to", "ssh://b", word]).unwrap().to.json, Some(json));
        }
        assert!(parse(&["web", "--to", "ssh://b", "--max-rounds", "0"]).is_err(), "one at the least");
        assert!(parse(&["web"]).is_err(), "it needs a target");
        assert!(parse(&["web", "--to", "b"]).is_err(), "that is none");
    }

    #[test]
    fn commands_need_no_target() {
        assert!(matches!(parse(&["receive", "--stdio"]).unwrap().command, Some(Sub::Receive(_))));
        assert!(matches!(parse(&["status", "--json"]).unwrap().command, Some(Sub::Status(_))));
        assert!(parse(&["receive"]).is_err(), "from where");
        assert!(parse(&["receive", "--stdio", "--listen", "unix:///s"]).is_err());
    }

    #[test]
    fn a_pace_has_units() {
        assert_eq!(pace("500").unwrap(), Pace(500));
        assert_eq!(pace("2k").unwrap(), Pace(2048));
        assert_eq!(pace("1G").unwrap(), Pace(1 << 30));
        for bad in ["", "0", "k", "-1", "1.5m", "99999999999g"] {
            assert!(pace(bad).is_err(), "{bad}");
        }
    }
}
