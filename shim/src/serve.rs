//! The serving process: sets itself up, answers until it is told to shut down, and leaves nothing behind.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim::Flags;
use tokio::signal::unix::{SignalKind, signal};
use ttrpc::r#async::Server;

use crate::bootstrap::TTRPC_ADDRESS;
use crate::clients::Clients;
use crate::handover::{Pledge, Taker};
use crate::migration::MigrationService;
use crate::pod::{PodService, Restores};
use crate::publisher::Publisher;
use crate::sandbox::Sandbox;
use crate::service::Service;
use crate::task::Context;
use crate::{idle, log, reaper, socket};

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";
const OOM_SCORE_ADJ_MAX: i32 = 1000;
/// Blocking calls come in bursts; between them the threads are only memory.
const THREAD_KEEP_ALIVE: Duration = Duration::from_millis(200);
const THREAD_STACK: usize = 512 * 1024;
/// For the last events, when containerd is away while the shim ends.
const LAST_EVENTS_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("stdin is no socket of a start")]
    Handover(#[source] std::io::Error),
    #[error("take the listening socket over")]
    Listener(#[source] std::io::Error),
    #[error("open /dev/null as stdin")]
    Null(#[source] std::io::Error),
    #[error("become a child subreaper")]
    Subreaper(#[source] rustix::io::Errno),
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error("handle signals")]
    Signals(#[source] std::io::Error),
    #[error("serve ttrpc")]
    Ttrpc(#[source] ttrpc::Error),
    #[error("end")]
    Socket(#[from] socket::Error),
}

/// Serves on the socket that `start` hands over, until Shutdown.
///
/// # Errors
/// The process could not be set up; nothing is served then.
pub(crate) fn run(flags: &Flags) -> Result<(), Error> {
    log::init(&flags.namespace, flags.debug);
    let served = serve(flags);
    if let Err(err) = &served {
        tracing::error!(id = flags.id, "{}", crate::error::chain(err));
    }
    served
}

fn serve(flags: &Flags) -> Result<(), Error> {
    let handover = take_stdin()?;
    // Processes that a container's init leaves behind in a shared pid namespace come to this one.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(Error::Subreaper)?;
    raise_oom_score();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .thread_stack_size(THREAD_STACK)
        .build()
        .map_err(Error::Runtime)?;
    // All that needs no socket is done; `start` has been binding it meanwhile.
    let Some((listener, pledge)) = handover.take().map_err(Error::Listener)? else {
        socket::remove_if_dead(socket::path_of(&flags.socket))?;
        return Ok(());
    };
    let served = runtime.block_on(answer(flags, listener, pledge));
    // A call that is stuck in the kernel must not keep the process.
    runtime.shutdown_background();
    served
}

/// The handover comes as stdin; afterwards stdin is `/dev/null`.
fn take_stdin() -> Result<Taker, Error> {
    let fd = std::io::stdin().as_fd().try_clone_to_owned().map_err(Error::Handover)?;
    let handover = Taker::new(fd).map_err(Error::Handover)?;
    let null = OpenOptions::new().read(true).open("/dev/null").map_err(Error::Null)?;
    rustix::stdio::dup2_stdin(&null).map_err(|err| Error::Null(err.into()))?;
    Ok(handover)
}

/// One above containerd's, which this process has inherited: the shim is to go before containerd, and its containers,
/// which inherit it in turn, with it.
fn raise_oom_score() {
    let raised = std::fs::read_to_string(OOM_SCORE_ADJ).and_then(|score| {
        let score: i32 = score.trim().parse().map_err(std::io::Error::other)?;
        std::fs::write(OOM_SCORE_ADJ, (score + 1).min(OOM_SCORE_ADJ_MAX).to_string())
    });
    if let Err(err) = raised {
        tracing::warn!(%err, path = OOM_SCORE_ADJ, "the shim keeps containerd's OOM score");
    }
}

async fn answer(flags: &Flags, listener: UnixListener, pledge: Pledge) -> Result<(), Error> {
    reaper::adopt_orphans().map_err(Error::Signals)?;
    let publisher = Publisher::start(&std::env::var(TTRPC_ADDRESS).unwrap_or_default(), &flags.namespace);
    let context = Context {
        namespace: flags.namespace.as_str().into(),
        publisher: publisher.clone(),
        restores: Restores::default(),
    };
    let sandbox = Arc::new(Sandbox::new(context));
    end_on_signals(&sandbox)?;

    let (listener, clients) = Clients::of(listener).map_err(Error::Listener)?;
    let mut services = Service::new(sandbox.clone()).register();
    services.extend(MigrationService::new(sandbox.clone()).register());
    services.extend(PodService::new(sandbox.clone()).register());
    let mut server = Server::new().add_listener(listener).register_service(services);
    server.start().await.map_err(Error::Ttrpc)?;
    tracing::debug!(id = flags.id, pid = std::process::id(), "serving");
    prepare_init();
    tokio::spawn(idle::release_memory_when_quiet());
    idle::active();
    tokio::spawn(end_when_abandoned(sandbox.clone(), pledge, clients));

    sandbox.ended().await;
    // First the name, then the socket: between the two a new shim of the group can already come.
    socket::remove_file(socket::path_of(&flags.socket))?;
    let unsent = publisher.drained(LAST_EVENTS_WITHIN).await;
    if unsent > 0 {
        tracing::warn!(unsent, "containerd did not take the last events");
    }
    server.shutdown().await.map_err(Error::Ttrpc)?;
    Ok(())
}

/// What every container's init is executed from, made while containerd is still on its way to Create. Create makes it
/// itself where this fails, and tells why.
fn prepare_init() {
    tokio::task::spawn_blocking(|| {
        if let Err(err) = runtime_core::exe::prepare() {
            tracing::debug!(%err, "the sealed binary is not made ahead of time");
        }
    });
}

/// containerd can give up between `start` and Create, when its own client goes away. It has forgotten the shim then.
async fn end_when_abandoned(sandbox: Arc<Sandbox>, pledge: Pledge, clients: Clients) {
    match pledge.kept().await {
        Ok(true) => {}
        Ok(false) => sandbox.shut_down(),
        Err(err) => tracing::warn!(%err, "whether start has told containerd the address is unknown"),
    }
    loop {
        clients.gone().await;
        sandbox.shut_down();
    }
}

/// A shim without containers ends on SIGTERM and SIGINT; one with containers stays, as they would be lost with it.
fn end_on_signals(sandbox: &Arc<Sandbox>) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    let sandbox = sandbox.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => sandbox.shut_down(),
                _ = interrupt.recv() => sandbox.shut_down(),
            }
        }
    });
    Ok(())
}
