//! State that the agent must know again after a restart, in files.
//!
//! A file is written beside its name, flushed, renamed, and the directory flushed:
//! after a crash there is the old one or the new one, whole. What is void after the next
//! start of the machine is not flushed: it need only survive the agent. Its first line has the
//! length and the checksum of the rest, so that a torn or changed file is known for
//! one. Such a file is as good as none: what is in the kernel stays the truth, and
//! nothing becomes wider than without it.

pub mod saved_documents;

use cofferdam_syntax::diagnostic::chain;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::links::Links;

/// First word of every file, with the version of the layout.
const MAGIC: &str = "cofferdam-state-1";

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 30;

/// Reason for which a state file could not be written or read.
#[derive(Debug, Error)]
pub enum StateError {
    /// A system call failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// Action that failed.
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
    /// Others may write it.
    #[error(
        "{} belongs to another user or others may write it: it is not believed",
        path.display()
    )]
    Ownership {
        /// The file.
        path: PathBuf,
    },
    /// It is cut short, changed, or of another version.
    #[error("{} is damaged or of another version: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Damage that was found.
        what: String,
    },
}

/// The directory of the state files.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Opens the directory, and makes it if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        make_directory(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// Writes a value, in place of what was there.
    ///
    /// # Errors
    /// When the file system refuses; the old file stays then.
    pub fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        self.write(name, value, File::sync_all)?;
        let directory = File::open(&self.directory).and_then(|directory| directory.sync_all());
        directory.map_err(|source| StateError::File {
            action: "flush",
            path: self.directory.clone(),
            source,
        })
    }

    /// Writes a value that is void after the next start of the machine, in place of what was
    /// there. Nothing is flushed: that costs 10 ms and more, and a file that a crash of the
    /// machine leaves damaged is as void as a whole one.
    ///
    /// # Errors
    /// When the file system refuses; the old file stays then.
    pub fn save_for_this_start<T: Serialize>(
        &self,
        name: &str,
        value: &T,
    ) -> Result<(), StateError> {
        self.write(name, value, |_| Ok(()))
    }

    fn write<T: Serialize>(
        &self,
        name: &str,
        value: &T,
        flush: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<(), StateError> {
        let path = self.directory.join(name);
        let beside = self.directory.join(format!(".{name}.new"));
        let failed = |action| {
            let path = beside.clone();
            move |source| StateError::File {
                action,
                path,
                source,
            }
        };
        let body = serde_json::to_vec(value)
            .map_err(io::Error::from)
            .map_err(failed("describe"))?;
        let header = header(&body);
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .and_then(|mut file| {
                file.write_all(header.as_bytes())?;
                file.write_all(&body)?;
                flush(&file)
            });
        written.map_err(failed("write"))?;
        fs::rename(&beside, &path).map_err(failed("rename"))
    }

    /// The names of all files.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn names(&self) -> Result<Vec<String>, StateError> {
        let names = fs::read_dir(&self.directory).and_then(|entries| {
            let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
            names.filter_map(io::Result::transpose).collect()
        });
        names.map_err(|source| StateError::File {
            action: "list",
            path: self.directory.clone(),
            source,
        })
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.directory.join(name);
        fs::remove_file(&path).map_err(|source| StateError::File {
            action: "remove",
            path,
            source,
        })
    }

    /// Reads a value; none when there is no file.
    ///
    /// # Errors
    /// When it cannot be read or not be believed.
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.directory.join(name);
        let failed = |source| StateError::File {
            action: "read",
            path: path.clone(),
            source,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let metadata = file.metadata().map_err(failed)?;
        if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(StateError::Ownership { path });
        }
        let mut text = Vec::new();
        file.take(MAX_BYTES)
            .read_to_end(&mut text)
            .map_err(failed)?;
        let body = checked(&text).map_err(|what| self.damaged(name, what))?;
        let value =
            serde_json::from_slice(body).map_err(|error| self.damaged(name, &chain(&error)))?;
        Ok(Some(value))
    }

    fn damaged(&self, name: &str, what: &str) -> StateError {
        StateError::Damaged {
            path: self.directory.join(name),
            what: what.to_owned(),
        }
    }
}

/// Makes a directory that is nobody else's business.
///
/// # Errors
/// When the file system refuses.
pub fn make_directory(path: &Path) -> Result<(), StateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| StateError::File {
            action: "make the directory",
            path: path.to_owned(),
            source,
        })
}

fn header(body: &[u8]) -> String {
    format!("{MAGIC} {:08x} {}\n", crc32fast::hash(body), body.len())
}

/// The body of a file's text, if the header is that body's.
fn checked(text: &[u8]) -> Result<&[u8], &'static str> {
    let end = text
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or("there is no header")?;
    let (first, body) = text.split_at(end + 1);
    if first == header(body).as_bytes() {
        Ok(body)
    } else {
        Err("length or checksum is not that of the content")
    }
}

/// Name of the file of [`Endpoints`].
pub const ENDPOINTS: &str = "endpoints.json";

/// The endpoints of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints<E> {
    /// The kernel's name for this start of the machine: interface indexes mean
    /// nothing after another.
    pub boot_id: String,
    /// Inode of the network namespace that the host-side interfaces are in.
    pub namespace: u64,
    /// Incarnations below were given.
    pub next_incarnation: u32,
    /// Revisions up to this one were published.
    pub revision: u64,
    /// The endpoints.
    pub endpoints: Vec<E>,
    /// Endpoints that were removed or replaced and whose interface is still there.
    #[serde(default = "Vec::new")]
    pub leaving: Vec<E>,
    /// Facts remembered of their links, and of links that have gone.
    #[serde(default)]
    pub links: Links,
    /// MAC addresses of interfaces that are open because somebody released them, by their
    /// indexes.
    #[serde(default)]
    pub released: BTreeMap<u32, [u8; 6]>,
}

impl<E> Default for Endpoints<E> {
    fn default() -> Self {
        Self {
            boot_id: String::new(),
            namespace: 0,
            next_incarnation: 0,
            revision: 0,
            endpoints: Vec::new(),
            leaving: Vec::new(),
            links: Links::default(),
            released: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    pub(super) fn store() -> (TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state")).unwrap();
        (folder, store)
    }

    #[test]
    fn what_is_saved_is_loaded_and_nobody_else_reads_it() {
        let (folder, store) = store();
        let path = folder.path().join("state");
        assert_eq!(store.load::<Vec<u32>>("a").unwrap(), None);
        store.save("a", &vec![1, 2]).unwrap();
        store.save_for_this_start("a", &vec![3]).unwrap();
        assert_eq!(store.load::<Vec<u32>>("a").unwrap(), Some(vec![3]));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("a"))), (0o700, 0o600));
    }

    #[test]
    fn a_file_cut_or_flipped_anywhere_is_not_believed() {
        let (folder, store) = store();
        let path = folder.path().join("state");
        store.save("a", &vec!["some text".to_owned()]).unwrap();
        let good = fs::read(path.join("a")).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(checked(&bad).is_err(), "flipped at {at}");
            assert!(checked(&good[..at]).is_err(), "cut at {at}");
        }
        fs::write(path.join("a"), &good[..good.len() - 1]).unwrap();
        let error = store.load::<Vec<String>>("a").unwrap_err();
        assert!(matches!(error, StateError::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_file_that_others_may_write_is_not_believed() {
        use std::os::unix::fs::PermissionsExt as _;
        let (folder, store) = store();
        let path = folder.path().join("state");
        store.save("a", &1).unwrap();
        fs::set_permissions(path.join("a"), fs::Permissions::from_mode(0o602)).unwrap();
        let error = store.load::<u32>("a").unwrap_err();
        assert!(matches!(error, StateError::Ownership { .. }), "{error}");
    }
}
