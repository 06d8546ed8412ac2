//! Packs the file system a virtual machine starts from.
//!
//! The format is cpio "newc", described in the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`. Written here,
//! because it is thirty lines, needs no tree of copies on disk, and leaves owners
//! and modes to us whoever runs it. Not compressed: it is read once, from memory,
//! and unpacking costs more on an emulated processor than reading.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::run;

/// An archive under construction.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    /// Paths already in it.
    names: BTreeSet<String>,
}

/// File type bits of a mode, as `stat` has them.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

impl Archive {
    /// Adds an empty folder, and those it lies in.
    pub(crate) fn folder(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.names.contains(path) {
            return;
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        self.entry(path, FOLDER | 0o755, &[]);
    }

    /// Adds an executable file; a second one of the same path is left out.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        self.leaf(path, FILE | 0o755, content);
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.leaf(path, LINK | 0o777, to.as_bytes());
    }

    /// Adds the program at `from` as `path`, and the libraries it loads.
    pub(crate) fn program(&mut self, path: &str, from: &Path) -> Result<()> {
        self.file(path, &read(from)?);
        for library in libraries(from)? {
            self.file(&library.to_string_lossy(), &read(&library)?);
        }
        Ok(())
    }

    /// Adds what lies below the folder `from` as `path`, links as links. A folder that is
    /// not there adds nothing.
    pub(crate) fn tree(&mut self, path: &str, from: &Path) -> Result<()> {
        if !from.is_dir() {
            return Ok(());
        }
        let cannot = || format!("cannot read {}", from.display());
        self.folder(path);
        let mut entries = fs::read_dir(from)
            .with_context(cannot)?
            .collect::<Result<Vec<_>, _>>()
            .with_context(cannot)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (below, from) = (
                format!("{path}/{}", entry.file_name().to_string_lossy()),
                entry.path(),
            );
            let kind = entry.file_type().with_context(cannot)?;
            if kind.is_dir() {
                self.tree(&below, &from)?;
            } else if kind.is_symlink() {
                let to = fs::read_link(&from).with_context(cannot)?;
                self.link(&below, &to.to_string_lossy());
            } else {
                self.file(&below, &read(&from)?);
            }
        }
        Ok(())
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn leaf(&mut self, path: &str, mode: u32, content: &[u8]) {
        let path = path.trim_matches('/');
        if self.names.contains(path) {
            return;
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        self.entry(path, mode, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.names.insert(name.to_owned());
        let inode = self.names.len();
        let (links, size, name_size) = (1, content.len(), name.len() + 1);
        // Magic, then: inode, mode, owner, group, links, time, size, device (two),
        // node device (two), size of the name with its zero, checksum. Eight
        // hexadecimal digits each; everything padded to four bytes.
        let header = format!(
            "070701{inode:08x}{mode:08x}{owner:08x}{owner:08x}{links:08x}{time:08x}{size:08x}\
             {device:08x}{device:08x}{device:08x}{device:08x}{name_size:08x}{checksum:08x}",
            owner = 0,
            time = 0,
            device = 0,
            checksum = 0,
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Lists what the dynamic loader would load for `program`, itself included; nothing for
/// a static program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = run::command("ldd")
        .arg(program)
        .output()
        .context("cannot start ldd, which comes with the C library")?;
    // A static program is "not a dynamic executable", with a failure status.
    Ok(loaded(&String::from_utf8_lossy(&output.stdout)))
}

/// The paths in what `ldd` printed: `name => /path (address)` for a library,
/// `/path (address)` for the loader, neither for what the kernel supplies.
fn loaded(listing: &str) -> Vec<PathBuf> {
    listing
        .lines()
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let path = match words[..] {
                [_, "=>", path, ..] => path,
                [path, _] => path,
                _ => return None,
            };
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name and content of every entry of `archive`.
    fn entries(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < archive.len() {
            let number = |index: usize| {
                let start = at + 6 + index * 8;
                let digits = std::str::from_utf8(&archive[start..start + 8]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            assert_eq!(&archive[at..at + 6], b"070701");
            let (size, name_size) = (number(6), number(11));
            let name = at + 110;
            let content = (name + name_size).next_multiple_of(4);
            let text = String::from_utf8(archive[name..name + name_size - 1].to_vec()).unwrap();
            found.push((text, archive[content..content + size].to_vec()));
            at = (content + size).next_multiple_of(4);
        }
        found
    }

    #[test]
    fn an_archive_reads_back_with_its_folders_first() {
        let mut archive = Archive::default();
        archive.file("/usr/bin/first", b"odd");
        archive.file("usr/bin/second", b"");
        archive.link("/bin", "usr/bin");
        let entries = entries(&archive.finish());
        let names: Vec<_> = entries.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "usr",
                "usr/bin",
                "usr/bin/first",
                "usr/bin/second",
                "bin",
                "TRAILER!!!"
            ]
        );
        assert_eq!(entries[2].1, b"odd");
        assert_eq!(entries[4].1, b"usr/bin");
    }

    #[test]
    fn a_path_is_packed_once() {
        let mut archive = Archive::default();
        archive.file("lib/libc.so.6", b"one");
        archive.file("/lib/libc.so.6", b"two");
        assert_eq!(entries(&archive.finish()).len(), 3);
    }

    #[test]
    fn a_tree_is_packed_with_its_links() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path();
        fs::create_dir_all(folder.join("inner")).unwrap();
        fs::write(folder.join("inner/tool"), "content").unwrap();
        std::os::unix::fs::symlink("inner/tool", folder.join("alias")).unwrap();
        let mut archive = Archive::default();
        archive.tree("bin", folder).unwrap();
        archive.tree("sbin", &folder.join("absent")).unwrap();
        let entries = entries(&archive.finish());
        let names: Vec<_> = entries.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "bin",
                "bin/alias",
                "bin/inner",
                "bin/inner/tool",
                "TRAILER!!!"
            ]
        );
        assert_eq!(entries[1].1, b"inner/tool");
        assert_eq!(entries[3].1, b"content");
    }

    #[test]
    fn libraries_and_loader_are_found_in_a_listing() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f84)\n\
                       \tlibgone.so => not found\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f9c)\n";
        assert_eq!(
            loaded(listing),
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6"),
                PathBuf::from("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(loaded("\tstatically linked\n").is_empty());
    }
}
