//! Premises: the things that the demonstration needs of the machine, and their return.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{self, Child, Command},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

use crate::containers::Containers;

/// The wish that this process should end.
pub(crate) struct Interruption {
    signals: SignalFd,
}

impl Interruption {
    /// From now on such signals wait to be asked for. Programs that we start do not
    /// inherit that.
    pub(crate) fn expect() -> Result<Self> {
        let wanted = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
        let set: SigSet = wanted.into_iter().collect();
        set.thread_block().context("cannot hold back signals")?;
        let signals =
            SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).context("cannot wait for signals")?;
        Ok(Self { signals })
    }

    /// Waits for a signal, or until the other end of the pipe is closed; whether it
    /// was a signal.
    pub(crate) fn or_end_of(&self, pipe: &io::PipeReader) -> Result<bool> {
        let mut waited = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(pipe.as_fd(), PollFlags::POLLIN),
        ];
        loop {
            match poll(&mut waited, PollTimeout::NONE) {
                Ok(_) => return Ok(waited[0].any().unwrap_or(false)),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("cannot wait for signals"),
            }
        }
    }
}

/// A folder, a BPF file system in it that only we and our children see, and the
/// programs and containers that run for us.
pub(crate) struct Premises {
    folder: PathBuf,
    /// `None` once they are given back: nothing is started any more.
    running: Mutex<Option<Vec<Child>>>,
    /// The runtime that has workloads in containers, if one does.
    containers: Mutex<Tenancy>,
    /// Folders that were made as mount points, outside of ours.
    made: Mutex<Vec<&'static Path>>,
}

/// Folders in which container runtimes keep things, whatever they are told.
const BUILT_IN: [&str; 4] = ["/run/containerd", "/run/netns", "/run/runc", "/var/lib/cni"];

/// State of a container runtime.
enum Tenancy {
    /// Its containers run, unless none was started yet.
    Open(Option<Containers>),
    /// Its containers are removed: none is started any more.
    Closed,
}

/// Removes the containers when it is dropped, on the thread that started their runtime: the
/// runtime ends with that thread.
pub(crate) struct Tenants<'p> {
    premises: &'p Premises,
}

impl Tenants<'_> {
    /// Has the runtime do something.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Containers) -> Result<T>) -> Result<T> {
        match &mut *self.premises.tenancy() {
            Tenancy::Open(Some(containers)) => work(containers),
            _ => bail!("the demonstration is over"),
        }
    }
}

impl Drop for Tenants<'_> {
    fn drop(&mut self) {
        self.premises.evict();
    }
}

impl Premises {
    /// Makes them. The calling thread, and what it starts, is in a mount namespace of
    /// its own afterwards.
    pub(crate) fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("cofferdam-demo-{}", process::id()));
        let premises = Self {
            running: Mutex::new(Some(Vec::new())),
            containers: Mutex::new(Tenancy::Open(None)),
            made: Mutex::new(Vec::new()),
            folder,
        };
        for folder in [premises.run_dir(), premises.bpffs(), premises.leases()] {
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        unshare(CloneFlags::CLONE_NEWNS)
            .context("cannot make a mount namespace; the demonstration needs root")?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .context("cannot keep mounts to ourselves")?;
        mount_new("bpf", &premises.bpffs())?;
        Ok(premises)
    }

    /// Gives container runtimes empty folders where they keep things whatever they are
    /// told, which only we and our children see.
    fn cover_built_in(&self) -> Result<()> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        for folder in BUILT_IN.map(Path::new) {
            if !folder.exists() {
                fs::create_dir_all(folder)
                    .with_context(|| format!("cannot make the folder {}", folder.display()))?;
                made.push(folder);
            }
            mount_new("tmpfs", folder)?;
        }
        Ok(())
    }

    /// Returns the folder in which everything lies.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The agent's control socket.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// The BPF file system.
    pub(crate) fn bpffs(&self) -> PathBuf {
        self.folder.join("bpf")
    }

    /// Returns the folder in which `host-local` keeps the addresses that it gave out.
    pub(crate) fn leases(&self) -> PathBuf {
        self.folder.join("leases")
    }

    /// Starts a program that is to run until it is told not to; its process id.
    pub(crate) fn start(&self, command: &mut Command) -> Result<u32> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = running.as_mut() else {
            bail!("the demonstration is over");
        };
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let id = child.id();
        running.push(child);
        Ok(id)
    }

    /// Returns `true` if a program that was started still runs.
    pub(crate) fn runs(&self, id: u32) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut started = running.iter_mut().flatten();
        let child = started.find(|child| child.id() == id);
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Kills a program, so that it can do nothing about it; returns when it is gone.
    pub(crate) fn kill(&self, id: u32) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.as_mut()
            && let Some(at) = running.iter().position(|child| child.id() == id)
        {
            end(running.remove(at));
        }
    }

    /// Starts a container runtime.
    pub(crate) fn house(&self, start: impl FnOnce() -> Result<Containers>) -> Result<Tenants<'_>> {
        let mut tenancy = self.tenancy();
        if let Tenancy::Closed = *tenancy {
            bail!("the demonstration is over");
        }
        self.cover_built_in()?;
        *tenancy = Tenancy::Open(Some(start()?));
        Ok(Tenants { premises: self })
    }

    fn tenancy(&self) -> MutexGuard<'_, Tenancy> {
        let tenancy = self.containers.lock();
        tenancy.unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes all containers. Waits for the one that is being started.
    fn evict(&self) {
        *self.tenancy() = Tenancy::Closed;
    }

    /// Gives everything back.
    pub(crate) fn clear(&self) {
        // First: the agent is told of their end.
        self.evict();
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for child in running.take().into_iter().flatten() {
            end(child);
        }
        // Mounts go with their namespace, when this process ends; only the places where
        // they are mounted are in the way until then.
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        for folder in made.iter() {
            let _ = umount2(*folder, MntFlags::MNT_DETACH);
            // It stays if another program has put something into it meanwhile.
            let _ = fs::remove_dir(folder);
        }
        let detached = umount2(&self.bpffs(), MntFlags::MNT_DETACH);
        if detached.is_ok() || !self.bpffs().exists() {
            // What is left is of no use to anybody, and of no harm.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Mounts a new file system of a kind.
fn mount_new(kind: &str, place: &Path) -> Result<()> {
    let mode = Some("mode=0700");
    mount(Some(kind), place, Some(kind), MsFlags::empty(), mode)
        .with_context(|| format!("cannot mount {kind} on {}", place.display()))
}

fn end(mut child: Child) {
    // Both fail only for a process that has ended and was waited for.
    let _ = child.kill();
    let _ = child.wait();
}
