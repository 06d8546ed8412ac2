//! `cofferdam install --watch`: keeps the entry in place until it is told to end.

use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{InstallArgs, install_once, uninstall};

/// Time between two looks although nothing has been heard of.
const LOOK_AROUND: Duration = Duration::from_secs(10);
/// Longest time for questions to the API server: a pod is killed half a minute after it is
/// told to end.
const ASKING: Duration = Duration::from_secs(10);
/// Time from one question that had no answer to the next.
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(1);

/// Installs whenever plugin or entry are gone, and returns when a signal says to end.
pub(super) fn watch(args: &InstallArgs, content: &[u8]) -> Result<bool> {
    let places = &args.places;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
        .context("cannot watch files")?;
    // The first process of a container is ended by no signal that it does not ask for.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    ends.thread_block().context("cannot wait for signals")?;
    let signals = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("cannot wait for signals")?;
    loop {
        // A folder that comes later is found at the next look.
        let events = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE;
        _ = inotify.add_watch(&places.cni_conf_dir, events);
        if let Err(error) = install_once(places, content) {
            eprintln!("cofferdam: {error:#}; it is tried again");
        }
        let timeout = PollTimeout::try_from(LOOK_AROUND).unwrap_or(PollTimeout::MAX);
        let mut descriptors = [
            PollFd::new(inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for files"),
        }
        if matches!(signals.read_signal(), Ok(Some(_))) {
            return end(args);
        }
        // What has happened is looked at as a whole.
        _ = inotify.read_events();
    }
}

/// Uninstalls if that is asked for and the DaemonSet has been removed. While nobody knows, the
/// entry stays: pods that cannot be protected do not start.
fn end(args: &InstallArgs) -> Result<bool> {
    let Some(set) = &args.uninstall_with else {
        return Ok(true);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot ask the API server")?;
    let is_removed = runtime.block_on(async {
        let mut why = String::from("it gives no answer");
        let asking = async {
            loop {
                match set.is_removed(args.kubeconfig.as_deref()).await {
                    Ok(is_removed) => return is_removed,
                    Err(error) => why = error.to_string(),
                }
                tokio::time::sleep(BETWEEN_QUESTIONS).await;
            }
        };
        let answer = tokio::time::timeout(ASKING, asking).await;
        answer.map_err(|_| why)
    });
    match is_removed {
        Ok(true) => uninstall(&args.places),
        Ok(false) => Ok(true),
        Err(why) => {
            eprintln!(
                "cofferdam: the plugin stays installed, because the API server does not say if its DaemonSet has been removed: {why}"
            );
            Ok(false)
        }
    }
}
