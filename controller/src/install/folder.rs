//! The folder of a runtime's network configurations.
//!
//! Invariants: a file is replaced by one rename; what stood there before is kept beside it
//! under an ending that no runtime reads, and put back as it was.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Planned, Refusal, into_list, into_single, out_of_list};

/// Ending of the file that keeps what a network's was.
const KEPT: &str = ".cofferdam-kept";

/// Reason for which a folder cannot be changed as asked.
#[derive(Debug, Error)]
pub enum FolderError {
    /// A file or the folder could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// The attempt.
        action: &'static str,
        /// Path of the file or folder.
        path: PathBuf,
        /// The kernel's own words.
        #[source]
        source: io::Error,
    },
    /// No file is a network's.
    #[error("no file in {} is a valid network configuration", path.display())]
    NoNetwork {
        /// The folder.
        path: PathBuf,
    },
    /// The network is not one for the plugin.
    #[error("{} stays as it is", path.display())]
    Refused {
        /// The network's file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Refusal,
    },
    /// A file is where the new one belongs.
    #[error("{} has to become {}, which is there already", from.display(), to.display())]
    Occupied {
        /// The network's file.
        from: PathBuf,
        /// The other one.
        to: PathBuf,
    },
}

/// A change of files, before it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The file with the text of before.
    pub from: PathBuf,
    /// Text of before.
    pub before: String,
    /// The file with the text of after.
    pub to: PathBuf,
    /// Text of after.
    pub after: String,
    /// Place of the text of before.
    keep: Keep,
}

/// Place of the text of before.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Keep {
    /// It is kept in this file.
    In(PathBuf),
    /// It is what was kept in this file, put in, or written by others since.
    Drop(Option<PathBuf>),
}

/// A folder of network configurations.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

fn failed<'p>(
    action: &'static str,
    path: &'p Path,
) -> impl FnOnce(io::Error) -> FolderError + use<'p> {
    move |source| FolderError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

impl Folder {
    /// A folder, which need not be there.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Names of files, in the order in which runtimes look at them.
    fn names(&self) -> Result<Vec<String>, FolderError> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed("list", &self.path))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("list", &self.path))?;
            names.extend(entry.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    /// Plans the entry's way into the first valid network; `None` if it stands there.
    ///
    /// # Errors
    /// When there is no network, or it is none for the plugin.
    pub fn plan_entry(&self, entry: &str) -> Result<Option<Change>, FolderError> {
        for name in self.names()? {
            let path = self.path.join(&name);
            let is_list = name.ends_with(".conflist");
            let stem = name
                .strip_suffix(".conf")
                .or_else(|| name.strip_suffix(".json"));
            if !is_list && stem.is_none() {
                continue;
            }
            let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
            let planned = match stem {
                None => into_list(&text, entry),
                Some(_) => into_single(&text, entry).map(Planned::Text),
            };
            let after = match planned {
                Ok(Planned::Stands) => return Ok(None),
                Ok(Planned::Text(after)) => after,
                // Runtimes pass over it as well.
                Err(Refusal::Invalid(why)) => {
                    eprintln!("cofferdam: {} is passed over: {why}", path.display());
                    continue;
                }
                Err(source) => return Err(FolderError::Refused { path, source }),
            };
            let to = match stem {
                None => path.clone(),
                Some(stem) => self.path.join(format!("{stem}.conflist")),
            };
            if to != path && to.exists() {
                return Err(FolderError::Occupied { from: path, to });
            }
            return Ok(Some(Change {
                keep: Keep::In(self.path.join(name + KEPT)),
                from: path,
                before: text,
                to,
                after,
            }));
        }
        Err(FolderError::NoNetwork {
            path: self.path.clone(),
        })
    }

    /// Plans the way back of every network with an entry: to what was kept, where nobody has
    /// changed it since, or else to what it is now without the entry.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn plan_removal(&self, entry: &str) -> Result<Vec<Change>, FolderError> {
        let names = self.names()?;
        let mut changes = Vec::new();
        for name in names.iter().filter(|name| name.ends_with(".conflist")) {
            let path = self.path.join(name);
            let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
            let Ok(Some(without)) = out_of_list(&text) else {
                continue;
            };
            let stem = name.strip_suffix("conflist").unwrap_or(name);
            let origins = ["conflist", "conf", "json"].map(|ending| format!("{stem}{ending}"));
            let mut kept = origins
                .iter()
                .filter(|origin| names.contains(&format!("{origin}{KEPT}")));
            let origin = kept.next();
            let Some(origin) = origin else {
                changes.push(Change {
                    from: path.clone(),
                    before: text,
                    to: path,
                    after: without,
                    keep: Keep::Drop(None),
                });
                continue;
            };
            let kept = self.path.join(format!("{origin}{KEPT}"));
            let before = fs::read_to_string(&kept).map_err(failed("read", &kept))?;
            let made = if origin == name {
                into_list(&before, entry).ok()
            } else {
                into_single(&before, entry).ok().map(Planned::Text)
            };
            let is_untouched = made == Some(Planned::Text(text.clone()));
            let (to, after) = if is_untouched {
                (self.path.join(origin), before)
            } else {
                (path.clone(), without)
            };
            changes.push(Change {
                from: path,
                before: text,
                to,
                after,
                keep: Keep::Drop(Some(kept)),
            });
        }
        Ok(changes)
    }

    /// Makes a change.
    ///
    /// # Errors
    /// When the file system refuses; a runtime finds the old file or the new one then.
    pub fn make(&self, change: &Change) -> Result<(), FolderError> {
        let metadata = fs::metadata(&change.from).map_err(failed("read", &change.from))?;
        let mode = metadata.permissions().mode() & 0o777;
        if let Keep::In(kept) = &change.keep {
            replace(kept, change.before.as_bytes(), mode)?;
        }
        replace(&change.to, change.after.as_bytes(), mode)?;
        if change.to != change.from {
            fs::remove_file(&change.from).map_err(failed("remove", &change.from))?;
        }
        if let Keep::Drop(Some(kept)) = &change.keep {
            fs::remove_file(kept).map_err(failed("remove", kept))?;
        }
        let folder = File::open(&self.path).and_then(|folder| folder.sync_all());
        folder.map_err(failed("flush", &self.path))
    }
}

/// Puts a file in place by one rename.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), FolderError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.cofferdam-{}", std::process::id()));
    let write = || {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(content)?;
        // Whatever the umask is.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|source| {
        _ = fs::remove_file(&beside);
        failed("write", path)(source)
    })
}
