//! Addresses that lead to a slot on a node, read from the maps that its agent has pinned.
//!
//! The agent is not asked, and does not know: an address leads to its slot after the table in
//! force has the slot's entry, and no longer before that entry goes. An address that is here
//! counts for every packet; one that is not counts for none.

use std::{
    fs,
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, ensure};
use aya::maps::{Array, Map, MapData};
use cofferdam_dataplane::MappedArray;
use cofferdam_verdict::{
    bucket::{AddressBlock, AddressWriter, Bucket, Writer},
    capacity::map,
    hash::Keys,
};
use zerocopy::FromBytes as _;

/// The addresses in force on a node.
pub(super) struct Addresses {
    keys: Keys,
    v4: MappedArray<Bucket>,
    v6: MappedArray<Bucket>,
    blocks: MappedArray<AddressBlock>,
}

impl Addresses {
    /// Opens those that an agent has pinned under a directory.
    pub(super) fn open(pins: &Path) -> anyhow::Result<Self> {
        let sets = fs::read_dir(pins).with_context(|| format!("cannot read {}", pins.display()))?;
        let mut set = sets
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with("maps-"))
            });
        let directory = set.next().context("the agent has pinned no maps")?;
        ensure!(
            set.next().is_none(),
            "the agent has pinned two sets of maps"
        );
        let pinned = |name: &str| -> anyhow::Result<MapData> {
            MapData::from_pin(directory.join(name)).with_context(|| format!("cannot open {name}"))
        };
        let descriptor = |name: &str| -> anyhow::Result<OwnedFd> {
            Ok(pinned(name)?.fd().as_fd().try_clone_to_owned()?)
        };
        const KEYS: usize = size_of::<Keys>();
        let keys: Array<MapData, [u8; KEYS]> = Map::Array(pinned(map::KEYS)?).try_into()?;
        let keys = Keys::read_from_bytes(&keys.get(&0, 0)?)
            .ok()
            .context("the keys of hashes have another size")?;
        Ok(Self {
            keys,
            v4: MappedArray::over(descriptor(map::ADDRESSES_V4)?)?,
            v6: MappedArray::over(descriptor(map::ADDRESSES_V6)?)?,
            blocks: MappedArray::over(descriptor(map::ADDRESS_BLOCKS)?)?,
        })
    }

    /// Returns `true` if an address leads to a slot now.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        let writer = |buckets| Writer::new(&self.keys, buckets);
        let (Some(v4), Some(v6)) = (writer(self.v4.values()), writer(self.v6.values())) else {
            return false;
        };
        let addresses = AddressWriter {
            v4,
            v6,
            blocks: self.blocks.values(),
        };
        addresses.get(&address.into()) != 0
    }
}
