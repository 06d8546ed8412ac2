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
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::MAX_FILE;

/// Deepest directory that is looked into; a loop of links ends here.
const MAX_DEPTH: usize = 32;

/// A file's name and its bytes, one more than [`MAX_FILE`] at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The path as it was given or found.
    pub path: PathBuf,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// Why a path could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// A file or directory that cannot be read.
    #[error("cannot read {}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
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

/// What paths lead to.
#[derive(Debug, Default)]
pub struct Found {
    /// The files in the order of their names, with what was said of them when they were
    /// found.
    pub files: BTreeMap<PathBuf, Metadata>,
    /// The directories that were looked into.
    pub directories: BTreeSet<PathBuf>,
    /// What could not be looked at.
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
