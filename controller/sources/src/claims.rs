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
    claimants: HashMap<C, Claimants>,
    /// Claims of more than one.
    contested: BTreeSet<C>,
}

/// Those who make a claim. Nearly every claim is one's alone: that takes no more memory than a
/// name.
#[derive(Debug)]
enum Claimants {
    One(Arc<str>),
    #[expect(clippy::box_collection, reason = "so that all take what one takes")]
    Several(Box<BTreeSet<Arc<str>>>),
}

impl Claimants {
    fn add(&mut self, name: &Arc<str>) {
        match self {
            Self::One(one) if one == name => {}
            Self::One(one) => {
                *self = Self::Several(Box::new([one.clone(), name.clone()].into()));
            }
            Self::Several(all) => _ = all.insert(name.clone()),
        }
    }

    /// Returns those that are left without one, `None` if none is.
    fn without(self, name: &str) -> Option<Self> {
        match self {
            Self::One(one) => (*one != *name).then_some(Self::One(one)),
            Self::Several(mut all) => {
                all.remove(name);
                match all.len() {
                    0 => None,
                    1 => all.pop_first().map(Self::One),
                    _ => Some(Self::Several(all)),
                }
            }
        }
    }

    fn names(&self) -> Vec<Arc<str>> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::Several(all) => all.iter().cloned().collect(),
        }
    }
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
            let left = (self.claimants.remove(claim)).and_then(|all| all.without(name));
            if let Some(left) = left {
                self.claimants.insert(claim.clone(), left);
            }
        }
        for claim in now {
            self.claimants
                .entry(claim.clone())
                .and_modify(|all| all.add(name))
                .or_insert_with(|| Claimants::One(name.clone()));
        }
        let all: BTreeSet<C> = before.iter().chain(now).cloned().collect();
        for claim in &all {
            match self.claimants.get(claim) {
                Some(Claimants::Several(_)) => _ = self.contested.insert(claim.clone()),
                _ => _ = self.contested.remove(claim),
            }
        }
        all
    }

    /// Returns the names of those who make a claim.
    pub(crate) fn claimants(&self, claim: &C) -> Vec<Arc<str>> {
        let claimants = self.claimants.get(claim);
        claimants.map(Claimants::names).unwrap_or_default()
    }

    /// Returns the claims that more than one makes.
    pub(crate) fn contested(&self) -> BTreeSet<C> {
        self.contested.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_contested_while_more_than_one_makes_it() {
        let mut claims = Claims::default();
        let names: [Arc<str>; 3] = ["a", "b", "c"].map(Arc::from);
        for (at, name) in names.iter().enumerate() {
            claims.put(name, &[], &[1]);
            claims.put(name, &[1], &[1]);
            assert_eq!(claims.claimants(&1), names[..=at]);
            assert_eq!(claims.contested().contains(&1), at > 0);
        }
        for (at, name) in names.iter().enumerate() {
            assert_eq!(claims.put(name, &[1], &[2]), [1, 2].into());
            assert_eq!(claims.claimants(&1), names[at + 1..]);
            assert_eq!(claims.contested().contains(&1), at == 0);
        }
        assert_eq!(claims.claimants(&2), names);
        claims.put(&names[0], &[2], &[]);
        assert_eq!(claims.claimants(&2), names[1..]);
    }

    #[test]
    fn a_claim_of_one_takes_no_memory_of_its_own() {
        assert_eq!(size_of::<Claimants>(), size_of::<Arc<str>>());
    }
}
