//! The agent: one thread that reconciles, and around it what listens.

mod cluster;
mod control;
mod http;
mod needs;
mod outputs;
mod pods;
mod privileges;

use cofferdam_syntax::diagnostic::chain;
use std::fs::{self, File, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use cofferdam_dataplane::PinsLock;
use cofferdam_protocol::socket_path;
use cofferdam_sources::etcd::Etcd;
use cofferdam_sources::files::{Watches, follow};
use cofferdam_sources::kubernetes::{Kubernetes, Settings};
use cofferdam_telemetry::metrics::{Identity, Renderer, Timings};
use cofferdam_telemetry::records::Recorder;
use cofferdam_telemetry::snapshots::Snapshots;
use cofferdam_telemetry::tally::{Tally, WorkloadLabel};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::config::{Config, ConfigError, Given};
use crate::netlink::{self, News};
use crate::reconcile::{Message, Reconciler, Servers, Start, kernel_release};
use crate::state::make_directory;

use pods::PodsOfNode;

/// Time between two looks at everything, for changes that no source reported.
const LOOK_AROUND: Duration = Duration::from_secs(30);

/// Locks the directory of what must outlive the agent: two that write there forget each
/// other's endpoints.
fn lock_state(path: &Path) -> Result<Flock<File>> {
    make_directory(path)?;
    let failed = || format!("cannot lock {}", path.display());
    let directory = File::open(path).with_context(failed)?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => anyhow!(
            "another agent runs with state_dir {}: stop it, or give this one another",
            path.display()
        ),
        errno => anyhow::Error::new(errno).context(failed()),
    })
}

/// A run directory that is this agent's alone for as long as this value lives.
struct RunDirectory {
    path: PathBuf,
    _lock: Flock<File>,
}

impl RunDirectory {
    fn take(path: &Path) -> Result<Self> {
        make_directory(path)?;
        let lock = path.join("agent.lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .with_context(|| format!("cannot open {}", lock.display()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
            anyhow!(
                "another agent runs with run_dir {}: stop it, or give this one another ({})",
                path.display(),
                chain(&error)
            )
        })?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Listens in place of whatever socket a dead agent left.
    fn listen(&self) -> Result<UnixListener> {
        let socket = socket_path(&self.path);
        let failed = || format!("cannot listen at {}", socket.display());
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(failed);
            }
            _ => {}
        }
        let listener = UnixListener::bind(&socket).with_context(failed)?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).with_context(failed)?;
        Ok(listener)
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        // While the lock is held it can only be our own.
        _ = fs::remove_file(socket_path(&self.path));
    }
}

/// Runs the agent until it is told to stop. A configuration that changes while it runs is read
/// from where it was `given`.
///
/// # Errors
/// When something is missing that it needs, or a part of it fails.
pub fn run(config: Config, given: &Given, detach: bool) -> Result<()> {
    needs::check()?;
    let run_directory = RunDirectory::take(&config.run_dir)?;
    let _state = lock_state(&config.state_dir)?;
    let _pins = PinsLock::take(&config.bpffs)?;
    // While there is no other thread.
    privileges::give_up()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(Arc::new(config), given, &run_directory, detach))
}

async fn serve(
    config: Arc<Config>,
    given: &Given,
    run_directory: &RunDirectory,
    detach: bool,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot wait for signals")?;
    // Before anything is put in force: an address in use should not be found late.
    let listeners = listen(&config)?;
    let watches = Arc::new(Watches::new().context("cannot watch files")?);
    let (enforced, is_enforced) = watch::channel(false);
    let (facts, synced) = watch::channel(None);
    let tally = Arc::new(tally(&config));
    let timings = Timings::new().context("cannot measure durations")?;
    // Nobody asks for facts where no metrics are served.
    let synced = listeners.is_some().then_some(synced);
    let (messages, receiver) = channel();
    let servers = Servers {
        kubernetes: follow_api_server(&config, &messages)?,
        etcd: follow_etcd(&config, &messages)?,
    };
    let start = Start {
        config: config.clone(),
        watches: watches.clone(),
        servers: servers.clone(),
        names: Snapshots::new(&config.node.name),
        enforced,
        outputs: outputs::start(&config).context("cannot start an output of flow records")?,
        timings: timings.clone(),
        tally: tally.clone(),
        facts,
    };
    let listens = Arc::new(AtomicBool::new(false));
    if let Some(api) = &servers.kubernetes {
        cluster::start(api.clone(), &config, messages.clone(), listens.clone())?;
    }
    if let Some(etcd) = &servers.etcd {
        cluster::sharing::start(etcd.clone(), &config, messages.clone())?;
    }
    let (recorder, ended) = start_reconciling(start, receiver).await?;
    let mut ended = ended;

    let tell = |message: fn() -> Message| {
        let messages = messages.clone();
        // A thread that has ended is noticed below.
        move || _ = messages.send(message())
    };
    let changed = messages.clone();
    thread::Builder::new()
        .name("files".to_owned())
        .spawn(move || {
            let tell = |last| changed.send(Message::SourcesChanged(last)).is_ok();
            if let Err(error) = follow(&watches, tell) {
                tracing::error!(
                    "changes of files are found late from now on: {}",
                    chain(&error)
                );
            }
        })
        .context("cannot start a thread")?;
    let reads = recorder.clone();
    thread::Builder::new()
        .name("records".to_owned())
        .spawn(move || {
            if let Err(error) = reads.run() {
                tracing::error!(
                    "denied packets are counted but not reported any more: {}",
                    chain(&error)
                );
            }
        })
        .context("cannot start a thread")?;
    let moved = messages.clone();
    let moved = move |news| {
        // A thread that has ended is noticed below.
        _ = moved.send(match news {
            News::Links => Message::LinksChanged,
            News::Filters(ifindex) => Message::FiltersChanged(ifindex),
        });
    };
    tokio::spawn(async move {
        if let Err(error) = netlink::watch(moved).await {
            tracing::error!(
                "changes of interfaces are found late from now on: {}",
                chain(&error)
            );
        }
    });
    if let (Some(listeners), Some(synced)) = (listeners, synced) {
        let identity = Identity {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: kernel_release(),
        };
        let budget = config.metrics_series.0 as usize;
        let origin = http::Origin {
            messages: messages.clone(),
            synced,
            renderer: Renderer::new(identity, timings.clone(), tally, budget),
        };
        http::start(listeners, origin)?;
    }
    let listener = run_directory.listen()?;
    let known = control::Known {
        messages: messages.clone(),
        is_enforced,
        recorder: recorder.clone(),
        flow_log: outputs::flow_log(&config),
        timings,
        pods: (servers.kubernetes).map(|api| PodsOfNode::new(api, &config.node.name)),
        etcd: servers.etcd,
    };
    // Before any request: an attachment may be made again under the same name.
    tell(|| Message::RemovalsNoted)();
    tokio::spawn(control::serve(listener, known));
    listens.store(true, Ordering::Relaxed);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = %config.node.name,
        socket = %socket_path(&config.run_dir).display(),
        "ready for requests"
    );
    tell_service_manager(NotifyState::Ready);

    let mut look_around = interval(LOOK_AROUND);
    look_around.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look_around.tick().await;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // A thread that has ended is noticed below.
            _ = hang_up.recv() => {
                _ = messages.send(read_again(given));
            }
            _ = look_around.tick() => tell(|| Message::LookAround)(),
            _ = &mut ended => bail!("the reconciling thread has ended"),
        }
    }
    tell_service_manager(NotifyState::Stopping);
    tracing::info!(
        detach,
        "stopping; enforcement stays unless it is to be detached"
    );
    if messages.send(Message::Stop { detach }).is_ok() {
        _ = ended.await;
    }
    Ok(())
}

/// Listens where metrics and health are asked for; `None` if that is nowhere.
fn listen(config: &Config) -> Result<Option<http::Listeners>> {
    let at = |address: SocketAddr, key: &str| {
        let listener = TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        listener.with_context(|| format!("cannot serve metrics at {address}: set `{key}`"))
    };
    let plain = config.metrics.map(|address| at(address, "metrics"));
    let settings = &config.metrics_tls;
    let tls = settings.address.map(|address| {
        let tls = http::Tls::read(settings)?;
        anyhow::Ok((at(address, "metrics_tls.address")?, tls))
    });
    let listeners = http::Listeners {
        plain: plain.transpose()?,
        tls: tls.transpose()?,
    };
    let is_any = listeners.plain.is_some() || listeners.tls.is_some();
    Ok(is_any.then_some(listeners))
}

/// Returns what counts records by workload, as the configuration asks for it.
fn tally(config: &Config) -> Tally {
    let labels = config
        .metrics_labels
        .iter()
        .map(|text| WorkloadLabel::new(text))
        .collect();
    let [room, limit] = [config.metrics_series.0, config.port_scan_limit.0];
    Tally::new(labels, room as usize, limit as usize)
}

/// Reads the configuration again. One with mistakes changes nothing; documents are read all
/// the same.
fn read_again(given: &Given) -> Message {
    let error = match given.read() {
        Ok(config) => return Message::Reload(config.into()),
        Err(error) => error,
    };
    if let ConfigError::Mistakes(mistakes) = &error {
        for mistake in mistakes {
            tracing::error!("{mistake}");
        }
    }
    tracing::error!("{}; the one from before stays in force", chain(&error));
    Message::SourcesChanged(Instant::now())
}

/// Tells the service manager, if one has started the agent and waits for it; see sd_notify(3).
fn tell_service_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::error!(
            "cannot tell the service manager: {}; it may start the agent again",
            chain(&error)
        );
    }
}

/// Begins to follow the API server, where the configuration has one.
fn follow_api_server(
    config: &Config,
    messages: &Sender<Message>,
) -> Result<Option<Arc<Kubernetes>>> {
    if !config.kubernetes.enabled {
        return Ok(None);
    }
    let kubeconfig = Some(&config.kubernetes.kubeconfig).filter(|path| !path.is_empty());
    let settings = Settings::new(kubeconfig.map(Into::into), config.kubernetes.wait.0);
    let messages = messages.clone();
    // A thread that has ended is noticed elsewhere.
    let changed = move |last| _ = messages.send(Message::ObjectsChanged(last));
    let api = Kubernetes::start(settings, changed).context("cannot follow the API server")?;
    Ok(Some(Arc::new(api)))
}

/// Begins to follow the etcd, where the configuration has one.
fn follow_etcd(config: &Config, messages: &Sender<Message>) -> Result<Option<Arc<Etcd>>> {
    let Some(settings) = config.etcd_source() else {
        return Ok(None);
    };
    let messages = messages.clone();
    // A thread that has ended is noticed elsewhere.
    let changed = move |last| _ = messages.send(Message::ObjectsChanged(last));
    let etcd = Etcd::start(settings, changed).context("cannot follow etcd")?;
    Ok(Some(Arc::new(etcd)))
}

/// Recorder of the reconciling thread, and a receiver that hears of its end.
type Started = (Arc<Recorder>, oneshot::Receiver<()>);

/// Starts the thread that reconciles. The receiver hears when it ends.
async fn start_reconciling(start: Start, receiver: Receiver<Message>) -> Result<Started> {
    let (started, result) = oneshot::channel();
    let (ends, ended) = oneshot::channel();
    thread::Builder::new()
        .name("reconcile".to_owned())
        .spawn(move || {
            // Dropped when the thread ends, however that happens.
            let _ends: oneshot::Sender<()> = ends;
            match Reconciler::start(start) {
                Ok((reconciler, recorder)) => {
                    if started.send(Ok(recorder)).is_ok() {
                        reconciler.run(&receiver);
                    }
                }
                Err(error) => _ = started.send(Err(error)),
            }
        })
        .context("cannot start a thread")?;
    let recorder = result
        .await
        .map_err(|_| anyhow!("the reconciling thread has ended"))??;
    Ok((recorder, ended))
}
