//! Faults as data: the files in `tests/mutants`.
//!
//! ```text
//! == a later fragment passes for a whole datagram
//! in dataplane/verdict/src/packet.rs
//! test verdict host fragments_are_told_apart
//! - if fragment & OFFSET != 0 {
//! + if fragment & OFFSET > 1 {
//! ```
//!
//! A fault says what is broken, where, by which test it is caught, and the change: lines
//! with `-` become lines with `+`. The old text occurs exactly once in its file, whatever
//! white space is between its words; a fault that does not fit its file any more is an
//! error. Other lines beginning with `#` and empty ones say nothing.

use std::{fmt, fs, ops::Range, path::Path};

use anyhow::{Context as _, Result, bail, ensure};

/// Folder of the files.
const FOLDER: &str = "tests/mutants";

/// The test that must fail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Catch {
    /// Package, without the `cofferdam-` before it.
    pub(super) package: String,
    /// Name of the test binary; `lib` for the unit tests.
    pub(super) binary: String,
    /// Part of the names of the tests.
    pub(super) filter: String,
}

impl fmt::Display for Catch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} {} {}",
            self.package, self.binary, self.filter
        )
    }
}

/// One deliberate fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Description of the damage, as a sentence.
    pub(super) name: String,
    /// File to change, from the root of the workspace.
    pub(super) file: String,
    /// Test that catches it.
    pub(super) catch: Catch,
    old: String,
    new: String,
}

impl Fault {
    /// Returns the text of its file with the fault in it.
    ///
    /// # Errors
    ///
    /// Fails if the old text does not occur exactly once.
    pub(super) fn applied(&self, text: &str) -> Result<String> {
        let found = places(text, &self.old);
        let [place] = found.as_slice() else {
            bail!(
                "\"{}\" is stale: its old text occurs {} times in {}; make it fit the source \
                 again, or replace the fault by another of its kind",
                self.name,
                found.len(),
                self.file
            );
        };
        let faulty = [&text[..place.start], &self.new, &text[place.end..]].concat();
        ensure!(faulty != text, "\"{}\" changes nothing", self.name);
        Ok(faulty)
    }
}

/// Reads all faults of a workspace, in the order of files and lines.
pub(super) fn read_all(root: &Path) -> Result<Vec<Fault>> {
    let folder = root.join(FOLDER);
    let cannot_read = || format!("cannot read {}", folder.display());
    let entries = fs::read_dir(&folder).with_context(cannot_read)?;
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry.with_context(cannot_read)?.path());
    }
    files.sort();
    let mut faults: Vec<Fault> = Vec::new();
    for file in files {
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let read = parse(&text).with_context(|| format!("cannot use {}", file.display()))?;
        for fault in read {
            let known = faults.iter().any(|other| other.name == fault.name);
            ensure!(!known, "two faults are called \"{}\"", fault.name);
            faults.push(fault);
        }
    }
    Ok(faults)
}

/// Parses one file of faults.
fn parse(text: &str) -> Result<Vec<Fault>> {
    let mut faults = Vec::new();
    for block in format!("\n{text}").split("\n== ").skip(1) {
        let name = block.lines().next().unwrap_or_default().trim();
        let fault = parse_one(name, block).with_context(|| format!("in \"{name}\""))?;
        faults.push(fault);
    }
    Ok(faults)
}

fn parse_one(name: &str, block: &str) -> Result<Fault> {
    let of = |start: &str| {
        let lines = block.lines().skip(1);
        lines
            .filter_map(|line| line.strip_prefix(start))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let strange = block.lines().skip(1).find(|line| {
        !line.is_empty()
            && !["in ", "test ", "- ", "+ ", "#"]
                .iter()
                .any(|start| line.starts_with(start))
    });
    if let Some(line) = strange {
        bail!("a line begins with none of in, test, -, + and #: {line}");
    }
    let (files, tests) = (of("in "), of("test "));
    let ([file], [test]) = (files.as_slice(), tests.as_slice()) else {
        bail!("one line says which file (in FILE), and one which test (test PACKAGE BINARY NAME)");
    };
    let words: Vec<&str> = test.split_whitespace().collect();
    let [package, binary, filter] = words.as_slice() else {
        bail!("a test is named by three words: PACKAGE BINARY NAME");
    };
    let old = of("- ").join("\n");
    ensure!(
        !old.is_empty(),
        "nothing is replaced: no line begins with -"
    );
    Ok(Fault {
        name: name.to_owned(),
        file: file.clone(),
        catch: Catch {
            package: (*package).to_owned(),
            binary: (*binary).to_owned(),
            filter: (*filter).to_owned(),
        },
        old,
        new: of("+ ").join("\n"),
    })
}

/// Returns the places at which `wanted` occurs, whatever white space is between its words.
fn places(text: &str, wanted: &str) -> Vec<Range<usize>> {
    let words: Vec<&str> = wanted.split_whitespace().collect();
    let Some((&first, rest)) = words.split_first() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (start, _) in text.match_indices(first) {
        let mut end = start + first.len();
        let fits = rest.iter().all(|word| {
            let behind = &text[end..];
            let trimmed = behind.trim_start();
            let fits = trimmed.len() < behind.len() && trimmed.starts_with(word);
            end += behind.len() - trimmed.len() + word.len();
            fits
        });
        if fits {
            found.push(start..end);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run;

    const TEXT: &str = "# Words about the file.\n\n== one is two\n# Why.\nin a.rs\n\
                        test verdict host numbers\n- one == \n- 1\n+ one == 2\n";

    #[test]
    fn a_fault_is_read_and_applied() {
        let [fault] = parse(TEXT).unwrap().try_into().unwrap();
        assert_eq!(
            (fault.name.as_str(), fault.file.as_str()),
            ("one is two", "a.rs")
        );
        assert_eq!(fault.catch.to_string(), "verdict host numbers");
        let faulty = fault.applied("if one\n    == 1 {}").unwrap();
        assert_eq!(faulty, "if one == 2 {}");
    }

    #[test]
    fn a_stale_fault_is_an_error() {
        let [fault] = parse(TEXT).unwrap().try_into().unwrap();
        for text in ["", "one != 1", "one == 1; one == 1", "one == 2"] {
            let error = fault.applied(text).unwrap_err();
            assert!(error.to_string().contains("is stale"), "{error}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (old, new) in [
            ("in a.rs\n", ""),
            ("host numbers", "numbers"),
            ("- one", "-one"),
            ("in a.rs\n", "in a.rs\nin b.rs\n"),
        ] {
            let text = TEXT.replace(old, new);
            assert!(parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_fault_fits_the_source_and_there_are_forty() {
        let root = run::root();
        let faults = read_all(&root).unwrap();
        for fault in &faults {
            let text = fs::read_to_string(root.join(&fault.file)).unwrap();
            fault.applied(&text).unwrap();
        }
        assert!(faults.len() >= 40, "{}", faults.len());
    }
}
