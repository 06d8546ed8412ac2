//! The maps of one node: how each is made, opened and pinned.
//!
//! [`plans`] is the one list of them. Whoever adds a map adds a line there; the
//! loader, the pins and the check of what is found pinned follow it.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::maps::MapType;
use cofferdam_verdict::{
    LAYOUT_VERSION, STATE_VERSION,
    capacity::{Limits, MapSize, map},
    flow::FlowSet,
    hash::Keys,
    table::PAGE_BYTES,
};

use crate::{
    digest::Digest,
    sys::{self, MapShape},
};

/// Plan by which a map is made.
#[derive(Clone, Debug)]
pub(crate) struct MapPlan {
    pub(crate) name: &'static str,
    pub(crate) kind: MapType,
    pub(crate) value_bytes: u32,
    pub(crate) entries: u32,
    pub(crate) flags: u32,
    /// Plan of the members, of an array of maps.
    pub(crate) inner: Option<Box<Self>>,
}

impl MapPlan {
    /// An array that user space maps.
    fn array(size: MapSize) -> Self {
        Self {
            name: size.name,
            kind: MapType::Array,
            value_bytes: size.value_bytes,
            entries: size.entries,
            flags: sys::MMAPABLE,
            inner: None,
        }
    }

    /// An array of arrays.
    fn outer(name: &'static str, entries: u32, inner: Self) -> Self {
        Self {
            name,
            kind: MapType::ArrayOfMaps,
            value_bytes: 4,
            entries,
            flags: 0,
            inner: Some(Box::new(inner)),
        }
    }

    fn make(&self) -> io::Result<OwnedFd> {
        let template = self.inner.as_deref().map(Self::make).transpose()?;
        sys::create_map(&MapShape {
            name: self.name,
            kind: self.kind,
            value_bytes: self.value_bytes,
            entries: self.entries,
            flags: self.flags,
            inner: template.as_ref().map(|map| map.as_fd()),
        })
    }

    /// Returns `true` if a map could have been made so. The members of an array of maps do not
    /// show.
    fn describes(&self, map: BorrowedFd<'_>) -> io::Result<bool> {
        let info = sys::map_info(map)?;
        Ok(info.kind == self.kind as u32
            && info.key_bytes == sys::key_bytes(self.kind)
            && info.value_bytes == self.value_bytes
            && info.entries == self.entries
            && info.flags == self.flags)
    }

    fn digest(&self, digest: Digest) -> Digest {
        let digest = [
            self.kind as u32,
            self.value_bytes,
            self.entries,
            self.flags,
            self.inner.is_some().into(),
        ]
        .into_iter()
        .fold(digest.add(self.name.as_bytes()), |digest, word| {
            digest.add(&word.to_le_bytes())
        });
        match &self.inner {
            Some(inner) => inner.digest(digest),
            None => digest,
        }
    }
}

/// All maps that programs and user space share.
pub(crate) fn plans(limits: &Limits) -> Vec<MapPlan> {
    let mut plans: Vec<MapPlan> = limits.arrays().into_iter().map(MapPlan::array).collect();
    plans.push(MapPlan::outer(
        map::TABLE,
        1,
        MapPlan::array(MapSize {
            name: "table",
            value_bytes: PAGE_BYTES as u32,
            entries: limits.table_pages,
        }),
    ));
    plans.push(MapPlan::outer(
        map::FLOWS,
        limits.flow_chunks(),
        MapPlan::array(MapSize {
            name: "flows",
            value_bytes: size_of::<FlowSet>() as u32,
            entries: limits.chunk_sets(),
        }),
    ));
    plans.push(MapPlan {
        name: map::EVENTS,
        kind: MapType::RingBuf,
        value_bytes: 0,
        entries: limits.ring_bytes(),
        flags: 0,
        inner: None,
    });
    plans.push(MapPlan {
        kind: MapType::PerCpuArray,
        flags: 0,
        ..MapPlan::array(limits.counters())
    });
    // The programs have the keys as read-only data; this copy is for the next
    // agent, which must look up in the buckets of this one.
    plans.push(MapPlan {
        flags: 0,
        ..MapPlan::array(MapSize {
            name: map::KEYS,
            value_bytes: size_of::<Keys>() as u32,
            entries: 1,
        })
    });
    plans
}

/// Maps that begin empty in every set of a new shape: no flow rests on them.
const RENEWED: [&str; 5] = [
    map::TABLE,
    map::COUNTERS,
    map::RULE_COUNTS,
    map::EVENTS,
    map::EVENT_SHARES,
];

/// Common traits of sets of maps that can be used in place of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Digest of the maps that flows rest on. A set of the same can take them over.
    pub(crate) state: Digest,
    /// Digest of the others.
    pub(crate) rest: Digest,
}

/// The shape of the maps for these limits.
pub(crate) fn shape(limits: &Limits) -> Shape {
    let (rest, state): (Vec<_>, Vec<_>) =
        (plans(limits).into_iter()).partition(|plan| RENEWED.contains(&plan.name));
    let digest = |version: u32, plans: &[MapPlan]| {
        let begin = Digest::new().add(&version.to_le_bytes());
        plans.iter().fold(begin, |digest, plan| plan.digest(digest))
    };
    Shape {
        state: digest(STATE_VERSION, &state),
        rest: digest(LAYOUT_VERSION, &rest),
    }
}

/// The maps, by name.
#[derive(Debug)]
pub(crate) struct MapSet {
    maps: BTreeMap<&'static str, OwnedFd>,
}

impl MapSet {
    /// Makes them all.
    pub(crate) fn make(limits: &Limits) -> io::Result<Self> {
        let made = plans(limits)
            .into_iter()
            .map(|plan| Ok((plan.name, plan.make()?)));
        Ok(Self {
            maps: made.collect::<io::Result<_>>()?,
        })
    }

    /// Opens what is pinned in a directory; none when one is missing or is not
    /// what it should be.
    pub(crate) fn open(limits: &Limits, directory: &Path) -> io::Result<Option<Self>> {
        Self::open_or_make(limits, directory, &[])
    }

    /// Opens the maps that flows rest on in the directory of another set, and makes the
    /// others; none when one of the first is missing or is not what it should be.
    pub(crate) fn take_over(limits: &Limits, directory: &Path) -> io::Result<Option<Self>> {
        Self::open_or_make(limits, directory, &RENEWED)
    }

    fn open_or_make(limits: &Limits, directory: &Path, made: &[&str]) -> io::Result<Option<Self>> {
        let mut maps = BTreeMap::new();
        for plan in plans(limits) {
            if made.contains(&plan.name) {
                maps.insert(plan.name, plan.make()?);
                continue;
            }
            let map = match sys::pinned(&directory.join(plan.name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                result => result?,
            };
            if !plan.describes(map.as_fd())? {
                return Ok(None);
            }
            maps.insert(plan.name, map);
        }
        Ok(Some(Self { maps }))
    }

    /// Pins them in a directory, each under its name.
    pub(crate) fn pin(&self, directory: &Path) -> io::Result<()> {
        self.maps
            .iter()
            .try_for_each(|(name, map)| sys::pin(map.as_fd(), &directory.join(name)))
    }

    /// The names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.maps.keys().copied()
    }

    /// One of them.
    pub(crate) fn get(&self, name: &str) -> BorrowedFd<'_> {
        self.maps
            .get(name)
            .expect("every map of the list is made or opened")
            .as_fd()
    }

    /// Another descriptor of one of them.
    pub(crate) fn share(&self, name: &str) -> io::Result<OwnedFd> {
        self.get(name).try_clone_to_owned()
    }
}
