//! The objects that an API server has, as documents. Pure: it knows no connection and no
//! clock.
//!
//! Clusters show one address at two pods for a while: when a pod has ended whose end nobody
//! has told yet, when its node is gone, when an address is given away at once. They show it at
//! two nodes when one was made again under another name. An address counts for one of them
//! ([`Rank`]); the documents of the others are without it, until it is theirs alone.
//!
//! Invariants: a list counts when it is complete, never in part; what counts does not depend
//! on the order in which objects of different kinds arrived.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_documents::{API_PREFIX, Kind, Source, SourceMap};

use super::object::{Created, Facts, Stripped, Uid, name_of, without_addresses};
use crate::claims::Claims;

/// The objects of all kinds.
#[derive(Debug, Default)]
pub(super) struct Store {
    listings: BTreeMap<Kind, Listing>,
    /// The document of every object. What reads them keeps a copy, which costs nothing.
    documents: SourceMap,
    /// Addresses that pods and nodes claim.
    claims: Claims<IpAddr>,
    hashes: RandomState,
}

/// The objects of a kind.
#[derive(Debug, Default)]
struct Listing {
    objects: HashMap<Arc<str>, Held>,
    /// `true` once a whole list has been read.
    is_complete: bool,
    /// The newest version that the watch has told since: it tells all changes in their order.
    told: Option<u64>,
}

impl Listing {
    /// Notes the version of an event.
    fn told(&mut self, version: Option<u64>) {
        self.told = self.told.max(version);
    }
}

#[derive(Debug)]
struct Held {
    uid: Uid,
    version: Option<u64>,
    /// Hash of the whole text, by which a version that says the same is known.
    text_hash: u64,
    claimant: Option<Box<Claimant>>,
}

/// A pod or a node.
#[derive(Debug)]
struct Claimant {
    facts: Facts,
    /// Parts that its document leaves out, which hardly any does.
    withheld: Option<Box<Withheld>>,
}

/// Addresses that count for others.
#[derive(Debug)]
struct Withheld {
    addresses: Vec<IpAddr>,
    /// The text with all addresses.
    whole: Arc<[u8]>,
}

/// Order of those that claim one address: the greatest has it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'p> {
    is_node: bool,
    /// `false` of a pod whose node is gone: nothing of it runs any more.
    has_node: bool,
    is_staying: bool,
    /// The later one was given what the earlier one has given back.
    created: &'p Created,
    uid: &'p Uid,
}

/// A pod that was found, for a container that is to be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The node that it is bound to.
    pub node: Option<Arc<str>>,
}

impl Store {
    /// Returns `true` if a whole list of every kind has been read.
    pub(super) fn is_complete(&self) -> bool {
        let is_listed = |kind| self.listings.get(kind).is_some_and(|one| one.is_complete);
        Kind::ALL.iter().all(is_listed)
    }

    /// Returns all objects as documents.
    pub(super) fn sources(&self) -> &SourceMap {
        &self.documents
    }

    /// Returns how many objects of a kind there are.
    pub(super) fn count(&self, kind: Kind) -> usize {
        self.listings.get(&kind).map_or(0, |one| one.objects.len())
    }

    /// Returns the newest version of a kind that is known: every change until then is.
    pub(super) fn version(&self, kind: Kind) -> Option<u64> {
        self.listings.get(&kind)?.told
    }

    /// Returns the id of an object.
    pub(super) fn uid(&self, kind: Kind, name: &str) -> Option<String> {
        let held = self.listings.get(&kind)?.objects.get(name)?;
        Some(held.uid.to_string())
    }

    /// Returns the pod of this name, `None` if there is none yet or another one. A runtime
    /// that tells an id means the pod with that id alone.
    pub(super) fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Pod> {
        let name = name_of(Kind::Pod, Some(namespace), name);
        let held = self.listings.get(&Kind::Pod)?.objects.get(&*name)?;
        let facts = &held.claimant.as_ref()?.facts;
        let is_meant = |uid: &str| held.uid.is(uid) || facts.mirrored.as_deref() == Some(uid);
        let node = facts.node.clone();
        uid.is_none_or(is_meant).then_some(Pod { node })
    }

    /// Takes a whole list in place of what there was of a kind. Returns `true` if something
    /// counts differently now.
    pub(super) fn replace(&mut self, kind: Kind, objects: Vec<Stripped>) -> bool {
        let listing = self.listings.entry(kind).or_default();
        let was_complete = std::mem::replace(&mut listing.is_complete, true);
        listing.told = objects.iter().filter_map(|one| one.version).max();
        let listed: BTreeSet<&str> = objects.iter().map(|one| &*one.name).collect();
        let gone = listing.objects.keys();
        let gone: Vec<Arc<str>> = gone
            .filter(|name| !listed.contains(&***name))
            .cloned()
            .collect();
        let mut is_changed = !was_complete;
        for name in gone {
            is_changed |= self.take_out(kind, &name);
        }
        for object in objects {
            is_changed |= self.put(kind, object, Authority::List);
        }
        is_changed
    }

    /// Takes an object as a watch tells it. Returns `true` if something counts differently
    /// now.
    pub(super) fn apply(&mut self, kind: Kind, object: Stripped) -> bool {
        self.listings.entry(kind).or_default().told(object.version);
        self.put(kind, object, Authority::Watch)
    }

    /// Takes an object that a question about it has brought. One that is not there, and is older
    /// than what the watch has told already, has gone since. Returns `true` if something counts
    /// differently now.
    pub(super) fn answer(&mut self, kind: Kind, object: Stripped) -> bool {
        let listing = self.listings.entry(kind).or_default();
        let is_known = listing.objects.contains_key(&object.name);
        if !is_known && is_older(object.version, listing.told) {
            return false;
        }
        self.put(kind, object, Authority::Watch)
    }

    /// Removes an object that a watch tells the end of. Returns `true` if something counts
    /// differently now.
    pub(super) fn remove(&mut self, kind: Kind, object: &Stripped) -> bool {
        let listing = self.listings.entry(kind).or_default();
        listing.told(object.version);
        let Some(held) = listing.objects.get(&*object.name) else {
            return false;
        };
        // Another of that name may be known already, by a question about it.
        if held.uid != object.uid && is_older(object.version, held.version) {
            return false;
        }
        self.take_out(kind, &object.name)
    }

    fn put(&mut self, kind: Kind, object: Stripped, authority: Authority) -> bool {
        let name = object.name;
        let listing = self.listings.entry(kind).or_default();
        let text_hash = self.hashes.hash_one(&*object.text);
        let before = listing.objects.get_mut(&name);
        if let Some(held) = before {
            if authority == Authority::Watch && is_older(object.version, held.version) {
                return false;
            }
            let facts = held.claimant.as_ref().map(|known| &known.facts);
            let is_same = held.text_hash == text_hash && held.uid == object.uid;
            if is_same && facts == object.facts.as_ref() {
                held.version = object.version;
                return false;
            }
        }
        let addresses = object.facts.as_ref().map(|facts| facts.addresses.clone());
        let claimant = object.facts.map(|facts| {
            Box::new(Claimant {
                facts,
                withheld: None,
            })
        });
        let held = Held {
            uid: object.uid,
            version: object.version,
            text_hash,
            claimant,
        };
        let before = listing.objects.insert(name.clone(), held);
        let source = Source::new(name.clone(), object.text).without_text();
        self.documents.insert(name.clone(), source);
        let had = before
            .as_ref()
            .and_then(|held| held.claimant.as_ref())
            .map(|known| known.facts.addresses.clone());
        self.claim(
            &name,
            &had.unwrap_or_default(),
            &addresses.unwrap_or_default(),
        );
        if kind == Kind::Node && before.is_none() {
            self.settle_contested();
        }
        true
    }

    fn take_out(&mut self, kind: Kind, name: &Arc<str>) -> bool {
        let listing = self.listings.get_mut(&kind);
        let Some(held) = listing.and_then(|one| one.objects.remove(name)) else {
            return false;
        };
        self.documents.remove(name);
        if let Some(known) = held.claimant {
            self.claim(name, &known.facts.addresses, &[]);
        }
        if kind == Kind::Node {
            self.settle_contested();
        }
        true
    }

    /// Notes which addresses a pod or a node claims, and settles whose they are, and whose
    /// those from before.
    fn claim(&mut self, name: &Arc<str>, before: &[IpAddr], now: &[IpAddr]) {
        for address in self.claims.put(name, before, now) {
            self.settle(address);
        }
    }

    fn settle_contested(&mut self) {
        for address in self.claims.contested() {
            self.settle(address);
        }
    }

    /// Lets an address count for the one that has it, and for no other.
    fn settle(&mut self, address: IpAddr) {
        let claimants = self.claims.claimants(&address);
        let owner = claimants.iter().max_by_key(|name| self.rank(name)).cloned();
        for name in claimants {
            let kind = kind_of(&name);
            let listing = self.listings.get_mut(&kind);
            let held = listing.and_then(|one| one.objects.get_mut(&name));
            let Some((held, source)) = held.zip(self.documents.get(&name)) else {
                continue;
            };
            let is_withheld = Some(&name) != owner.as_ref();
            if let Some(changed) = held.withhold(source, kind, address, is_withheld) {
                self.documents.insert(name, changed);
            }
        }
    }

    fn rank(&self, name: &Arc<str>) -> Option<Rank<'_>> {
        let kind = kind_of(name);
        let held = self.listings.get(&kind)?.objects.get(name)?;
        let facts = &held.claimant.as_ref()?.facts;
        let nodes = self.listings.get(&Kind::Node);
        let has_node = match (nodes, &facts.node) {
            (Some(nodes), Some(node)) if nodes.is_complete => nodes
                .objects
                .contains_key(&*name_of(Kind::Node, None, node)),
            _ => true,
        };
        Some(Rank {
            is_node: kind == Kind::Node,
            has_node,
            is_staying: !facts.is_terminating,
            created: &facts.created,
            uid: &held.uid,
        })
    }
}

/// Returns the kind of an object that claims addresses.
fn kind_of(name: &str) -> Kind {
    match name.strip_prefix(API_PREFIX) {
        Some(rest) if rest.starts_with(Kind::Node.as_str()) => Kind::Node,
        _ => Kind::Pod,
    }
}

/// The word by which an object is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Authority {
    /// A whole list, which is of one moment.
    List,
    /// An event, or an answer about one object: either may come late.
    Watch,
}

/// Returns `true` if a version is known to come before another.
fn is_older(version: Option<u64>, than: Option<u64>) -> bool {
    version
        .zip(than)
        .is_some_and(|(version, than)| version < than)
}

impl Held {
    /// Leaves an address out of its document, or puts it in again; returns the document then.
    fn withhold(
        &mut self,
        source: &Source,
        kind: Kind,
        address: IpAddr,
        is_withheld: bool,
    ) -> Option<Source> {
        let known = self.claimant.as_mut()?;
        let withheld = known.withheld.as_ref();
        if withheld.is_some_and(|some| some.addresses.contains(&address)) == is_withheld {
            return None;
        }
        let mut withheld = known.withheld.take().unwrap_or_else(|| {
            Box::new(Withheld {
                addresses: Vec::new(),
                whole: source.whole_text().into(),
            })
        });
        if is_withheld {
            withheld.addresses.push(address);
        } else {
            withheld.addresses.retain(|one| *one != address);
        }
        let text = if withheld.addresses.is_empty() {
            withheld.whole
        } else {
            let text = without_addresses(kind, &withheld.whole, &withheld.addresses);
            known.withheld = Some(withheld);
            text
        };
        Some(Source::new(source.file.clone(), text).without_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "10.0.0.1";

    fn pod(name: &str, created: u32, address: &str) -> Stripped {
        let text = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"x"}},"status":{{"podIP":"{address}"}}}}"#
        );
        Stripped {
            name: format!("kubernetes:Pod/x/{name}").into(),
            text: text.into_bytes().into(),
            uid: Uid::new(&format!("{name}-{created}")),
            version: Some(created.into()),
            facts: Some(Facts {
                node: Some("n1".into()),
                mirrored: None,
                is_terminating: false,
                created: Created::new(&format!("2026-01-01T00:00:{created:02}Z")),
                addresses: [address.parse().unwrap()].into(),
            }),
        }
    }

    fn with(mut pod: Stripped, change: impl FnOnce(&mut Facts)) -> Stripped {
        change(pod.facts.as_mut().unwrap());
        pod
    }

    fn node(name: &str) -> Stripped {
        Stripped {
            name: format!("kubernetes:Node/{name}").into(),
            text: format!(r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}"}}}}"#)
                .into_bytes()
                .into(),
            uid: Uid::new(name),
            version: Some(1),
            facts: None,
        }
    }

    /// A node of an address, made at a second.
    fn node_at(name: &str, created: u32) -> Stripped {
        let status = format!(
            r#""status":{{"addresses":[{{"type":"InternalIP","address":"{ADDRESS}"}}]}}}}"#
        );
        let node = node(name);
        let (_, open) = node.text.split_last().unwrap();
        let text = [open, b",", status.as_bytes()].concat();
        Stripped {
            text: text.into(),
            facts: pod(name, created, ADDRESS).facts,
            ..node
        }
    }

    /// Names of the pods whose documents have the address.
    fn owners(store: &Store) -> Vec<String> {
        let sources = store.sources().values();
        let with_address = sources.filter(|source| {
            assert!(source.parsed.rejected.is_empty(), "{:?}", source.parsed);
            String::from_utf8_lossy(&source.whole_text()).contains(ADDRESS)
        });
        let mut names: Vec<String> = with_address
            .map(|source| source.file.rsplit('/').next().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_counts_as_complete_before_every_kind_was_listed() {
        let mut store = Store::default();
        for kind in Kind::ALL {
            assert!(!store.is_complete());
            assert!(store.replace(kind, Vec::new()), "the first list is news");
            assert!(!store.replace(kind, Vec::new()));
        }
        assert!(store.is_complete());
    }

    #[test]
    fn an_address_of_two_pods_counts_for_the_later_one_until_it_has_gone() {
        for later_first in [false, true] {
            let mut store = Store::default();
            let pods = [pod("a", 1, ADDRESS), pod("b", 2, ADDRESS)];
            let order = if later_first { [1, 0] } else { [0, 1] };
            for index in order {
                assert!(store.apply(Kind::Pod, pods[index].clone()));
            }
            assert_eq!(owners(&store), ["b"]);
            assert!(store.remove(Kind::Pod, &pods[1]));
            assert_eq!(owners(&store), ["a"]);
            assert!(store.claims.contested().is_empty());
            assert!(!store.apply(Kind::Pod, pods[0].clone()), "nothing new");
        }
    }

    #[test]
    fn a_pod_that_ends_or_has_no_node_gives_way_to_an_earlier_one() {
        let mut store = Store::default();
        store.replace(Kind::Node, vec![node("n1")]);
        store.apply(Kind::Pod, pod("a", 1, ADDRESS));
        store.apply(Kind::Pod, pod("b", 2, ADDRESS));
        let ending = with(pod("b", 2, ADDRESS), |pod| pod.is_terminating = true);
        assert!(store.apply(Kind::Pod, ending));
        assert_eq!(owners(&store), ["a"]);
        let elsewhere = with(pod("a", 1, ADDRESS), |pod| pod.node = Some("n2".into()));
        assert!(store.apply(Kind::Pod, elsewhere));
        assert_eq!(owners(&store), ["b"], "n2 is not there");
        store.apply(Kind::Node, node("n2"));
        assert_eq!(owners(&store), ["a"]);
        store.remove(Kind::Node, &node("n2"));
        assert_eq!(owners(&store), ["b"]);
    }

    #[test]
    fn an_address_of_two_nodes_is_the_later_ones_and_no_pods() {
        let mut store = Store::default();
        store.apply(Kind::Node, node_at("old", 1));
        store.apply(Kind::Pod, pod("a", 3, ADDRESS));
        assert_eq!(owners(&store), ["old"]);
        store.apply(Kind::Node, node_at("new", 2));
        assert_eq!(owners(&store), ["new"]);
        store.remove(Kind::Node, &node_at("new", 2));
        store.remove(Kind::Node, &node_at("old", 1));
        assert_eq!(owners(&store), ["a"]);
    }

    /// 100 000 times: eight bytes more are a MiB.
    #[test]
    fn a_pod_takes_little_beside_its_document() {
        assert!(size_of::<Held>() <= 56, "{}", size_of::<Held>());
        assert!(size_of::<Claimant>() <= 96, "{}", size_of::<Claimant>());
        let mut store = Store::default();
        store.apply(Kind::Pod, pod("a", 1, ADDRESS));
        let text = |store: &Store| store.sources()["kubernetes:Pod/x/a"].text.len();
        assert_eq!(text(&store), 0, "what it says is in the document");
        assert!(!store.apply(Kind::Pod, pod("a", 1, ADDRESS)), "the same");
        assert!(store.apply(Kind::Pod, pod("b", 2, ADDRESS)), "withheld");
        assert_eq!((owners(&store), text(&store)), (vec!["b".to_owned()], 0));
        assert!(store.remove(Kind::Pod, &pod("b", 2, ADDRESS)));
        assert_eq!((owners(&store), text(&store)), (vec!["a".to_owned()], 0));
    }

    #[test]
    fn a_pod_that_has_ended_claims_nothing() {
        let mut store = Store::default();
        store.apply(Kind::Pod, pod("b", 2, ADDRESS));
        let ended = with(pod("c", 3, "10.0.0.9"), |pod| pod.addresses = [].into());
        store.apply(Kind::Pod, ended);
        assert_eq!(owners(&store), ["b"]);
    }

    #[test]
    fn what_comes_late_is_not_believed_but_a_list_is() {
        let mut store = Store::default();
        let mut newer = pod("a", 1, "10.0.0.2");
        newer.version = Some(9);
        store.apply(Kind::Pod, newer);
        assert!(!store.apply(Kind::Pod, pod("a", 1, ADDRESS)), "version 1");
        // Its predecessor's end comes after it was asked for.
        let mut predecessor = pod("a", 0, ADDRESS);
        predecessor.version = Some(8);
        assert!(!store.remove(Kind::Pod, &predecessor));
        assert_eq!(store.count(Kind::Pod), 1);
        assert!(store.replace(Kind::Pod, vec![pod("a", 1, ADDRESS)]));
        assert_eq!(owners(&store), ["a"]);
        assert!(store.replace(Kind::Pod, Vec::new()));
        assert_eq!(store.count(Kind::Pod), 0);
    }

    #[test]
    fn an_answer_about_a_pod_that_has_gone_since_is_not_believed() {
        let mut store = Store::default();
        let asked = pod("a", 3, ADDRESS);
        assert!(store.answer(Kind::Pod, asked.clone()), "before any event");
        let mut end = asked.clone();
        end.version = Some(5);
        assert!(store.remove(Kind::Pod, &end));
        assert!(!store.answer(Kind::Pod, asked), "it was asked for before");
        assert_eq!(store.count(Kind::Pod), 0);
        assert!(
            store.answer(Kind::Pod, pod("b", 6, ADDRESS)),
            "the watch has not told it yet"
        );
    }

    #[test]
    fn a_pod_is_found_by_its_own_id_or_that_of_its_file() {
        let mut store = Store::default();
        let mirror = with(pod("a", 1, ADDRESS), |pod| {
            pod.mirrored = Some("of-file".into());
        });
        store.apply(Kind::Pod, mirror);
        for (uid, is_found) in [
            (None, true),
            (Some("a-1"), true),
            (Some("of-file"), true),
            (Some("other"), false),
        ] {
            assert_eq!(store.pod("x", "a", uid).is_some(), is_found, "{uid:?}");
        }
        assert_eq!(store.pod("x", "b", None), None);
    }
}
