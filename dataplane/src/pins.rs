//! Pins of maps, programs and links, by which those outlive the agent.
//!
//! ```text
//! ROOT/                            mode 0700, of the caller's user
//!   maps-<state>-<rest>/           one set of maps, each under its name
//!     programs-<digest>/           the programs bound to them, each under its symbol
//!   links/<ifindex>-<hook>         tcx links
//!   making/                        a set that is not whole yet
//! ```
//!
//! A set's name says what the maps look like: first those that flows rest on, which a
//! set with other `rest` takes over, then the others. That of the programs' directory says what
//! they were loaded from and with: what is found under the right name can be used.
//! Both are made under another name and renamed when whole, so that an agent that
//! dies in between leaves nothing that could be taken for them.
//!
//! The directory belongs to one agent at a time: whoever calls
//! [`Kernel::open`](crate::Kernel::open) holds a [`PinsLock`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use cofferdam_verdict::capacity::map;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::geteuid,
};

use crate::{
    digest::Digest,
    kernel::KernelError,
    maps::{MapSet, Shape},
    programs::{Program, Programs},
    sys::{self, tcx},
};

const MAPS: &str = "maps-";
const PROGRAMS: &str = "programs-";
const DAMAGED: &str = "damaged-";
const MAKING: &str = "making";
const LINKS: &str = "links";
/// End of the name of a link that is about to take another's place.
const NEXT: &str = "-next";

/// Finding of [`Kernel::open`](crate::Kernel::open).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// Nothing: maps and programs are new and empty.
    Nothing,
    /// The maps that flows rest on, with all that is in them. Table, counters and events
    /// are new and empty, because their limits or their version are others. What is
    /// attached judges by its old table, until
    /// [`Kernel::enforce_on`](crate::Kernel::enforce_on) has replaced it.
    State,
    /// Maps that cannot be used, of other limits or another version: the new ones
    /// are empty. What is attached judges by the old ones, until
    /// [`Kernel::enforce_on`](crate::Kernel::enforce_on) has replaced it.
    Incompatible,
    /// Maps with all that is in them. The programs are new: of another version, or
    /// with other settings. What is attached judges by the same maps, and is
    /// replaced as above.
    Maps,
    /// Maps and programs.
    Everything,
}

/// The pins of one kernel side.
#[derive(Debug)]
pub(crate) struct Pins {
    root: PathBuf,
    set: PathBuf,
    programs: PathBuf,
    pub(crate) adopted: Adopted,
    /// The links of this agent's interfaces. Held beside their pins: whoever
    /// unmounts the file system takes nothing off while the agent lives.
    pub(crate) links: BTreeMap<(u32, &'static str), OwnedFd>,
    /// The same programs again, for repairing the order of a hook.
    pub(crate) twins: BTreeMap<&'static str, Programs>,
    /// `true` if something pinned serves nothing but older attachments.
    pub(crate) leftovers: bool,
    /// Interfaces with such attachments; none when nobody has looked yet.
    pub(crate) behind: Option<BTreeSet<u32>>,
}

/// A directory for pins that is the holder's alone for as long as this value lives, or until
/// somebody unmounts the file system.
#[derive(Debug)]
pub struct PinsLock {
    _lock: Flock<fs::File>,
}

impl PinsLock {
    /// Takes a directory on a BPF file system, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// Fails if another process has it, or it cannot be made.
    pub fn take(root: &Path) -> Result<Self, KernelError> {
        require_bpffs(root)?;
        make_directory(root)?;
        let directory = fs::File::open(root).map_err(pinning("open", root))?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => Err(KernelError::PinsInUse {
                root: root.to_owned(),
            }),
            Err((_, errno)) => Err(pinning("lock", root)(errno.into())),
        }
    }
}

fn pinning<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> KernelError + use<'a> {
    move |source| KernelError::Pins {
        action,
        path: path.to_owned(),
        source,
    }
}

impl Pins {
    /// Makes the root ready: a directory of ours on a BPF file system, that nobody
    /// else may enter and where nothing is half made.
    pub(crate) fn prepare(root: &Path, shape: Shape) -> Result<Self, KernelError> {
        require_bpffs(root)?;
        make_directory(root)?;
        let Shape { state, rest } = shape;
        let set = root.join(format!("{MAPS}{state}-{rest}"));
        let pins = Self {
            programs: set.clone(),
            set,
            root: root.to_owned(),
            adopted: Adopted::Nothing,
            links: BTreeMap::new(),
            twins: BTreeMap::new(),
            leftovers: false,
            behind: None,
        };
        pins.remove_what_others_made()?;
        for half_made in [pins.root.join(MAKING), pins.set.join(MAKING)] {
            remove(&half_made)?;
        }
        pins.remove_dead_links()?;
        Ok(pins)
    }

    /// Says what the programs are loaded from and with.
    pub(crate) fn name_programs(&mut self, digest: Digest) {
        self.programs = self.set.join(format!("{PROGRAMS}{digest}"));
    }

    /// The directory of the maps.
    pub(crate) fn set(&self) -> &Path {
        &self.set
    }

    /// The directory of the programs.
    pub(crate) fn programs(&self) -> &Path {
        &self.programs
    }

    /// The directories of other sets whose maps for flows have this shape.
    pub(crate) fn sets_of_state(&self, shape: Shape) -> Result<Vec<PathBuf>, KernelError> {
        let prefix = format!("{MAPS}{}-", shape.state);
        let sets = list(&self.root)?
            .into_iter()
            .filter(|(name, path)| name.starts_with(&prefix) && *path != self.set);
        Ok(sets.map(|(_, path)| path).collect())
    }

    /// Renames a damaged set of this shape, if there is one: it is another set from now on.
    pub(crate) fn put_damaged_aside(&self) -> Result<(), KernelError> {
        if self.set.exists() {
            let aside = (0..)
                .map(|number| self.root.join(format!("{DAMAGED}{number}")))
                .find(|path| !path.exists())
                .expect("there are fewer sets than numbers");
            fs::rename(&self.set, &aside).map_err(pinning("put aside", &self.set))?;
        }
        Ok(())
    }

    /// Returns `true` if other sets of maps are there.
    pub(crate) fn has_others(&self) -> Result<bool, KernelError> {
        Ok(!self.leftover_paths()?.is_empty())
    }

    /// Pins a whole set, maps and programs, in the place of what may be there.
    pub(crate) fn pin_set(&self, maps: &MapSet, programs: &Programs) -> Result<(), KernelError> {
        let making = self.root.join(MAKING);
        remove(&making)?;
        make_directory(&making)?;
        maps.pin(&making)
            .map_err(pinning("pin the maps in", &making))?;
        let name = self.programs.file_name().expect("made with a name");
        let inside = making.join(name);
        make_directory(&inside)?;
        programs.pin(&inside)?;
        remove(&self.set)?;
        fs::rename(&making, &self.set).map_err(pinning("rename to its place", &making))
    }

    /// Pins programs beside the maps they are bound to, in the place of what may
    /// be there.
    pub(crate) fn pin_programs(&self, programs: &Programs) -> Result<(), KernelError> {
        let making = self.set.join(MAKING);
        make_directory(&making)?;
        programs.pin(&making)?;
        remove(&self.programs)?;
        fs::rename(&making, &self.programs).map_err(pinning("rename to its place", &making))
    }

    /// Returns the pins made for attachments that are not of this set and these programs.
    fn leftover_paths(&self) -> Result<Vec<PathBuf>, KernelError> {
        let sets = list(&self.root)?.into_iter().filter(|(name, path)| {
            (name.starts_with(MAPS) || name.starts_with(DAMAGED)) && *path != self.set
        });
        let programs = list(&self.set)?
            .into_iter()
            .filter(|(name, path)| name.starts_with(PROGRAMS) && *path != self.programs);
        Ok(sets.chain(programs).map(|(_, path)| path).collect())
    }

    /// Looks for what older attachments need.
    pub(crate) fn find_leftovers(&mut self) -> Result<(), KernelError> {
        self.leftovers = !self.leftover_paths()?.is_empty();
        self.behind = None;
        Ok(())
    }

    /// Unpins what only older attachments needed: there are none any more.
    pub(crate) fn remove_leftovers(&mut self) -> Result<(), KernelError> {
        for path in self.leftover_paths()? {
            remove(&path)?;
        }
        self.leftovers = false;
        self.behind = None;
        Ok(())
    }

    /// Returns `true` if the directories of the set in use and of the links are still there:
    /// three calls.
    pub(crate) fn seem_to_stand(&self) -> io::Result<bool> {
        let links = self.links.is_empty() || is_there(&self.root.join(LINKS))?;
        Ok(links && is_there(&self.set.join(map::TABLE))? && is_there(&self.programs)?)
    }

    /// Returns `true` if the set in use is still the pinned one. An error says that this process
    /// cannot look, and nothing about the pins.
    pub(crate) fn stand(&self, maps: &MapSet) -> io::Result<bool> {
        for name in maps.names() {
            let used = sys::map_info(maps.get(name))?;
            let pinned =
                sys::pinned(&self.set.join(name)).and_then(|pinned| sys::map_info(pinned.as_fd()));
            match pinned {
                Ok(pinned) if pinned.id == used.id => {}
                Err(error) if is_own_lack(&error) => return Err(error),
                Ok(_) | Err(_) => return Ok(false),
            }
        }
        let links = self
            .links
            .keys()
            .map(|(ifindex, hook)| self.link_path(*ifindex, hook));
        let programs = Program::ALWAYS
            .iter()
            .map(|program| self.programs.join(program.name));
        for path in links.chain(programs) {
            if !is_there(&path)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the root ready again, after it was lost.
    pub(crate) fn restore(&self, maps: &MapSet, programs: &Programs) -> Result<(), KernelError> {
        require_bpffs(&self.root)?;
        make_directory(&self.root)?;
        self.pin_set(maps, programs)?;
        for ((ifindex, hook), link) in &self.links {
            self.pin_link(*ifindex, hook, link)?;
        }
        Ok(())
    }

    fn link_path(&self, ifindex: u32, hook: &str) -> PathBuf {
        self.root.join(LINKS).join(format!("{ifindex}-{hook}"))
    }

    /// The link that is pinned for a hook of an interface. It may lead nowhere:
    /// interfaces' numbers are used again.
    pub(crate) fn pinned_link(&self, ifindex: u32, hook: &str) -> Option<OwnedFd> {
        sys::pinned(&self.link_path(ifindex, hook)).ok()
    }

    /// Pins a link, in the place of what may be there.
    pub(crate) fn pin_link(
        &self,
        ifindex: u32,
        hook: &str,
        link: &OwnedFd,
    ) -> Result<(), KernelError> {
        let path = self.link_path(ifindex, hook);
        let id = |link: &OwnedFd| tcx::link_info(link.as_fd()).ok().flatten();
        if let Ok(pinned) = sys::pinned(&path)
            && id(&pinned) == id(link)
        {
            return Ok(());
        }
        make_directory(&self.root.join(LINKS))?;
        let next = self.link_path(ifindex, &format!("{hook}{NEXT}"));
        remove(&next)?;
        sys::pin(link.as_fd(), &next).map_err(pinning("pin a link as", &next))?;
        fs::rename(&next, &path).map_err(pinning("rename to its place", &next))
    }

    /// Unpins the link of a hook, if there is one.
    pub(crate) fn unpin_link(&self, ifindex: u32, hook: &str) -> Result<(), KernelError> {
        remove(&self.link_path(ifindex, hook))
    }

    /// The interfaces that links are pinned for.
    pub(crate) fn linked_interfaces(&self) -> Result<BTreeSet<u32>, KernelError> {
        let names = list(&self.root.join(LINKS))?.into_iter();
        Ok(names
            .filter_map(|(name, _)| name.split_once('-')?.0.parse().ok())
            .collect())
    }

    /// The interfaces that links are pinned for at one place.
    pub(crate) fn linked_at(&self, hook: &str) -> Result<BTreeSet<u32>, KernelError> {
        let names = list(&self.root.join(LINKS))?.into_iter();
        Ok(names
            .filter_map(|(name, _)| {
                let (ifindex, place) = name.split_once('-')?;
                (place == hook).then(|| ifindex.parse().ok())?
            })
            .collect())
    }

    /// Unpins links whose interface is gone, and those that were about to take
    /// another's place when the agent died.
    fn remove_dead_links(&self) -> Result<(), KernelError> {
        for (name, path) in list(&self.root.join(LINKS))? {
            let info = sys::pinned(&path).and_then(|link| tcx::link_info(link.as_fd()));
            let lives = matches!(info, Ok(Some(info)) if info.ifindex != 0);
            if !lives || name.ends_with(NEXT) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// A BPF file system is open to everyone when it is mounted without a mode:
    /// what another user has put into the root is none of ours.
    fn remove_what_others_made(&self) -> Result<(), KernelError> {
        for (_, path) in list(&self.root)? {
            let about = fs::symlink_metadata(&path).map_err(pinning("look at", &path))?;
            if about.uid() != geteuid().as_raw() {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Unpins everything, and removes the root unless something else is in it.
    pub(crate) fn remove_all(self) -> Result<(), KernelError> {
        for (name, path) in list(&self.root)? {
            let ours = [MAPS, DAMAGED, MAKING, LINKS];
            if ours.iter().any(|ours| name.starts_with(ours)) {
                remove(&path)?;
            }
        }
        // It may be the file system's own root, or hold what others put there.
        let _stays = fs::remove_dir(&self.root);
        Ok(())
    }
}

/// Returns `true` if a call failed for want of something that this process or the machine has
/// too little of, or may not do any more: that says nothing of what was asked about.
fn is_own_lack(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code.is_some_and(|code| {
        matches!(
            code,
            libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN | libc::EINTR | libc::EPERM
        )
    })
}

fn is_there(path: &Path) -> io::Result<bool> {
    match path.try_exists() {
        Err(error) if is_own_lack(&error) => Err(error),
        there => Ok(there.unwrap_or(false)),
    }
}

/// The nearest directory that exists is on a BPF file system.
fn require_bpffs(root: &Path) -> Result<(), KernelError> {
    let there = root
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let kind = statfs(there).map_err(|errno| pinning("look at", there)(errno.into()))?;
    if kind.filesystem_type() == BPF_FS_MAGIC {
        Ok(())
    } else {
        Err(KernelError::NotBpffs {
            root: root.to_owned(),
        })
    }
}

/// Makes a directory that nobody else may enter; one that exists must be ours.
fn make_directory(path: &Path) -> Result<(), KernelError> {
    const PRIVATE: u32 = 0o700;
    let mut builder = fs::DirBuilder::new();
    builder.mode(PRIVATE).recursive(true);
    builder.create(path).map_err(pinning("make", path))?;
    // Not through a symbolic link: others may have been here first.
    let about = fs::symlink_metadata(path).map_err(pinning("look at", path))?;
    if !about.is_dir() || about.uid() != geteuid().as_raw() {
        return Err(KernelError::PinsOfOthers {
            root: path.to_owned(),
            uid: about.uid(),
        });
    }
    if about.mode() & 0o777 != PRIVATE {
        let only_ours = fs::Permissions::from_mode(PRIVATE);
        fs::set_permissions(path, only_ours).map_err(pinning("set the mode of", path))?;
    }
    Ok(())
}

/// Names and paths in a directory; none when there is no directory.
fn list(directory: &Path) -> Result<Vec<(String, PathBuf)>, KernelError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(pinning("list", directory))?,
    };
    let named = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        Ok((
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        ))
    };
    entries
        .map(named)
        .collect::<io::Result<_>>()
        .map_err(pinning("list", directory))
}

/// Removes a pin, or a directory with all that is in it; none is fine.
fn remove(path: &Path) -> Result<(), KernelError> {
    let result = match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(pinning("remove", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_descriptors_or_memory_is_no_sign_of_lost_pins() {
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EPERM] {
            assert!(is_own_lack(&io::Error::from_raw_os_error(code)), "{code}");
        }
        for code in [libc::ENOENT, libc::ENOTDIR, libc::EINVAL, libc::EACCES] {
            assert!(!is_own_lack(&io::Error::from_raw_os_error(code)), "{code}");
        }
    }
}
