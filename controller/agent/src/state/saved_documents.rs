//! The last good version of every document, in files.
//!
//! A log in parts: each has what is new of some files of documents, and stands over
//! the parts before it. A list of the parts is written last, so that after a crash
//! there is what was saved before or what was saved now, whole. One changed file costs
//! a small part; a part of which not much more still counts than the next has is merged
//! into it, so that there are few, and a file is written again only about as often as the
//! logarithm of how many there are.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use cofferdam_documents::{Identity, Kept, KeptFile, KeptFiles, Kind};
use serde::{Deserialize, Serialize};

use super::{StateError, Store};

/// Name of the list of parts.
const LIST: &str = "documents.json";
/// Part `n` is `documents-n.json`.
const PART: (&str, &str) = ("documents-", ".json");

/// A part of which more than this many times as much counts as the next has is left as
/// it is.
const LARGER: usize = 2;
/// Bytes that a document's name counts for, beside those of texts.
const NAME_BYTES: usize = 64;
/// Bytes that a pod counts for whose text is made when it is written.
const POD_BYTES: usize = 384;

/// The parts that count, oldest first.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    parts: Vec<u64>,
}

/// New content of some files.
#[derive(Debug, Serialize, Deserialize)]
struct Part<'t> {
    files: Vec<File<'t>>,
}

/// A file of documents: what stood there before does not count any more.
#[derive(Debug, Serialize, Deserialize)]
struct File<'t> {
    file: Cow<'t, str>,
    versions: Vec<Version<'t>>,
}

/// A file's text at some time, with those of its documents that are the last good ones.
#[derive(Debug, Serialize, Deserialize)]
struct Version<'t> {
    text: Cow<'t, str>,
    /// Kind, namespace and name of each.
    documents: Vec<[Cow<'t, str>; 3]>,
}

/// Facts known of a part without reading it.
#[derive(Debug, Clone)]
struct KnownPart {
    number: u64,
    files: Arc<BTreeSet<Arc<str>>>,
}

/// The documents in the state directory.
#[derive(Debug)]
pub struct StoredDocuments {
    store: Store,
    parts: Vec<KnownPart>,
    /// Documents that the parts come to; none when there is no list, or it is not believed.
    saved: Option<KeptFiles>,
}

impl StoredDocuments {
    /// Nothing has been read yet.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            parts: Vec::new(),
            saved: None,
        }
    }

    /// Reads what was saved; none when nothing ever was.
    ///
    /// # Errors
    /// When a part cannot be read or not be believed: then nothing is, for a part stands
    /// over older versions of its documents.
    pub fn load(&mut self) -> Result<Option<KeptFiles>, StateError> {
        let Some(List { parts: numbers }) = self.store.load(LIST)? else {
            return Ok(None);
        };
        let mut saved = KeptFiles::default();
        let mut parts = Vec::new();
        for number in numbers {
            let name = part_name(number);
            let missing = || self.store.damaged(&name, "it is missing");
            let part: Part<'_> = self.store.load(&name)?.ok_or_else(missing)?;
            let mut files = BTreeSet::new();
            for (file, versions) in part.files.into_iter().map(kept) {
                files.insert(file.clone());
                match versions.is_empty() {
                    true => _ = saved.remove(&*file),
                    false => _ = saved.insert(file, Kept::Parts(versions.into())),
                }
            }
            parts.push(KnownPart {
                number,
                files: files.into(),
            });
        }
        self.parts = parts;
        self.saved = Some(saved.clone());
        Ok(Some(saved))
    }

    /// Saves these versions in place of those before.
    ///
    /// # Errors
    /// When the file system refuses; what was saved before stays.
    pub fn save(&mut self, files: &KeptFiles) -> Result<(), StateError> {
        let mut names = changed(self.saved.as_ref(), files);
        if self.saved.is_none() || !names.is_empty() {
            let number = self.next_number()?;
            let (parts, written) = self.with_part(number, &mut names, files);
            if let Some(part) = written {
                self.store.save(&part_name(number), &part)?;
            }
            let numbers = parts.iter().map(|part| part.number);
            let list = List {
                parts: numbers.collect(),
            };
            self.store.save(LIST, &list)?;
            self.parts = parts;
            self.remove_others()?;
        }
        // The same, or what was just written; and from now on shared.
        self.saved = Some(files.clone());
        Ok(())
    }

    /// The parts when what is new of these files stands over them under this number, and
    /// what is to be written for it.
    fn with_part<'n>(
        &self,
        number: u64,
        names: &mut BTreeSet<Arc<str>>,
        now: &'n KeptFiles,
    ) -> (Vec<KnownPart>, Option<Part<'n>>) {
        let mut parts = self.parts.clone();
        let weight_of = |names: &BTreeSet<Arc<str>>| -> usize {
            let kept = names.iter().filter_map(|name| now.get(name));
            kept.map(weight).sum()
        };
        while let Some(last) =
            parts.pop_if(|last| weight_of(&last.files) <= LARGER * weight_of(names))
        {
            names.extend(last.files.iter().cloned());
        }
        if parts.is_empty() {
            // There is nothing older to stand over.
            names.retain(|name| now.contains_key(name));
        }
        if names.is_empty() {
            return (parts, None);
        }
        let files = names.iter().map(|name| match now.get_key_value(name) {
            Some((name, versions)) => File {
                file: Cow::Borrowed(name),
                versions: stored(versions),
            },
            None => File {
                file: Cow::Owned(name.to_string()),
                versions: Vec::new(),
            },
        });
        let part = Part {
            files: files.collect(),
        };
        parts.push(KnownPart {
            number,
            files: names.clone().into(),
        });
        (parts, Some(part))
    }

    /// A number that no part has, whether it counts or not: a part that is listed is
    /// never written again.
    fn next_number(&self) -> Result<u64, StateError> {
        let names = self.store.names()?;
        let there = names.iter().filter_map(|name| number_of(name));
        Ok(there.max().map_or(1, |last| last + 1))
    }

    /// Removes the parts that do not count.
    fn remove_others(&self) -> Result<(), StateError> {
        let is_listed = |number| self.parts.iter().any(|part| part.number == number);
        for name in self.store.names()? {
            if number_of(&name).is_some_and(|number| !is_listed(number)) {
                self.store.remove(&name)?;
            }
        }
        Ok(())
    }
}

fn part_name(number: u64) -> String {
    format!("{}{number}{}", PART.0, PART.1)
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix(PART.0)?
        .strip_suffix(PART.1)?
        .parse()
        .ok()
}

/// The files of which something is new, or that have gone.
fn changed(before: Option<&KeptFiles>, now: &KeptFiles) -> BTreeSet<Arc<str>> {
    let Some(before) = before else {
        return now.keys().cloned().collect();
    };
    let changes = before.changes(now).into_iter();
    changes.map(|change| change.key.clone()).collect()
}

/// About how many bytes versions take.
fn weight(kept: &Kept) -> usize {
    let weight = |text: usize, documents: usize| text + documents * NAME_BYTES;
    match kept {
        Kept::Whole(source) => {
            let documents = source.parsed.documents.len();
            match source.text.len() {
                0 => documents * (POD_BYTES + NAME_BYTES),
                bytes => weight(bytes, documents),
            }
        }
        Kept::Parts(versions) => {
            let versions = versions.iter();
            versions
                .map(|version| weight(version.text.len(), version.documents.len()))
                .sum()
        }
    }
}

fn stored(kept: &Kept) -> Vec<Version<'_>> {
    match kept {
        Kept::Whole(source) => {
            let documents = source.parsed.documents.iter();
            vec![version(
                source.whole_text(),
                documents.map(|one| &one.identity),
            )]
        }
        Kept::Parts(versions) => {
            let versions = versions.iter();
            versions
                .map(|one| version(Cow::Borrowed(&one.text), one.documents.iter()))
                .collect()
        }
    }
}

fn version<'k>(text: Cow<'k, [u8]>, documents: impl Iterator<Item = &'k Identity>) -> Version<'k> {
    let names = documents.map(|identity| {
        let Identity {
            kind,
            namespace,
            name,
        } = identity;
        [kind.as_str(), &**namespace, &**name].map(Cow::Borrowed)
    });
    Version {
        // A text with a good document is UTF-8.
        text: match text {
            Cow::Borrowed(text) => String::from_utf8_lossy(text),
            Cow::Owned(text) => Cow::Owned(String::from_utf8_lossy(&text).into_owned()),
        },
        documents: names.collect(),
    }
}

fn kept(stored: File<'_>) -> (Arc<str>, Vec<KeptFile>) {
    let file: Arc<str> = stored.file.into();
    let versions = stored
        .versions
        .into_iter()
        .map(|version| {
            let identities = version
                .documents
                .into_iter()
                .filter_map(|[kind, namespace, name]| {
                    Some(Identity {
                        kind: Kind::parse(&kind)?,
                        namespace: namespace.into(),
                        name: name.into(),
                    })
                });
            KeptFile {
                file: file.clone(),
                text: version.text.into_owned().into_bytes().into(),
                documents: identities.collect(),
            }
        })
        .collect();
    (file, versions)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::super::tests::store;
    use super::*;

    fn kept_file(file: &str, text: &str) -> KeptFile {
        KeptFile {
            file: file.into(),
            text: text.as_bytes().into(),
            documents: [Identity {
                kind: Kind::Pod,
                namespace: "x".into(),
                name: text.into(),
            }]
            .into(),
        }
    }

    fn by_file(files: &[KeptFile]) -> KeptFiles {
        let versions = files.chunk_by(|a, b| a.file == b.file);
        versions
            .map(|versions| (versions[0].file.clone(), versions.into()))
            .collect()
    }

    fn loaded(store: &Store) -> Option<KeptFiles> {
        StoredDocuments::new(store.clone()).load().unwrap()
    }

    fn parts(path: &Path) -> Vec<u64> {
        let entries = fs::read_dir(path).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut numbers: Vec<u64> = names.filter_map(|name| number_of(&name)).collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn what_was_saved_last_is_loaded_whatever_was_saved_before() {
        let (folder, store) = store();
        let path = folder.path().join("state");
        assert_eq!(loaded(&store), None);
        let mut stored = StoredDocuments::new(store.clone());
        stored.save(&by_file(&[])).unwrap();
        assert_eq!(
            loaded(&store),
            Some(KeptFiles::default()),
            "nothing, but it was in force"
        );
        // Files come, change, have two versions, and go, by a fixed rule.
        let mut files: BTreeMap<usize, Vec<KeptFile>> = BTreeMap::new();
        for step in 0..200_usize {
            let at = step * 7 % 23;
            let text = |version: usize| "x".repeat(step * 31 % 400) + &format!("{step}-{version}");
            let versions = (0..step % 3).map(|n| kept_file(&format!("f{at:02}"), &text(n)));
            files.insert(at, versions.collect());
            let all: Vec<KeptFile> = files.values().flatten().cloned().collect();
            let all = by_file(&all);
            if step % 17 == 0 {
                // A restart.
                stored = StoredDocuments::new(store.clone());
                stored.load().unwrap();
            }
            stored.save(&all).unwrap();
            assert_eq!(loaded(&store), Some(all));
            let numbers: Vec<u64> = stored.parts.iter().map(|part| part.number).collect();
            assert_eq!(parts(&path), numbers);
            assert!(numbers.len() < 12, "{} parts", numbers.len());
        }
        stored.save(&by_file(&[])).unwrap();
        assert_eq!(loaded(&store), Some(KeptFiles::default()));
        assert!(parts(&path).is_empty(), "there is nothing to stand over");
    }

    #[test]
    fn one_changed_file_of_many_is_all_that_is_written() {
        let (folder, store) = store();
        let path = folder.path().join("state");
        let mut stored = StoredDocuments::new(store);
        let large = "x".repeat(10_000);
        let mut files: Vec<KeptFile> = (0..9)
            .map(|n| kept_file(&format!("f{n}"), &large))
            .collect();
        stored.save(&by_file(&files)).unwrap();
        let size = |number| fs::metadata(path.join(part_name(number))).unwrap().len();
        assert_eq!((parts(&path), size(1) > 90_000), (vec![1], true));
        for number in 2..9 {
            files[4] = kept_file("f4", &format!("{number}"));
            stored.save(&by_file(&files)).unwrap();
            // The part before had an older version of the same file alone.
            assert_eq!(parts(&path), [1, number]);
            assert!(size(number) < 200);
        }
        stored.save(&by_file(&files)).unwrap();
        assert_eq!(parts(&path), [1, 8], "nothing has changed");
    }

    #[test]
    fn a_part_that_is_damaged_or_missing_makes_all_others_worthless() {
        let (folder, store) = store();
        let path = folder.path().join("state");
        let mut stored = StoredDocuments::new(store.clone());
        let large = kept_file("a", &"x".repeat(1_000));
        stored.save(&by_file(std::slice::from_ref(&large))).unwrap();
        stored
            .save(&by_file(&[large.clone(), kept_file("b", "y")]))
            .unwrap();
        assert_eq!(parts(&path), [1, 2]);
        let second = path.join(part_name(2));
        let good = fs::read(&second).unwrap();
        fs::write(&second, &good[1..]).unwrap();
        let mut stored = StoredDocuments::new(store.clone());
        stored.load().unwrap_err();
        fs::remove_file(&second).unwrap();
        let error = stored.load().unwrap_err();
        assert!(error.to_string().contains("documents-2.json"), "{error}");
        // A new beginning overwrites nothing that the old list names.
        stored.save(&by_file(std::slice::from_ref(&large))).unwrap();
        assert_eq!(parts(&path), [2], "1 was there");
        assert_eq!(loaded(&store), Some(by_file(&[large])));
    }
}
