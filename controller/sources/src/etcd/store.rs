//! The keys under the prefix, as documents. Pure: it knows no connection and no clock.
//!
//! A key below `documents/` stands for a file. One below `endpoints/` is a Pod that its node
//! announces ([`super::announced`]). Two nodes may announce one name, or one address, for a
//! while: when a workload has moved, or when its node is dead and the lease is not over yet.
//! Name and address count for the key that was made last. The other Pod is left out, or is
//! without the address, until they are its own alone.
//!
//! Invariants: what is held is what there was at one revision; what counts does not depend on
//! the order in which keys were heard of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_documents::{ETCD_PREFIX, Source};

use super::announced;
use crate::claims::Claims;

/// Folder of the keys that people put there.
pub(super) const DOCUMENTS: &str = "documents/";

/// A key below the prefix, and what is there.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    /// The key without the prefix.
    pub(super) key: String,
    /// The text.
    pub(super) value: Vec<u8>,
    /// Revision at which the key was made.
    pub(super) created: i64,
    /// Revision at which the text was put there.
    pub(super) modified: i64,
}

/// Number of keys that count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys below `documents/`.
    pub documents: usize,
    /// Keys below `endpoints/`, of all nodes.
    pub endpoints: usize,
}

impl Counts {
    /// Returns the number that a key is counted in.
    fn of(&mut self, key: &str) -> Option<&mut usize> {
        if key.starts_with(DOCUMENTS) {
            Some(&mut self.documents)
        } else if key.starts_with(announced::FOLDER) {
            Some(&mut self.endpoints)
        } else {
            None
        }
    }
}

/// All keys below the prefix.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// The revision that the keys are of; `None` before a whole list has been read.
    revision: Option<i64>,
    /// The newest revision at which a document was put there.
    told: i64,
    held: BTreeMap<Arc<str>, Held>,
    counts: Counts,
    claims: Claims<Claim>,
}

#[derive(Debug)]
struct Held {
    created: i64,
    modified: i64,
    value: Arc<[u8]>,
    meaning: Meaning,
}

/// Meaning of a key.
#[derive(Debug)]
enum Meaning {
    /// Nothing that documents are read from.
    Nothing,
    /// A file of documents, or a text that is not the Pod that its key names.
    Text(Source),
    /// A Pod that its node announces.
    Pod(Box<Pod>),
}

#[derive(Debug)]
struct Pod {
    whole: Source,
    claims: Vec<Claim>,
    /// `true` if another node's Pod of that name counts.
    is_outdone: bool,
    /// Addresses that count for others.
    withheld: BTreeSet<IpAddr>,
    /// The document without those; `None` if it is the whole one.
    rest: Option<Source>,
}

/// Something that only one Pod can have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Claim {
    /// Namespace and name.
    Name(String, String),
    Address(IpAddr),
}

impl Store {
    /// Returns the revision that the keys are of, `None` before a whole list has been read.
    pub(super) fn revision(&self) -> Option<i64> {
        self.revision
    }

    /// Returns the newest revision at which a key of documents was put there: every one with it or
    /// a lower one is known. What nodes announce does not change it.
    pub(super) fn told(&self) -> i64 {
        self.told
    }

    /// Returns the documents that count, in the order of their keys.
    pub(super) fn sources(&self) -> Vec<Source> {
        let meanings = self.held.values().map(|held| &held.meaning);
        let counting = meanings.filter_map(|meaning| match meaning {
            Meaning::Nothing => None,
            Meaning::Text(source) => Some(source),
            Meaning::Pod(pod) if pod.is_outdone => None,
            Meaning::Pod(pod) => Some(pod.rest.as_ref().unwrap_or(&pod.whole)),
        });
        counting.cloned().collect()
    }

    /// Returns how many keys there are.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Returns how many keys there are by their folders.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes all keys that there are at a revision in place of those before. Returns `true` if
    /// something counts differently now.
    pub(super) fn replace(&mut self, pairs: Vec<Pair>, revision: i64) -> bool {
        let was_complete = self.revision.replace(revision).is_some();
        let keys = pairs.iter().map(|pair| pair.key.as_str()).collect();
        let mut is_changed = self.retain(&keys) || !was_complete;
        // It may be another cluster, or one that was put back.
        self.told = 0;
        for pair in pairs {
            is_changed |= self.put(pair);
        }
        is_changed
    }

    /// Takes those keys that were put since the revision that is held, which all are of another
    /// revision. Returns `true` if something counts differently now.
    pub(super) fn catch_up(&mut self, pairs: Vec<Pair>, revision: i64) -> bool {
        let mut is_changed = false;
        for pair in pairs {
            is_changed |= self.put(pair);
        }
        self.revision = Some(revision);
        is_changed
    }

    /// Leaves out all keys but these. Returns `true` if something counts differently now.
    pub(super) fn retain(&mut self, keys: &BTreeSet<&str>) -> bool {
        let gone = self.held.keys().filter(|key| !keys.contains(&***key));
        let gone: Vec<Arc<str>> = gone.cloned().collect();
        let mut is_changed = false;
        for key in gone {
            is_changed |= self.take_out(&key);
        }
        is_changed
    }

    /// Takes the events of a revision: keys with what was put there, `None` where they were
    /// deleted. Those of a revision that is known change nothing. Returns `true` if something
    /// counts differently now.
    pub(super) fn apply(&mut self, events: Vec<Event>) -> bool {
        let known = self.revision.unwrap_or_default();
        let mut is_changed = false;
        for event in events.into_iter().filter(|event| event.revision() > known) {
            self.revision = self.revision.max(Some(event.revision()));
            is_changed |= match event {
                Event::Put(pair) => self.put(pair),
                Event::Delete { key, .. } => self.take_out(&Arc::from(key)),
            };
        }
        is_changed
    }

    fn put(&mut self, pair: Pair) -> bool {
        let Pair {
            key,
            value,
            created,
            modified,
        } = pair;
        if key.starts_with(DOCUMENTS) {
            self.told = self.told.max(modified);
        }
        if let Some(held) = self.held.get_mut(key.as_str())
            && held.created == created
            && *held.value == *value
        {
            held.modified = modified;
            return false;
        }
        let value: Arc<[u8]> = value.into();
        let meaning = if key.starts_with(DOCUMENTS) {
            let file = format!("{ETCD_PREFIX}{key}").into();
            Meaning::Text(Source::new(file, value.clone()))
        } else if key.starts_with(announced::FOLDER) {
            match announced::read(&key, value.clone()) {
                (source, None) => Meaning::Text(source),
                (source, Some(announcement)) => {
                    let name = Claim::Name(announcement.namespace, announcement.name);
                    let addresses = announced::addresses(&source)
                        .iter()
                        .copied()
                        .map(Claim::Address);
                    Meaning::Pod(Box::new(Pod {
                        claims: std::iter::once(name).chain(addresses).collect(),
                        whole: source,
                        is_outdone: false,
                        withheld: BTreeSet::new(),
                        rest: None,
                    }))
                }
            }
        } else {
            Meaning::Nothing
        };
        let counts = !matches!(meaning, Meaning::Nothing);
        let claims = claims(&meaning);
        let held = Held {
            created,
            modified,
            value,
            meaning,
        };
        let key: Arc<str> = key.into();
        let before = self.held.insert(key.clone(), held);
        if before.is_none()
            && let Some(count) = self.counts.of(&key)
        {
            *count += 1;
        }
        let had = before.map(|held| self::claims(&held.meaning));
        self.settle(&key, &had.unwrap_or_default(), &claims);
        counts
    }

    fn take_out(&mut self, key: &Arc<str>) -> bool {
        let Some(held) = self.held.remove(key) else {
            return false;
        };
        if let Some(count) = self.counts.of(key) {
            *count -= 1;
        }
        self.settle(key, &claims(&held.meaning), &[]);
        !matches!(held.meaning, Meaning::Nothing)
    }

    /// Lets every name and address count for the Pod that has it, and for no other.
    fn settle(&mut self, key: &Arc<str>, before: &[Claim], now: &[Claim]) {
        let mut open = self.claims.put(key, before, now);
        // Names come first. A Pod that does not count by its name has no address.
        while let Some(claim) = open.pop_first() {
            let claimants = self.claims.claimants(&claim);
            let is_of_name = matches!(claim, Claim::Name(..));
            let rank = |key: &&Arc<str>| self.rank(key, is_of_name);
            let owner = claimants.iter().max_by_key(rank).cloned();
            for key in claimants {
                let is_owner = Some(&key) == owner.as_ref();
                let Some(Meaning::Pod(pod)) = self.held.get_mut(&key).map(|one| &mut one.meaning)
                else {
                    continue;
                };
                match &claim {
                    Claim::Name(..) if pod.is_outdone == is_owner => {
                        pod.is_outdone = !is_owner;
                        open.extend(pod.claims[1..].iter().cloned());
                    }
                    Claim::Name(..) => {}
                    Claim::Address(address) => pod.withhold(*address, !is_owner),
                }
            }
        }
    }

    /// Order of those that claim one thing: the greatest has it.
    fn rank(&self, key: &Arc<str>, is_of_name: bool) -> Option<(bool, i64, Arc<str>)> {
        let held = self.held.get(key)?;
        let Meaning::Pod(pod) = &held.meaning else {
            return None;
        };
        Some((is_of_name || !pod.is_outdone, held.created, key.clone()))
    }
}

impl Pod {
    /// Leaves an address out of the document, or puts it in again.
    fn withhold(&mut self, address: IpAddr, is_withheld: bool) {
        let is_new = match is_withheld {
            true => self.withheld.insert(address),
            false => self.withheld.remove(&address),
        };
        if is_new {
            let withheld: Vec<IpAddr> = self.withheld.iter().copied().collect();
            let rest = (!withheld.is_empty()).then(|| announced::without(&self.whole, &withheld));
            self.rest = rest;
        }
    }
}

fn claims(meaning: &Meaning) -> Vec<Claim> {
    match meaning {
        Meaning::Pod(pod) => pod.claims.clone(),
        Meaning::Nothing | Meaning::Text(_) => Vec::new(),
    }
}

/// A change of a key.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// A text was put there.
    Put(Pair),
    /// It was deleted, or its lease ended.
    Delete {
        /// The key without the prefix.
        key: String,
        /// Revision of that.
        revision: i64,
    },
}

impl Event {
    /// Returns the revision at which it happened.
    fn revision(&self) -> i64 {
        match self {
            Self::Put(pair) => pair.modified,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, text: &str, created: i64, modified: i64) -> Pair {
        Pair {
            key: key.to_owned(),
            value: text.into(),
            created,
            modified,
        }
    }

    /// The Pod `shop/NAME` of a node.
    fn pod(node: &str, name: &str, address: &str, created: i64) -> Pair {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{nodeName: {node}}}\nstatus: {{podIP: {address}}}\n"
        );
        pair(
            &format!("endpoints/{node}/shop/{name}"),
            &text,
            created,
            created,
        )
    }

    fn delete(key: &str, revision: i64) -> Event {
        Event::Delete {
            key: key.to_owned(),
            revision,
        }
    }

    /// Keys that count with the addresses of their Pods.
    fn counting(store: &Store) -> Vec<String> {
        let sources = store.sources().into_iter();
        let shown = sources.map(|source| {
            let addresses = announced::addresses(&source);
            format!("{} {addresses:?}", source.file)
        });
        shown.collect()
    }

    #[test]
    fn keys_stand_for_files_and_others_for_nothing() {
        let mut store = Store::default();
        assert_eq!(store.revision(), None);
        assert!(store.replace(Vec::new(), 4), "the first list is news");
        assert!(!store.replace(Vec::new(), 5));
        let document = || pair("documents/a.yaml", "kind: x", 6, 6);
        assert!(store.apply(vec![Event::Put(document())]));
        for (other, revision) in [("other", 7), ("nodes/n1/status", 8)] {
            let put = Event::Put(pair(other, "kind: x", revision, revision));
            assert!(!store.apply(vec![put]), "{other}");
        }
        assert_eq!(counting(&store), ["etcd:documents/a.yaml []"]);
        assert_eq!((store.len(), store.revision()), (3, Some(8)));
        let counts = store.counts();
        assert_eq!(
            (counts.documents, counts.endpoints, store.told()),
            (1, 0, 6)
        );
        // The same text once more.
        assert!(!store.apply(vec![Event::Put(pair("documents/a.yaml", "kind: x", 6, 9))]));
        assert!(store.apply(vec![delete("documents/a.yaml", 10)]));
        assert!(!store.apply(vec![delete("documents/a.yaml", 11)]));
        assert_eq!(store.told(), 9, "the same text is another version");
        store.replace(Vec::new(), 12);
        assert_eq!(store.told(), 0);
        assert_eq!(counting(&store), [""; 0]);
    }

    #[test]
    fn what_is_known_already_changes_nothing() {
        let mut store = Store::default();
        store.replace(vec![pair("documents/a", "kind: x", 2, 2)], 9);
        for known in [
            delete("documents/a", 9),
            Event::Put(pair("documents/a", "kind: y", 2, 8)),
            Event::Put(pair("documents/gone", "kind: y", 3, 3)),
        ] {
            assert!(!store.apply(vec![known]));
        }
        assert!(store.catch_up(vec![pair("documents/b", "kind: x", 12, 12)], 20));
        assert!(!store.apply(vec![delete("documents/b", 20)]));
        assert!(store.retain(&["documents/b"].into()));
        assert_eq!(counting(&store), ["etcd:documents/b []"]);
        assert!(store.apply(vec![delete("documents/b", 21)]));
    }

    #[test]
    fn an_address_counts_for_the_key_that_was_made_last() {
        for later_first in [false, true] {
            let mut store = Store::default();
            let mut pairs = [pod("n1", "a", "10.0.0.1", 1), pod("n2", "b", "10.0.0.1", 2)];
            if later_first {
                pairs.reverse();
            }
            store.replace(pairs.into(), 5);
            assert_eq!(
                counting(&store),
                [
                    "etcd:endpoints/n1/shop/a []",
                    "etcd:endpoints/n2/shop/b [10.0.0.1]"
                ]
            );
            store.apply(vec![delete("endpoints/n2/shop/b", 6)]);
            assert_eq!(counting(&store), ["etcd:endpoints/n1/shop/a [10.0.0.1]"]);
        }
    }

    #[test]
    fn a_name_counts_for_the_key_that_was_made_last_and_gives_up_its_addresses() {
        for later_first in [false, true] {
            let mut store = Store::default();
            let mut pairs = [
                pod("n1", "a", "10.0.0.1", 2),
                pod("n2", "a", "10.0.0.2", 3),
                // Has the address of the one that does not count.
                pod("n3", "b", "10.0.0.1", 1),
            ];
            if later_first {
                pairs.reverse();
            }
            store.replace(pairs.into(), 5);
            assert_eq!(
                counting(&store),
                [
                    "etcd:endpoints/n2/shop/a [10.0.0.2]",
                    "etcd:endpoints/n3/shop/b [10.0.0.1]"
                ]
            );
            store.apply(vec![delete("endpoints/n2/shop/a", 6)]);
            assert_eq!(
                counting(&store),
                [
                    "etcd:endpoints/n1/shop/a [10.0.0.1]",
                    "etcd:endpoints/n3/shop/b []"
                ]
            );
        }
    }
}
