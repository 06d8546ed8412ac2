//! The files that say what is to be in force, and what happens to them.
//!
//! Everything is looked at again whenever something may have changed. A file is read
//! if its metadata says that it may be another, and parsed if its bytes are others.
//! Directories are watched before they are looked into, so that nothing is missed in
//! between.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cofferdam_documents::{ReadError, Source, SourceFile, find};
use cofferdam_syntax::diagnostic::{Code, Diagnostic, Place, Severity, chain};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

/// Time without a change after which files are read.
const QUIET: Duration = Duration::from_millis(20);
/// Longest time that a process may go on writing before files are read all the same.
const PATIENCE: Duration = Duration::from_secs(1);
/// Least age of a file's last change, when the file is read, for its metadata to show the
/// next change: file systems count time in steps, the coarsest of two seconds.
const STEP: Duration = Duration::from_secs(2);

/// The configured paths, and what was read from them.
#[derive(Debug)]
pub struct Sources {
    paths: Vec<PathBuf>,
    known: HashMap<PathBuf, Known>,
    watches: Option<Arc<Watches>>,
}

/// A file as it was last read.
#[derive(Debug)]
struct Known {
    source: Source,
    /// The file's, while its bytes are what was read.
    stamp: Option<Stamp>,
}

/// Metadata that is another after each change of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    /// Time of the last change of content or metadata, in seconds and nanoseconds; no
    /// system call can set it.
    changed: (i64, i64),
}

impl Known {
    /// Returns `true` if a file with this stamp is sure to have the same bytes.
    fn is_still(&self, stamp: Option<Stamp>) -> bool {
        stamp.is_some() && stamp == self.stamp
    }
}

impl Stamp {
    /// A file's, asked for before it is read at `now` or later; none when the next
    /// change might leave the same one.
    fn of(metadata: &Metadata, now: SystemTime) -> Option<Self> {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let seconds = Duration::from_secs(changed.0.try_into().ok()?);
        let left_alone = now.duration_since(UNIX_EPOCH + seconds).ok()?;
        (left_alone > STEP).then(|| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed,
        })
    }
}

impl Sources {
    /// Nothing has been read yet. Without `watches` nobody learns of changes.
    #[must_use]
    pub fn new(paths: &[PathBuf], watches: Option<Arc<Watches>>) -> Self {
        Self {
            paths: paths.to_vec(),
            known: HashMap::new(),
            watches,
        }
    }

    /// Lets the next look read these paths in place of those from before, which stay watched:
    /// a change there costs a look.
    pub fn set_paths(&mut self, paths: &[PathBuf]) {
        self.paths = paths.to_vec();
    }

    /// Lets the next look read every file, whatever its metadata says: what is written
    /// to mapped memory shows there late.
    pub fn distrust_metadata(&mut self) {
        for known in self.known.values_mut() {
            known.stamp = None;
        }
    }

    /// Looks at everything: the files, and findings about what cannot be read.
    pub fn read(&mut self) -> (Vec<Source>, Vec<Diagnostic>) {
        if let Some(watches) = &self.watches {
            for path in &self.paths {
                watches.add_given(path);
            }
        }
        // Before any metadata is asked for.
        let now = SystemTime::now();
        let found = find(&self.paths, |directory| {
            if let Some(watches) = &self.watches {
                watches.add(directory, None);
            }
        });
        let mut errors = found.errors;
        let mut sources = Vec::with_capacity(found.files.len());
        let mut known = HashMap::with_capacity(found.files.len());
        for (path, metadata) in found.files {
            let stamp = Stamp::of(&metadata, now);
            let before = self.known.remove(&path);
            let source = match before {
                Some(before) if before.is_still(stamp) => before.source,
                before => match SourceFile::read(path.clone()) {
                    Ok(SourceFile { bytes, .. }) => match before {
                        Some(Known { source, .. }) if *source.text == *bytes => source,
                        _ => Source::new(path.to_string_lossy().into(), bytes.into()),
                    },
                    Err(error) => {
                        errors.push(error);
                        continue;
                    }
                },
            };
            sources.push(source.clone());
            known.insert(path, Known { source, stamp });
        }
        self.known = known;
        errors.retain(|error| self.is_given(error.path()) || is_there(error.path()));
        let unread = errors.iter().map(unread).collect();
        (sources, unread)
    }

    fn is_given(&self, path: &Path) -> bool {
        self.paths.iter().any(|given| given == path)
    }
}

/// Returns `true` if a file of that name exists. A file that was removed while its
/// directory was being read is no mistake.
fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn unread(error: &ReadError) -> Diagnostic {
    Diagnostic {
        place: Place {
            file: error.path().to_string_lossy().into(),
            line: 1,
            column: 1,
        },
        code: Code::File,
        severity: Severity::Error,
        message: chain(error),
        hint: Some("what it said before stays in force".to_owned()),
    }
}

/// Directories and files that the kernel tells about.
#[derive(Debug)]
pub struct Watches {
    inotify: Inotify,
    /// For directories that only lead to given paths, the names of interest.
    wanted: Mutex<HashMap<WatchDescriptor, Option<HashSet<OsString>>>>,
}

/// Files that somebody is writing: a directory's watch, and the name there.
type Writing = HashSet<(WatchDescriptor, Option<OsString>)>;

impl Watches {
    /// Begins with none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new() -> io::Result<Self> {
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        Ok(Self {
            inotify: Inotify::init(flags)?,
            wanted: Mutex::default(),
        })
    }

    fn add(&self, path: &Path, name: Option<&OsStr>) {
        let interest = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        match self.inotify.add_watch(path, interest) {
            Ok(descriptor) => {
                let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
                let names = wanted
                    .entry(descriptor)
                    .or_insert_with(|| Some(HashSet::new()));
                match (name, names) {
                    (Some(name), Some(names)) => _ = names.insert(name.to_owned()),
                    (None, names) => *names = None,
                    (Some(_), None) => {}
                }
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            // The slow rescan finds changes all the same.
            Err(error) => tracing::warn!(
                path = %path.display(),
                "cannot watch for changes: {}; they are found within half a minute",
                chain(&error)
            ),
        }
    }

    /// Watches a given path, and whatever is there of the way to it, for it may be
    /// made or replaced.
    fn add_given(&self, path: &Path) {
        if path.is_file() {
            self.add(path, None);
        }
        let mut name = path.file_name();
        let mut parent = path.parent();
        while let Some(directory) = parent {
            let directory = if directory.as_os_str().is_empty() {
                Path::new(".")
            } else {
                directory
            };
            if directory.is_dir() {
                self.add(directory, name);
                return;
            }
            name = directory.file_name();
            parent = directory.parent();
        }
    }

    /// Returns `true` if an event is about a path that is read.
    fn is_wanted(&self, event: &InotifyEvent) -> bool {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            wanted.remove(&event.wd);
            return true;
        }
        match wanted.get(&event.wd) {
            Some(Some(names)) => event.name.as_ref().is_none_or(|name| names.contains(name)),
            Some(None) | None => true,
        }
    }
}

/// Calls `changed` when files have changed and are left alone again, with a time after
/// the last change that it heard of, until it says that nobody listens any more.
///
/// # Errors
/// When the kernel does not tell any more.
pub fn follow(watches: &Watches, mut changed: impl FnMut(Instant) -> bool) -> io::Result<()> {
    let mut writing = HashSet::new();
    loop {
        if !take(watches, None, &mut writing)? {
            continue;
        }
        let mut heard = Instant::now();
        let last = heard + PATIENCE;
        loop {
            let quiet = if writing.is_empty() {
                (Instant::now() + QUIET).min(last)
            } else {
                last
            };
            if !wait(watches, Some(quiet))? {
                break;
            }
            take(watches, Some(quiet), &mut writing)?;
            heard = Instant::now();
        }
        writing.clear();
        if !changed(heard) {
            return Ok(());
        }
    }
}

/// Waits for events; `false` when the time is over.
fn wait(watches: &Watches, until: Option<Instant>) -> io::Result<bool> {
    loop {
        let timeout = match until {
            None => PollTimeout::NONE,
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut descriptors = [PollFd::new(watches.inotify.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, timeout) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for events and notes who is in the middle of writing. Whether any was
/// about something that is read.
fn take(watches: &Watches, until: Option<Instant>, writing: &mut Writing) -> io::Result<bool> {
    if !wait(watches, until)? {
        return Ok(false);
    }
    let events = match watches.inotify.read_events() {
        Ok(events) => events,
        Err(Errno::EAGAIN) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let mut any = false;
    for event in events {
        if !watches.is_wanted(&event) {
            continue;
        }
        any = true;
        let mask = event.mask;
        let begins = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE;
        let ends = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_IGNORED;
        let file = (event.wd, event.name);
        if mask.intersects(ends) {
            writing.remove(&file);
        } else if mask.intersects(begins) && !mask.contains(AddWatchFlags::IN_ISDIR) {
            writing.insert(file);
        }
    }
    Ok(any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    #[test]
    fn a_file_with_the_same_bytes_is_not_parsed_again() {
        let folder = tempdir().unwrap();
        let directory = folder.path();
        fs::write(directory.join("a.yaml"), "kind: x").unwrap();
        let mut sources = Sources::new(&[directory.to_owned()], None);
        let (first, unread) = sources.read();
        assert!(unread.is_empty());
        let (again, _) = sources.read();
        assert!(Arc::ptr_eq(&first[0].parsed, &again[0].parsed));
        fs::write(directory.join("a.yaml"), "kind: y").unwrap();
        let (changed, _) = sources.read();
        assert!(!Arc::ptr_eq(&first[0].parsed, &changed[0].parsed));
    }

    #[test]
    fn a_change_that_leaves_size_and_times_as_they_were_is_read() {
        let folder = tempdir().unwrap();
        let directory = folder.path();
        let path = directory.join("a.yaml");
        let long_ago = SystemTime::now() - Duration::from_secs(3_600);
        let write = |text: &str| {
            fs::write(&path, text).unwrap();
            let file = fs::File::options().append(true).open(&path).unwrap();
            file.set_modified(long_ago).unwrap();
        };
        let mut sources = Sources::new(&[directory.to_owned()], None);
        for text in ["kind: x", "kind: y", "kind: z"] {
            write(text);
            let (read, _) = sources.read();
            assert_eq!(&*read[0].text, text.as_bytes());
        }
    }

    #[test]
    fn a_file_that_was_left_alone_is_known_by_its_metadata() {
        let folder = tempdir().unwrap();
        let directory = folder.path();
        let path = directory.join("a.yaml");
        fs::write(&path, "kind: x").unwrap();
        let now = SystemTime::now();
        let stamp_at = |now| Stamp::of(&fs::metadata(&path).unwrap(), now);
        assert_eq!(stamp_at(now), None, "it may change within the same step");
        assert_eq!(stamp_at(now - STEP), None, "the clock was put back");
        let later = now + 2 * STEP;
        let stamp = stamp_at(later);
        assert!(stamp.is_some());
        assert_eq!(stamp, stamp_at(later));
        // Until the clock of the file system has gone on.
        let deadline = Instant::now() + Duration::from_secs(5);
        while stamp_at(later) == stamp {
            assert!(
                Instant::now() < deadline,
                "a change leaves the stamp as it was"
            );
            fs::write(&path, "kind: x").unwrap();
        }
        let stamp = stamp_at(later);
        fs::write(directory.join("b.yaml"), "kind: x").unwrap();
        fs::rename(directory.join("b.yaml"), &path).unwrap();
        assert_ne!(stamp, stamp_at(later));
        let known = Known {
            source: Source::new("a.yaml".into(), Arc::from(&b"kind: x"[..])),
            stamp,
        };
        assert!(known.is_still(stamp) && !known.is_still(stamp_at(later)));
        let mut sources = Sources::new(std::slice::from_ref(&path), None);
        sources.known.insert(path.clone(), Known { stamp, ..known });
        sources.distrust_metadata();
        assert!(!sources.known[&path].is_still(stamp));
    }

    #[test]
    fn a_given_path_that_is_missing_is_a_finding_and_a_link_to_nowhere_too() {
        let folder = tempdir().unwrap();
        let directory = folder.path();
        std::os::unix::fs::symlink("nowhere", directory.join("a.yaml")).unwrap();
        let missing = directory.join("missing");
        let mut sources = Sources::new(&[directory.to_owned(), missing.clone()], None);
        let (files, unread) = sources.read();
        assert!(files.is_empty());
        let mut places: Vec<String> = unread.iter().map(|one| one.place.to_string()).collect();
        places.sort();
        assert_eq!(
            places,
            [
                format!("{}:1:1", directory.join("a.yaml").display()),
                format!("{}:1:1", missing.display()),
            ]
        );
    }

    /// Returns `true` if [`follow`] reports the change within 500 ms.
    fn follows(directory: &Path, paths: &[PathBuf], change: impl FnOnce(&Path)) -> bool {
        let watches = Arc::new(Watches::new().unwrap());
        let mut sources = Sources::new(paths, Some(watches.clone()));
        sources.read();
        let (told, heard) = std::sync::mpsc::channel();
        // It ends with the test program where there is nothing to hear.
        std::thread::spawn(move || follow(&watches, |_| told.send(()).is_ok()));
        change(directory);
        heard.recv_timeout(Duration::from_millis(500)).is_ok()
    }

    #[test]
    fn what_happens_to_files_is_heard_of_and_what_happens_beside_them_is_not() {
        let folder = tempdir().unwrap();
        let directory = folder.path();
        let inner = directory.join("p");
        fs::create_dir_all(inner.join("q")).unwrap();
        let paths = [inner.clone(), directory.join("one.yaml")];
        let heard = |change: &dyn Fn(&Path)| follows(directory, &paths, change);
        assert!(heard(&|d| fs::write(d.join("p/a.yaml"), "x").unwrap()));
        assert!(heard(&|d| fs::write(d.join("p/q/a.yaml"), "x").unwrap()));
        assert!(heard(&|d| {
            fs::write(d.join("beside"), "y").unwrap();
            fs::rename(d.join("beside"), d.join("p/a.yaml")).unwrap();
        }));
        assert!(heard(&|d| fs::remove_file(d.join("p/a.yaml")).unwrap()));
        assert!(heard(&|d| fs::write(d.join("one.yaml"), "x").unwrap()));
        assert!(heard(&|d| fs::remove_dir_all(d.join("p")).unwrap()));
        assert!(heard(&|d| fs::create_dir(d.join("p")).unwrap()));
        assert!(!heard(&|d| fs::write(d.join("two.yaml"), "x").unwrap()));
    }
}
