//! Finds and reads the files that paths name.
//!
//! The one place of this crate that touches a file system. A path is a file, or a
//! directory of which all `.yaml`, `.yml` and `.json` files count, those in
//! directories below it too.
//!
//! Invariant: files come in the order of their names, each once, and no more than
//! [`MAX_FILE`] bytes of any are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::MAX_FILE;
use super::globs::{Glob, leaves_out};

/// Name of files with patterns of what is left out, one a line, below their directories.
pub const IGNORE_FILE: &str = ".cofferdamignore";

/// Deepest directory that is looked into; a loop of links ends here.
const MAX_DEPTH: usize = 32;

/// A file's name and its bytes, one more than [`MAX_FILE`] at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The path as it was given or found.
    pub path: PathBuf,
    /// Bytes of the file.
    pub bytes: Vec<u8>,
}

/// Reason for which a path could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// A file or directory that cannot be read.
    #[error("cannot read {}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
    /// Something in a directory that is named like a manifest.
    #[error("{} is a pipe, a socket or a device: remove it", path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
    },
    /// Directories within each other without end.
    #[error("{} lies too deep below the path that was given", path.display())]
    TooDeep {
        /// The path.
        path: PathBuf,
    },
}

impl ReadError {
    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Path { path, .. } | Self::NoFile { path } | Self::TooDeep { path } => path,
        }
    }
}

/// Files and directories to which paths lead.
#[derive(Debug, Default)]
pub struct Found {
    /// The files in the order of their names, with what was said of them when they were
    /// found.
    pub files: BTreeMap<PathBuf, Metadata>,
    /// The directories that were looked into.
    pub directories: BTreeSet<PathBuf>,
    /// Paths that could not be looked at.
    pub errors: Vec<ReadError>,
}

/// Finds the files that `paths` name. `enter` is called before a directory is looked
/// into: whoever watches it from then on misses nothing.
pub fn find<P: AsRef<Path>>(paths: &[P], mut enter: impl FnMut(&Path)) -> Found {
    let mut found = Found::default();
    for path in paths {
        found.add(path.as_ref(), 0, &mut enter);
    }
    found
}

/// Reads the files that `paths` name.
///
/// # Errors
/// The first path that cannot be read.
pub fn read<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<SourceFile>, ReadError> {
    let found = find(paths, |_| {});
    if let Some(error) = found.errors.into_iter().next() {
        return Err(error);
    }
    found.files.into_keys().map(SourceFile::read).collect()
}

/// Files below paths of a repository.
#[derive(Debug, Default)]
pub struct Repository {
    /// The files, in the order of their names.
    pub files: Vec<PathBuf>,
    /// The directories that were looked into.
    pub directories: Vec<PathBuf>,
    /// Count of files and directories that patterns left out.
    pub left_out: usize,
    /// Names that lead nowhere, or to nothing that is a file.
    pub unread: Vec<PathBuf>,
}

/// Finds the files that `paths` name, but for what patterns leave out: those given, and those
/// of [`IGNORE_FILE`]s. Files are found once, by whatever links they can be reached.
///
/// # Errors
/// A path of `paths` that cannot be read.
pub fn find_in_repository<P: AsRef<Path>>(
    paths: &[P],
    exclude: &[Glob],
) -> Result<Repository, ReadError> {
    let mut walk = Walk {
        found: Repository::default(),
        seen: BTreeSet::new(),
    };
    for path in paths {
        let path = path.as_ref();
        let metadata = fs::metadata(path).map_err(|source| ReadError::Path {
            path: path.to_owned(),
            source,
        })?;
        if metadata.is_dir() {
            let mut layers = vec![(path.to_owned(), exclude.to_vec())];
            walk.directory(path, &metadata, 0, &mut layers)?;
        } else {
            walk.found.files.push(path.to_owned());
        }
    }
    walk.found.files.sort();
    walk.found.files.dedup();
    Ok(walk.found)
}

struct Walk {
    found: Repository,
    /// Device and inode of what was found.
    seen: BTreeSet<(u64, u64)>,
}

impl Walk {
    fn is_new(&mut self, metadata: &Metadata) -> bool {
        self.seen.insert((metadata.dev(), metadata.ino()))
    }

    fn directory(
        &mut self,
        path: &Path,
        metadata: &Metadata,
        depth: usize,
        layers: &mut Vec<(PathBuf, Vec<Glob>)>,
    ) -> Result<(), ReadError> {
        let failed = |source| ReadError::Path {
            path: path.to_owned(),
            source,
        };
        if depth == MAX_DEPTH {
            self.found.unread.push(path.to_owned());
            return Ok(());
        }
        if !self.is_new(metadata) {
            return Ok(());
        }
        self.found.directories.push(path.to_owned());
        let mut entries: Vec<PathBuf> = fs::read_dir(path)
            .map_err(failed)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        entries.sort();
        let ignore = path.join(IGNORE_FILE);
        let own = fs::read_to_string(&ignore).unwrap_or_default();
        let before = layers.len();
        if !own.is_empty() {
            let globs = own.lines().filter_map(Glob::parse).collect();
            layers.push((path.to_owned(), globs));
        }
        for entry in entries {
            self.entry(&entry, depth, layers);
        }
        layers.truncate(before);
        Ok(())
    }

    fn entry(&mut self, path: &Path, depth: usize, layers: &mut Vec<(PathBuf, Vec<Glob>)>) {
        if is_hidden(path) {
            return;
        }
        let is_named_so = is_manifest(path);
        let Ok(metadata) = fs::metadata(path) else {
            if is_named_so {
                self.found.unread.push(path.to_owned());
            }
            return;
        };
        if !metadata.is_dir() && !is_named_so {
            return;
        }
        if is_left_out(layers, path, metadata.is_dir()) {
            self.found.left_out += 1;
        } else if metadata.is_dir() {
            if self.directory(path, &metadata, depth + 1, layers).is_err() {
                self.found.unread.push(path.to_owned());
            }
        } else if !metadata.is_file() {
            // Whoever opens a pipe waits for its other end, for ever perhaps.
            self.found.unread.push(path.to_owned());
        } else if self.is_new(&metadata) {
            self.found.files.push(path.to_owned());
        }
    }
}

/// Returns `true` if the nearest patterns that are about a path leave it out.
fn is_left_out(layers: &[(PathBuf, Vec<Glob>)], path: &Path, is_directory: bool) -> bool {
    let verdict = |(base, globs): &(PathBuf, Vec<Glob>)| {
        if globs.is_empty() {
            return None;
        }
        let names: Vec<_> = path
            .strip_prefix(base)
            .ok()?
            .components()
            .map(|name| name.as_os_str().to_string_lossy())
            .collect();
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        leaves_out(globs, &names, is_directory)
    };
    layers.iter().rev().find_map(verdict).unwrap_or(false)
}

impl SourceFile {
    /// Reads one file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: PathBuf) -> Result<Self, ReadError> {
        match contents(&path) {
            Ok(bytes) => Ok(Self { path, bytes }),
            Err(source) => Err(ReadError::Path { path, source }),
        }
    }
}

impl Found {
    fn add(&mut self, path: &Path, depth: usize, enter: &mut impl FnMut(&Path)) {
        if let Err(error) = self.try_add(path, depth, enter) {
            self.errors.push(error);
        }
    }

    fn try_add(
        &mut self,
        path: &Path,
        depth: usize,
        enter: &mut impl FnMut(&Path),
    ) -> Result<(), ReadError> {
        let failed = |source| ReadError::Path {
            path: path.to_owned(),
            source,
        };
        let kind = fs::metadata(path).map_err(failed)?;
        if kind.is_dir() {
            if depth == MAX_DEPTH {
                return Err(ReadError::TooDeep {
                    path: path.to_owned(),
                });
            }
            enter(path);
            self.directories.insert(path.to_owned());
            for entry in fs::read_dir(path).map_err(failed)? {
                let entry = entry.map_err(failed)?.path();
                if !is_hidden(&entry) && (is_manifest(&entry) || entry.is_dir()) {
                    self.add(&entry, depth + 1, enter);
                }
            }
        } else if depth > 0 && !kind.is_file() {
            // Whoever opens a pipe waits for its other end, for ever perhaps.
            return Err(ReadError::NoFile {
                path: path.to_owned(),
            });
        } else {
            self.files.insert(path.to_owned(), kind);
        }
        Ok(())
    }
}

/// Editors and mounted configuration keep copies under names with a dot in front.
fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["yaml", "yml", "json"]
            .iter()
            .any(|known| extension == *known)
    })
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_FILE)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}
