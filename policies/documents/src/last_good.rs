//! Version of every document that is in force.
//!
//! Files are edited by hand, and for a moment or a week one of them is wrong. The
//! rules by which a mistake stays harmless are here, as a pure function from what
//! was in force and what the files say now:
//!
//! - The last good version of a document that is invalid now stays, and all other
//!   documents count as they are.
//! - A file that became empty is invalid, not a deletion: editors and full disks
//!   leave such files behind.
//! - While a file's text is invalid, nothing is withdrawn merely because its document has
//!   vanished: it may be what the invalid text was meant to say. It gives way to
//!   documents that are there, when both claim an address.
//! - An object that an API server does not have any more was deleted, whatever else is
//!   invalid: the server names each object, and an invalid one is never another's old text.
//!   Otherwise a policy in error of one team would keep all others' from being deleted. The
//!   same holds of a Pod that its node announces in etcd, whose key names it.
//!
//! The last good version is kept with the text of its file, so that it can be read
//! again after a restart.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cofferdam_inventory::Inventory;
use cofferdam_inventory::shared_map::SharedMap;
use cofferdam_syntax::diagnostic::{Code, Diagnostic, Place, Severity};

use super::amend::Basis;
use super::file::{KeptFile, KeptFiles, Source, SourceMap, is_object};
use super::kept::Kept;
use super::{ANNOUNCED_PREFIX, Assembled, Document, Identity, Rejected, assemble};

/// The version of every document that was last in force.
#[derive(Debug, Clone, Default)]
pub struct LastGood {
    pub(super) documents: SharedMap<Identity, Document>,
    /// Files in which they stand; one that is repeated, everywhere.
    pub(super) files: KeptFiles,
}

/// State that is to be in force now.
#[derive(Debug, Clone, Default)]
pub struct Settled {
    /// The desired state.
    pub inventory: Inventory,
    /// Documents that count as they are now.
    pub accepted: usize,
    /// Documents that do not.
    pub rejected: Vec<Rejected>,
    /// Number of rejected documents that have no good version to stay in their place.
    pub unprecedented: usize,
    /// All findings, in the order of places.
    pub diagnostics: Vec<Diagnostic>,
    /// Versions to start from the next time.
    pub last_good: LastGood,
    /// Basis from which the next state can be told without putting everything together again;
    /// none when something is wrong.
    pub(super) basis: Option<Basis>,
}

impl Settled {
    /// Returns the state that is to be in force after this, now that the files say this.
    /// `unread` are the findings about files and directories that could not be read.
    ///
    /// Parts that are the same as before are shared with this one.
    #[must_use]
    pub fn next(&self, sources: &SourceMap, unread: Vec<Diagnostic>) -> Self {
        let amended = (self.basis.as_ref())
            .filter(|_| unread.is_empty())
            .and_then(|basis| basis.amend(self, sources));
        amended.unwrap_or_else(|| {
            let all: Vec<Source> = sources.values().cloned().collect();
            let mut next = self.last_good.settle(&all, unread);
            next.inventory.share_with(&self.inventory);
            if let Some(basis) = &mut next.basis {
                basis.share_files(sources);
            }
            next
        })
    }
}

/// Reason for which a kept version stands in for a document.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StandIn {
    /// The document is invalid.
    Invalid,
    /// The document is not there, while others are invalid.
    Vanished,
}

impl LastGood {
    /// Number of documents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Returns `true` if there are no documents.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Returns the files to be stored to have these versions again: no text of a file twice.
    #[must_use]
    pub fn files(&self) -> &KeptFiles {
        &self.files
    }

    /// Reads stored texts again. Also says which documents are no longer found in
    /// them, as after a change of what is valid.
    #[must_use]
    pub fn restore(files: KeptFiles) -> (Self, Vec<Identity>) {
        let mut last_good = Self::default();
        let mut lost = Vec::new();
        let versions = files.values().map(Kept::versions);
        for kept in versions.flat_map(Cow::into_owned) {
            let wanted: BTreeSet<&Identity> = kept.documents.iter().collect();
            let source = Source::new(kept.file.clone(), kept.text.clone());
            for document in &source.parsed.documents {
                let identity = &document.identity;
                if wanted.contains(identity) && !last_good.documents.contains_key(identity) {
                    last_good
                        .documents
                        .insert(identity.clone(), document.clone());
                }
            }
            let is_lost = |identity: &&&Identity| !last_good.documents.contains_key(**identity);
            lost.extend(wanted.iter().filter(is_lost).copied().cloned());
        }
        last_good.files = files;
        (last_good, lost)
    }

    /// Returns the state that is to be in force, now that the files say this. `unread` are the
    /// findings about files and directories that could not be read.
    #[must_use]
    pub fn settle(&self, sources: &[Source], unread: Vec<Diagnostic>) -> Settled {
        let mut reading = Reading::new(self, sources, unread);
        let assembled = reading.agree();
        let files = reading.files();
        let unprecedented = reading.unprecedented();
        let is_clean = reading.rejected.is_empty();
        let mut diagnostics = reading.diagnostics;
        diagnostics.extend(assembled.diagnostics);
        diagnostics.sort();
        diagnostics.dedup();
        reading.rejected.sort();
        Settled {
            inventory: assembled.inventory,
            accepted: reading.current.len(),
            rejected: reading.rejected,
            unprecedented,
            diagnostics,
            last_good: Self {
                documents: assembled.documents,
                files,
            },
            basis: is_clean
                .then(|| Basis::new(sources, assembled.repeated))
                .flatten(),
        }
    }
}

/// A file's name and its text at some time.
type Text<'t> = (&'t Arc<str>, &'t Arc<[u8]>);

/// The documents of a text that count.
struct Counting<'t> {
    /// The file, if that is its text now.
    source: Option<&'t Source>,
    documents: Vec<&'t Identity>,
}

impl<'t> Counting<'t> {
    /// Returns the file, if all documents that could be read of it count.
    fn whole(&self) -> Option<&'t Source> {
        let source = self.source?;
        let identities = source.parsed.documents.iter().map(|one| &one.identity);
        identities
            .eq(self.documents.iter().copied())
            .then_some(source)
    }
}

/// Versions on their way to an agreement.
struct Reading<'a> {
    before: &'a LastGood,
    /// Documents as they are now, with their files.
    current: Vec<(&'a Document, &'a Source)>,
    /// Documents whose kept versions count.
    stand_ins: BTreeMap<Identity, StandIn>,
    /// Kept versions that contradict others.
    given_up: BTreeSet<Identity>,
    rejected: Vec<Rejected>,
    diagnostics: Vec<Diagnostic>,
}

impl<'a> Reading<'a> {
    fn new(before: &'a LastGood, sources: &'a [Source], unread: Vec<Diagnostic>) -> Self {
        let mut reading = Self {
            before,
            current: Vec::new(),
            stand_ins: BTreeMap::new(),
            given_up: BTreeSet::new(),
            rejected: Vec::new(),
            diagnostics: Vec::new(),
        };
        for diagnostic in unread {
            reading.rejected.push(Rejected {
                place: diagnostic.place.clone(),
                identity: None,
            });
            reading.diagnostics.push(diagnostic);
        }
        for source in sources {
            let documents = source.parsed.documents.iter();
            reading
                .current
                .extend(documents.map(|document| (document, source)));
            reading
                .rejected
                .extend(source.parsed.rejected.iter().cloned());
            reading
                .diagnostics
                .extend(source.parsed.diagnostics.iter().cloned());
            if source.is_blank() && before.files.contains_key(&*source.file) {
                reading.reject_blank(&source.file);
            }
        }
        reading
    }

    fn reject_blank(&mut self, file: &Arc<str>) {
        let place = Place {
            file: file.clone(),
            line: 1,
            column: 1,
        };
        self.rejected.push(Rejected {
            place: place.clone(),
            identity: None,
        });
        self.diagnostics.push(Diagnostic {
            place,
            code: Code::File,
            severity: Severity::Error,
            message: "the file has become empty; what it said before stays in force".to_owned(),
            hint: Some("remove the file to withdraw its documents".to_owned()),
        });
    }

    /// Puts versions together until none contradicts another. Every round takes at
    /// least one version out, so that there is a last one.
    fn agree(&mut self) -> Assembled {
        loop {
            self.let_kept_stand_in();
            let current = self.current.iter().map(|(document, _)| *document);
            let stand_ins =
                (self.stand_ins.keys()).filter_map(|identity| self.before.documents.get(identity));
            let assembled = assemble(current.chain(stand_ins).cloned());
            let contradicting: BTreeSet<&Identity> = assembled
                .rejected
                .iter()
                .filter_map(|rejected| rejected.identity.as_ref())
                .collect();
            if contradicting.is_empty() {
                return assembled;
            }
            if self.give_up(&contradicting, Some(StandIn::Vanished)) {
                continue;
            }
            let places: BTreeSet<Place> = (self.current.iter())
                .filter(|(document, _)| contradicting.contains(&document.identity))
                .map(|(document, _)| document.place.clone())
                .collect();
            if places.is_empty() {
                self.give_up(&contradicting, None);
                continue;
            }
            let of_current = |place: &Place| places.contains(place);
            let (rejected, diagnostics) = (&assembled.rejected, &assembled.diagnostics);
            let rejected = rejected.iter().filter(|one| of_current(&one.place));
            self.rejected.extend(rejected.cloned());
            let diagnostics = diagnostics.iter().filter(|one| of_current(&one.place));
            self.diagnostics.extend(diagnostics.cloned());
            self.current
                .retain(|(document, _)| !contradicting.contains(&document.identity));
        }
    }

    /// Finds the documents whose kept versions count: those that are invalid, and,
    /// if any is, those that are not there.
    fn let_kept_stand_in(&mut self) {
        if self.rejected.is_empty() {
            return;
        }
        let present: BTreeSet<&Identity> = (self.current.iter())
            .map(|(document, _)| &document.identity)
            .collect();
        let invalid: BTreeSet<&Identity> = (self.rejected.iter())
            .filter_map(|rejected| rejected.identity.as_ref())
            .collect();
        let is_file_invalid = (self.rejected.iter()).any(|one| !is_named(&one.place.file));
        self.stand_ins = (self.before.documents.iter())
            .filter(|(identity, _)| {
                !present.contains(identity) && !self.given_up.contains(*identity)
            })
            .filter_map(|(identity, before)| {
                let why = match invalid.contains(identity) {
                    true => StandIn::Invalid,
                    false if is_named(&before.place.file) || !is_file_invalid => return None,
                    false => StandIn::Vanished,
                };
                Some((identity.clone(), why))
            })
            .collect();
    }

    /// Lets no kept version count any more that contradicts others, or only those
    /// kept for one reason. Whether there were any.
    fn give_up(&mut self, contradicting: &BTreeSet<&Identity>, only: Option<StandIn>) -> bool {
        let given_up: Vec<Identity> = (self.stand_ins.iter())
            .filter(|(identity, why)| {
                contradicting.contains(identity) && only.is_none_or(|only| **why == only)
            })
            .map(|(identity, _)| identity.clone())
            .collect();
        let any = !given_up.is_empty();
        self.given_up.extend(given_up);
        any
    }

    /// The texts that what counts stands in.
    fn files(&self) -> KeptFiles {
        let mut stored = Vec::new();
        if !self.stand_ins.is_empty() {
            let versions = self.before.files.values().map(Kept::versions);
            stored.extend(versions.flat_map(Cow::into_owned));
        }
        let mut files: Vec<(Text<'_>, Counting<'_>)> = Vec::new();
        for (document, source) in &self.current {
            let (file, text) = (&document.place.file, &source.text);
            match files.last_mut() {
                Some(((last, same), counting)) if *last == file && Arc::ptr_eq(same, text) => {
                    counting.documents.push(&document.identity);
                }
                _ => {
                    let counting = Counting {
                        source: Some(source),
                        documents: vec![&document.identity],
                    };
                    files.push(((file, text), counting));
                }
            }
        }
        for kept in &stored {
            let stands_in = |identity: &&Identity| self.stand_ins.contains_key(*identity);
            let counting = Counting {
                source: None,
                documents: kept.documents.iter().filter(stands_in).collect(),
            };
            if !counting.documents.is_empty() {
                files.push(((&kept.file, &kept.text), counting));
            }
        }
        files.sort_by_key(|(text, _)| *text);
        files.dedup_by(|(later, others), (first, counting)| {
            let is_same = later == first;
            if is_same {
                counting.documents.append(&mut others.documents);
            }
            is_same
        });
        let kept = |((file, text), counting): &(Text<'_>, Counting<'_>)| KeptFile {
            file: (*file).clone(),
            text: match counting.source.map(Source::whole_text) {
                Some(Cow::Owned(text)) => text.into(),
                _ => (*text).clone(),
            },
            documents: counting.documents.iter().copied().cloned().collect(),
        };
        let versions = files.chunk_by(|((one, _), _), ((other, _), _)| one == other);
        versions
            .map(|versions| {
                let kept = match versions {
                    [(_, counting)] if let Some(source) = counting.whole() => {
                        Kept::Whole(source.clone())
                    }
                    _ => Kept::Parts(versions.iter().map(kept).collect()),
                };
                let ((file, _), _) = versions[0];
                (file.clone(), kept)
            })
            .collect()
    }

    /// Counts the rejected documents that have no good version. One that does not say which
    /// document it is stands for one of its file's that has vanished, if there is one left.
    fn unprecedented(&self) -> usize {
        let mut vanished: Vec<&Identity> = (self.stand_ins.iter())
            .filter(|(_, why)| **why == StandIn::Vanished)
            .map(|(identity, _)| identity)
            .collect();
        let mut count = 0;
        for rejected in &self.rejected {
            let precedented = match &rejected.identity {
                Some(identity) => self.before.documents.contains_key(identity),
                None => {
                    let found = vanished.iter().position(|identity| {
                        let file = &self.before.documents[*identity].place.file;
                        lies_in(file, &rejected.place.file)
                    });
                    found.map(|index| vanished.swap_remove(index)).is_some()
                }
            };
            count += usize::from(!precedented);
        }
        count
    }
}

/// Returns `true` if a file's name says which document is in it, so that a file which has gone
/// is a document that was deleted.
fn is_named(file: &str) -> bool {
    is_object(file) || file.starts_with(ANNOUNCED_PREFIX)
}

/// Returns `true` if a file is `path`, or lies in the directory `path`.
fn lies_in(file: &str, path: &str) -> bool {
    file.strip_prefix(path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || path.ends_with('/'))
}

impl Source {
    /// Returns `true` if the text has nothing in it but space, comments and document markers.
    pub(super) fn is_blank(&self) -> bool {
        if !self.parsed.documents.is_empty() {
            return false;
        }
        let whole = &*self.text;
        let text = whole.strip_prefix("\u{feff}".as_bytes()).unwrap_or(whole);
        text.split(|byte| *byte == b'\n').all(|line| {
            let line = line.trim_ascii();
            line.is_empty() || line.starts_with(b"#") || line == b"---" || line == b"..."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n";

    fn policy(name: &str) -> String {
        format!("---\n{POLICY}metadata: {{name: {name}}}\nspec: {{podSelector: {{}}}}\n")
    }

    fn broken(name: &str) -> String {
        format!("---\n{POLICY}metadata: {{name: {name}}}\nspec: {{podSelektor: {{}}}}\n")
    }

    fn pod(name: &str, address: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nstatus: {{podIP: {address}}}\n"
        )
    }

    fn source(file: &str, text: &str) -> Source {
        Source::new(Arc::from(file), Arc::from(text.as_bytes()))
    }

    fn settle(before: &Settled, files: &[(&str, &str)]) -> Settled {
        let sources: Vec<Source> = files.iter().map(|(f, t)| source(f, t)).collect();
        before.last_good.settle(&sources, Vec::new())
    }

    fn names(settled: &Settled) -> Vec<String> {
        let policies = settled.inventory.policies().keys();
        let workloads = settled.inventory.workloads().values();
        policies
            .map(|name| name.name.to_string())
            .chain(workloads.map(|w| format!("{}={:?}", w.name.name, w.addresses)))
            .collect()
    }

    /// The pod `p` with a label that says where it is from, on a node or none.
    fn labelled(from: &str, node: &str, address: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p, labels: {{from: {from}}}}}\n\
             spec: {{nodeName: '{node}'}}\nstatus: {{podIP: '{address}'}}\n"
        )
    }

    #[test]
    fn a_document_describes_the_pod_of_its_name_that_a_node_announces() {
        let key = "etcd:endpoints/n2/default/p";
        let announced = labelled("node", "n2", "10.0.0.1");
        let both = |node: &str, address: &str| {
            let written = labelled("document", node, address);
            settle(&Settled::default(), &[("f", &written), (key, &announced)])
        };
        for (node, address) in [("", ""), ("n2", "10.0.0.9")] {
            let settled = both(node, address);
            assert_eq!(settled.rejected, []);
            let workload = settled.inventory.workloads().values().next().unwrap();
            assert_eq!(workload.labels.get("from"), Some("document"));
            assert_eq!(workload.node.as_deref(), Some("n2"));
            assert_eq!(names(&settled), ["p=[10.0.0.1]"]);
        }
        // On another node it is another pod.
        assert_eq!(both("n3", "").rejected.len(), 2);
        // Without the document the node's own words count, and the other way round.
        let alone = settle(&both("", ""), &[(key, &announced)]);
        let workload = alone.inventory.workloads().values().next().unwrap();
        assert_eq!(workload.labels.get("from"), Some("node"));
        let written = settle(&both("", ""), &[("f", &labelled("document", "", ""))]);
        assert_eq!(names(&written), ["p=[]"]);
    }

    #[test]
    fn an_announced_pod_that_has_gone_is_gone_whatever_is_invalid() {
        let key = "etcd:endpoints/n2/default/p";
        let text = "etcd:documents/b.yaml";
        let good = settle(
            &Settled::default(),
            &[
                ("f", &policy("a")),
                (text, &policy("b")),
                (key, &pod("p", "10.0.0.1")),
            ],
        );
        assert_eq!(names(&good), ["a", "b", "p=[10.0.0.1]"]);
        let next = settle(&good, &[("f", &broken("a"))]);
        assert_eq!(names(&next), ["a", "b"], "a key of documents is a file");
        // An invalid one keeps its own last version, and no other's.
        let next = settle(&good, &[(text, &policy("b")), (key, &broken("p"))]);
        assert_eq!(names(&next), ["b"]);
    }

    #[test]
    fn a_kept_file_as_a_source_has_what_was_good_alone() {
        let both = format!("{}{}", policy("a"), policy("b"));
        let good = settle(&Settled::default(), &[("f", &both)]);
        let text = format!("{}{}", broken("a"), policy("b"));
        let next = settle(&good, &[("f", &text)]);
        let kept = next
            .last_good
            .files()
            .values()
            .map(Kept::versions)
            .flat_map(Cow::into_owned);
        let sources: Vec<Source> = kept.map(|kept| kept.source()).collect();
        assert_eq!(sources.len(), 2, "two versions of one file");
        let again = LastGood::default().settle(&sources, Vec::new());
        assert_eq!(names(&again), ["a", "b"]);
        assert_eq!((again.rejected.len(), again.diagnostics.len()), (0, 0));
    }

    #[test]
    fn the_last_good_version_of_an_invalid_document_stays_and_others_are_new() {
        let both = format!("{}{}", policy("a"), pod("p", "10.0.0.1"));
        let good = settle(&Settled::default(), &[("f", &both)]);
        assert_eq!((good.accepted, good.rejected.len()), (2, 0));
        let text = format!("{}{}{}", broken("a"), pod("p", "10.0.0.2"), policy("b"));
        let next = settle(&good, &[("f", &text)]);
        assert_eq!(names(&next), ["a", "b", "p=[10.0.0.2]"]);
        assert_eq!((next.accepted, next.rejected.len()), (2, 1));
        assert_eq!(next.unprecedented, 0);
        let mended = settle(&next, &[("f", &policy("b"))]);
        assert_eq!(names(&mended), ["b"]);
    }

    #[test]
    fn an_object_that_an_api_server_has_no_more_goes_whatever_else_is_invalid() {
        let (a, b) = (
            "kubernetes:NetworkPolicy/default/a",
            "kubernetes:NetworkPolicy/default/b",
        );
        let good = settle(
            &Settled::default(),
            &[(a, &policy("a")), (b, &policy("b")), ("f", &policy("c"))],
        );
        assert_eq!(names(&good), ["a", "b", "c"]);
        let next = settle(&good, &[(a, &broken("a")), ("g", "%")]);
        assert_eq!(
            names(&next),
            ["a", "c"],
            "c may be what the broken file was"
        );
        let (restored, lost) = LastGood::restore(next.last_good.files().clone());
        assert!(lost.is_empty());
        let again = restored.settle(&[source(a, &broken("a"))], Vec::new());
        assert_eq!(names(&again), ["a"]);
    }

    #[test]
    fn an_invalid_document_without_a_good_version_is_left_out_and_counted() {
        let settled = settle(&Settled::default(), &[("f", &broken("a")), ("g", "%")]);
        assert!(names(&settled).is_empty());
        assert_eq!((settled.rejected.len(), settled.unprecedented), (2, 2));
    }

    #[test]
    fn a_file_that_became_empty_withdraws_nothing_and_one_that_always_was_is_fine() {
        let good = settle(&Settled::default(), &[("f", &policy("a")), ("g", "# no\n")]);
        assert!(good.rejected.is_empty());
        for text in ["", "\n", "---\n# gone\n...\n", "\u{feff}"] {
            let next = settle(&good, &[("f", text), ("g", "# no\n")]);
            assert_eq!(names(&next), ["a"], "{text:?}");
            assert_eq!((next.rejected.len(), next.unprecedented), (1, 0));
        }
        let gone = settle(&good, &[("g", "")]);
        assert!(names(&gone).is_empty());
        let other = settle(&good, &[("f", "apiVersion: v1\nkind: Secret\n")]);
        assert!(names(&other).is_empty());
    }

    #[test]
    fn nothing_is_withdrawn_while_a_document_is_invalid() {
        let good = settle(
            &Settled::default(),
            &[("f", &policy("a")), ("g", &policy("b"))],
        );
        let next = settle(&good, &[("g", &broken("b"))]);
        assert_eq!(names(&next), ["a", "b"]);
        let next = settle(&next, &[("g", &policy("b"))]);
        assert_eq!(names(&next), ["b"]);
    }

    #[test]
    fn text_that_is_no_document_stands_for_one_that_has_vanished_from_its_file() {
        let good = settle(&Settled::default(), &[("f", &policy("a"))]);
        let next = settle(&good, &[("f", "apiVersion: [")]);
        assert_eq!(
            (next.unprecedented, names(&next)),
            (0, vec!["a".to_owned()])
        );
        let two = format!("{}---\n}}\n", "---\napiVersion: [\n");
        assert_eq!(settle(&good, &[("f", &two)]).unprecedented, 1);
        assert_eq!(
            settle(&good, &[("f", &policy("a")), ("g", "apiVersion: [")]).unprecedented,
            1
        );
    }

    #[test]
    fn a_directory_that_cannot_be_read_withdraws_nothing() {
        let good = settle(&Settled::default(), &[("/d/f", &policy("a"))]);
        let unread = |file: &str| Diagnostic {
            place: Place {
                file: Arc::from(file),
                line: 1,
                column: 1,
            },
            code: Code::File,
            severity: Severity::Error,
            message: "cannot be read".to_owned(),
            hint: None,
        };
        let next = good.last_good.settle(&[], vec![unread("/d")]);
        assert_eq!(
            (next.unprecedented, names(&next)),
            (0, vec!["a".to_owned()])
        );
        let other = good.last_good.settle(&[], vec![unread("/other")]);
        assert_eq!(
            (other.unprecedented, names(&other)),
            (1, vec!["a".to_owned()])
        );
    }

    #[test]
    fn a_vanished_document_gives_way_to_one_that_claims_its_address() {
        let good = settle(
            &Settled::default(),
            &[("f", &pod("a", "10.0.0.1")), ("g", &policy("p"))],
        );
        let next = settle(&good, &[("f", &pod("b", "10.0.0.1")), ("g", &broken("p"))]);
        assert_eq!(names(&next), ["p", "b=[10.0.0.1]"]);
        assert_eq!(next.rejected.len(), 1);
    }

    #[test]
    fn a_new_claim_to_an_address_of_a_last_good_version_is_rejected() {
        let good = settle(&Settled::default(), &[("f", &pod("a", "10.0.0.1"))]);
        let files = [
            (
                "f",
                "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIP: 10.0.0}\n",
            ),
            ("g", &pod("b", "10.0.0.1")),
        ];
        let next = settle(&good, &files);
        assert_eq!(names(&next), ["a=[10.0.0.1]"]);
        assert_eq!((next.rejected.len(), next.unprecedented), (2, 1));
    }

    #[test]
    fn documents_that_contradict_each_other_leave_their_last_good_version() {
        let good = settle(&Settled::default(), &[("f", &pod("a", "10.0.0.1"))]);
        let texts = [("f", pod("a", "10.0.0.2")), ("g", pod("a", "10.0.0.3"))];
        let files = texts.each_ref().map(|(f, t)| (*f, t.as_str()));
        let next = settle(&good, &files);
        assert_eq!(names(&next), ["a=[10.0.0.1]"]);
        assert_eq!((next.rejected.len(), next.accepted), (2, 0));
    }

    #[test]
    fn what_is_stored_is_restored_with_its_places() {
        let text = format!("{}{}", policy("a"), policy("b"));
        let good = settle(&Settled::default(), &[("f", &text)]);
        let half_good = format!("{}{}", broken("a"), policy("b"));
        let next = settle(&good, &[("f", &half_good)]);
        let files = next.last_good.files();
        assert_eq!(files["f"].versions().len(), 2);
        let (restored, lost) = LastGood::restore(files.clone());
        assert!(lost.is_empty());
        let again = restored.settle(&[source("f", &half_good)], Vec::new());
        assert_eq!(again.inventory, next.inventory);
        assert_eq!(again.unprecedented, 0);
        let mut stored = good.last_good.files().clone();
        let mut kept = stored["f"].versions()[0].clone();
        kept.text = Arc::from(policy("a").as_bytes());
        stored.insert(kept.file.clone(), Kept::Parts([kept].into()));
        let (restored, lost) = LastGood::restore(stored);
        assert_eq!((restored.len(), lost.len()), (1, 1));
    }
    #[test]
    fn policies_of_the_cluster_stand_in_and_are_restored_too() {
        let cluster = |action: &str| {
            format!(
                "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
                 metadata: {{name: c}}\nspec:\n  tier: Admin\n  priority: 1\n  \
                 subject: {{namespaces: {{}}}}\n  \
                 ingress: [{{action: {action}, from: [{{namespaces: {{}}}}]}}]\n"
            )
        };
        let good = settle(&Settled::default(), &[("f", &cluster("Deny"))]);
        assert_eq!(good.inventory.cluster_policies().len(), 1);
        let now = cluster("Allow");
        let next = settle(&good, &[("f", &now)]);
        assert_eq!((next.rejected.len(), next.unprecedented), (1, 0));
        assert_eq!(next.inventory, good.inventory);
        // As the agent stores and reads them: the kind by its name.
        let named = |kept: &KeptFile| {
            let documents = kept.documents.iter().cloned();
            let named = documents.map(|identity| Identity {
                kind: Kind::parse(identity.kind.as_str()).unwrap(),
                ..identity
            });
            KeptFile {
                documents: named.collect(),
                ..kept.clone()
            }
        };
        let stored = next.last_good.files().iter().map(|(file, kept)| {
            let versions = kept.versions().iter().map(named).collect();
            (file.clone(), Kept::Parts(versions))
        });
        let (restored, lost) = LastGood::restore(stored.collect());
        assert!(lost.is_empty());
        let again = restored.settle(&[source("f", &now)], Vec::new());
        assert_eq!(again.inventory, good.inventory);
    }
}
