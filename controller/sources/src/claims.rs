//! Claims on things that several may claim: addresses, and names of workloads.
//!
//! Pure. Who of them has it is the caller's to say, by an order that does not depend on when
//! it heard of them.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// Claims, and those who make them by their names.
#[derive(Debug)]
pub(crate) struct Claims<C> {
    claimants: HashMap<C, BTreeSet<Arc<str>>>,
    /// Claims of more than one.
    contested: BTreeSet<C>,
}

impl<C> Default for Claims<C> {
    fn default() -> Self {
        Self {
            claimants: HashMap::new(),
            contested: BTreeSet::new(),
        }
    }
}

impl<C: Clone + Eq + Hash + Ord> Claims<C> {
    /// Notes what one claims now, and claimed before. Returns the claims that are to be settled.
    pub(crate) fn put(&mut self, name: &Arc<str>, before: &[C], now: &[C]) -> BTreeSet<C> {
        for claim in before {
            if let Some(claimants) = self.claimants.get_mut(claim) {
                claimants.remove(name);
                if claimants.is_empty() {
                    self.claimants.remove(claim);
                }
            }
        }
        for claim in now {
            let claimants = self.claimants.entry(claim.clone()).or_default();
            claimants.insert(name.clone());
        }
        let all: BTreeSet<C> = before.iter().chain(now).cloned().collect();
        for claim in &all {
            if self.claimants.get(claim).is_some_and(|all| all.len() > 1) {
                self.contested.insert(claim.clone());
            } else {
                self.contested.remove(claim);
            }
        }
        all
    }

    /// Returns the names of those who make a claim.
    pub(crate) fn claimants(&self, claim: &C) -> Vec<Arc<str>> {
        let claimants = self.claimants.get(claim).into_iter().flatten();
        claimants.cloned().collect()
    }

    /// Returns the claims that more than one makes.
    pub(crate) fn contested(&self) -> BTreeSet<C> {
        self.contested.clone()
    }
}
