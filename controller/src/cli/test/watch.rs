//! `--watch`: waits until a file below some paths changes.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// Time without another change after which files are read, in milliseconds: editors and `git`
/// write several files, each in several steps.
const QUIET_MS: u16 = 100;

/// Deepest folders that are watched; symbolic links may lead in circles.
const DEEPEST: usize = 64;

/// A watch over files and folders.
pub(super) struct Watch {
    inotify: Inotify,
}

impl Watch {
    /// Begins to watch, before anything is read: what changes meanwhile is noticed.
    ///
    /// # Errors
    /// When the kernel has no room for another watch.
    pub(super) fn over(paths: &[PathBuf]) -> Result<Self> {
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        let inotify = Inotify::init(flags).context("cannot watch files")?;
        let events = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        for folder in folders(paths) {
            match inotify.add_watch(&folder, events) {
                // It has gone meanwhile; the folder above tells when it is there again.
                Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot watch {}", folder.display()));
                }
            }
        }
        Ok(Self { inotify })
    }

    /// Returns when something has changed, and then nothing for a while.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub(super) fn wait(&self) -> Result<()> {
        self.poll(PollTimeout::NONE)?;
        while self.poll(QUIET_MS.into())? {}
        Ok(())
    }

    /// Waits for changes. Returns `false` if there was none in time.
    fn poll(&self, timeout: PollTimeout) -> Result<bool> {
        let mut descriptors = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut descriptors, timeout).context("cannot wait for changes")?;
        while self
            .inotify
            .read_events()
            .is_ok_and(|events| !events.is_empty())
        {}
        Ok(ready > 0)
    }
}

/// All folders in which a change may be one of these paths: those around files, and those
/// below folders.
fn folders(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    for path in paths {
        below(path, DEEPEST, &mut all);
    }
    for path in paths {
        // A file that is replaced has another inode, and so the folder around it is watched.
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        all.insert(above.unwrap_or(Path::new(".")).to_owned());
    }
    all
}

fn below(folder: &Path, depth: usize, all: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    if depth == 0 || !all.insert(folder.to_owned()) {
        return;
    }
    for entry in entries.flatten() {
        let is_git = entry.file_name() == ".git";
        if !is_git && entry.path().is_dir() {
            below(&entry.path(), depth - 1, all);
        }
    }
}
