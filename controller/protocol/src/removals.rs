//! Notes of attachments that ended while no agent answered.
//!
//! The plugin leaves a note in the run directory; the agent that comes up next reads it
//! before any request, and keeps the endpoints concerned closed until their interfaces
//! have gone. Until then their verdicts stay what they were, or go with the interface.
//!
//! A note is an empty file whose name is the attachment, so that writing it twice is
//! writing it once and none is torn.
//!
//! Invariant: no note is lost between an agent that comes up and a plugin. The agent reads
//! notes after it listens; the plugin tries the socket once more after it has left one.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::{Attachment, names};

/// Between a container's id and an interface: in the name of neither.
const SEPARATOR: char = ':';

/// Returns the folder of notes in a run directory.
fn folder(run_dir: &Path) -> PathBuf {
    run_dir.join("removals")
}

fn path(run_dir: &Path, attachment: &Attachment) -> PathBuf {
    let Attachment {
        container_id,
        interface,
    } = attachment;
    folder(run_dir).join(format!("{container_id}{SEPARATOR}{interface}"))
}

fn parse(name: &str) -> Option<Attachment> {
    let (container_id, interface) = name.split_once(SEPARATOR)?;
    names::container_id(container_id).ok()?;
    names::interface(interface).ok()?;
    Some(Attachment {
        container_id: container_id.to_owned(),
        interface: interface.to_owned(),
    })
}

/// Leaves a note about an attachment with valid names.
///
/// # Errors
/// When the file system refuses.
pub fn note(run_dir: &Path, attachment: &Attachment) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder(run_dir))?;
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path(run_dir, attachment))
        .map(drop)
}

/// Removes the note about an attachment, if there is one.
///
/// # Errors
/// When the file system refuses.
pub fn forget(run_dir: &Path, attachment: &Attachment) -> io::Result<()> {
    match fs::remove_file(path(run_dir, attachment)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Lists the attachments that there are notes about.
///
/// # Errors
/// When the file system refuses.
pub fn noted(run_dir: &Path) -> io::Result<Vec<Attachment>> {
    let entries = match fs::read_dir(folder(run_dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut noted = Vec::new();
    for entry in entries {
        noted.extend(entry?.file_name().to_str().and_then(parse));
    }
    noted.sort();
    Ok(noted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_there_until_it_is_forgotten() {
        let scratch = tempfile::tempdir().unwrap();
        let run_dir = scratch.path().join("run");
        let attachment = Attachment {
            container_id: "a".repeat(names::MAX_CONTAINER_ID),
            interface: "fifteen-letters".to_owned(),
        };
        assert!(noted(&run_dir).unwrap().is_empty());
        forget(&run_dir, &attachment).unwrap();
        note(&run_dir, &attachment).unwrap();
        note(&run_dir, &attachment).unwrap();
        fs::write(folder(&run_dir).join("of somebody else"), "").unwrap();
        assert_eq!(noted(&run_dir).unwrap(), std::slice::from_ref(&attachment));
        forget(&run_dir, &attachment).unwrap();
        assert!(noted(&run_dir).unwrap().is_empty());
    }
}
