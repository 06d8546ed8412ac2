//! Documents of revisions: `git:REV:PATH` where a path is expected.
//!
//! Git is asked through its own program: it alone knows every form of repository
//! (worktrees, partial clones, alternates). Nothing is checked out.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use cofferdam_documents::{MAX_FILE, Source, Strictness};

use super::super::cluster::put_beside;
use super::super::project::{KnownTexts, Project, ReadArgs};

/// Ends of names that count in a directory, as they do on a disk.
const MANIFESTS: [&str; 3] = [".yaml", ".yml", ".json"];

/// Mark before a revision.
const GIT: &str = "git:";

/// A path of a revision.
struct Revision<'p> {
    revision: &'p str,
    path: &'p str,
}

/// Reads files and directories, those of revisions too, and puts the objects of a cluster
/// beside them. Texts that are known are not read again.
pub(in crate::cli) fn read(
    paths: &[PathBuf],
    reading: &ReadArgs,
    objects: Vec<Source>,
    known: &KnownTexts<'_>,
) -> Result<Vec<Source>> {
    let mut plain = Vec::new();
    let mut sources = Vec::new();
    for path in paths {
        match of(path)? {
            Some(revision) => sources.extend(revision.read(reading.strictness(), known)?),
            None => plain.push(path.clone()),
        }
    }
    if !plain.is_empty() {
        sources.extend(Project::read_beside(&plain, reading, known)?.sources);
    }
    put_beside(&mut sources, objects);
    Ok(sources)
}

/// The revision that a path names, if it does.
fn of(path: &Path) -> Result<Option<Revision<'_>>> {
    let Some(rest) = path.to_str().and_then(|path| path.strip_prefix(GIT)) else {
        return Ok(None);
    };
    // A revision has no colon, but `:/text` and `:0`, which name no commit for certain.
    let Some((revision, path)) = rest.split_once(':') else {
        bail!("{GIT}{rest} names no path: write {GIT}{rest}:PATH, such as {GIT}main:policies");
    };
    // What begins like this would be an option of git's.
    if revision.is_empty() || revision.starts_with('-') {
        bail!("{GIT}{rest} names no revision: write {GIT}main:{path}");
    }
    let path = path.trim_start_matches("./").trim_matches('/');
    let path = if path == "." { "" } else { path };
    Ok(Some(Revision { revision, path }))
}

impl Revision<'_> {
    fn read(&self, strictness: Strictness, known: &KnownTexts<'_>) -> Result<Vec<Source>> {
        let Self { revision, path } = self;
        let commit = format!("{revision}^{{commit}}");
        let found = git(&["rev-parse", "--verify", "--quiet", &commit], "")
            .with_context(|| format!("there is no revision `{revision}`: fetch it first"))?;
        let commit = String::from_utf8_lossy(&found).trim().to_owned();
        let mut arguments = vec!["ls-tree", "-r", "-z", "--full-tree", &commit];
        if !path.is_empty() {
            arguments.extend(["--", path]);
        }
        let listed = git(&arguments, "")?;
        let files: Vec<(String, String)> = (listed.split(|byte| *byte == 0))
            .filter_map(|entry| self.file(&String::from_utf8_lossy(entry)))
            .collect();
        if files.is_empty() {
            bail!("there is no .yaml, .yml or .json file in {GIT}{revision}:{path}");
        }
        let wanted: String = files.iter().map(|(id, _)| format!("{id}\n")).collect();
        let texts = git(&["cat-file", "--batch"], &wanted)?;
        let mut rest = texts.as_slice();
        let mut sources = Vec::with_capacity(files.len());
        for (_, file) in files {
            let text = next_blob(&mut rest).context("git said something unexpected")?;
            let name: Arc<str> = format!("{GIT}{revision}:{file}").into();
            let text = &text[..text.len().min(MAX_FILE + 1)];
            let same = known.get(text).and_then(|source| source.renamed(&name));
            sources.push(same.unwrap_or_else(|| Source::read_as(name, text.into(), strictness)));
        }
        Ok(sources)
    }

    /// The id and the name of a file that counts, of an entry `MODE TYPE ID\tNAME`.
    fn file(&self, entry: &str) -> Option<(String, String)> {
        let (about, name) = entry.split_once('\t')?;
        let mut words = about.split(' ');
        let (mode, _, id) = (words.next()?, words.next()?, words.next()?);
        let is_manifest = MANIFESTS.iter().any(|end| name.ends_with(end));
        // Neither links nor submodules.
        let is_file = mode.starts_with("100");
        (is_file && (is_manifest || name == self.path)).then(|| (id.to_owned(), name.to_owned()))
    }
}

/// The next text of a batch: `ID blob LENGTH\n`, the text, and a line feed.
fn next_blob<'t>(rest: &mut &'t [u8]) -> Option<&'t [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let head = std::str::from_utf8(&rest[..end]).ok()?;
    let length: usize = head.rsplit(' ').next()?.parse().ok()?;
    let text = rest.get(end + 1..end + 1 + length)?;
    *rest = rest.get(end + 1 + length + 1..)?;
    Some(text)
}

/// Returns the output of git.
fn git(arguments: &[&str], input: &str) -> Result<Vec<u8>> {
    let mut child = Command::new("git")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run git, which reads revisions: install it, or give files")?;
    let mut stdin = child.stdin.take().context("git has no input")?;
    let input = input.to_owned();
    // Both ways at once: git answers while it still reads.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child
        .wait_with_output()
        .context("cannot read what git says")?;
    // A git that has failed may have stopped reading; its own words say why.
    _ = writer.join();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("git {}: {}", arguments[0], said.trim());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_revision_is_told_from_others() {
        let read = |text: &str| {
            of(Path::new(text))
                .map(|found| found.map(|one| (one.revision.to_owned(), one.path.to_owned())))
        };
        assert_eq!(
            read("git:main:policies/").unwrap(),
            Some(("main".into(), "policies".into()))
        );
        assert_eq!(
            read("git:HEAD~1:.").unwrap(),
            Some(("HEAD~1".into(), String::new()))
        );
        assert_eq!(read("policies").unwrap(), None);
        for wrong in ["git:main", "git::policies", "git:--help:x"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn texts_of_a_batch_are_taken_by_their_length() {
        let mut batch: &[u8] = b"ab12 blob 3\na\nb\ncd34 blob 0\n\n";
        assert_eq!(next_blob(&mut batch), Some(&b"a\nb"[..]));
        assert_eq!(next_blob(&mut batch), Some(&b""[..]));
        assert_eq!(next_blob(&mut batch), None);
        let mut missing: &[u8] = b"ab12 missing\n";
        assert_eq!(next_blob(&mut missing), None);
    }
}
