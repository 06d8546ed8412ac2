//! Addresses that stand in for those that no document gives.
//!
//! A rule with an address block may match such an end or not, by the address that it will
//! have. So it gets one address for each set of blocks that an address may lie in: a
//! verdict that is the same for all of them does not depend on the address, and one that is
//! not is unknown.
//!
//! Invariant: every address that may be a pod's, but for those of blocks too small for all
//! the pods without one, lies in the same blocks as some address given here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use cofferdam_inventory::{ClusterPeer, Inventory, Owner, Peer, Workload};
use cofferdam_verdict::address::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::ReachError;

/// Those that were given addresses, because no document gives them any.
pub(super) type StandIns = BTreeSet<Owner>;

/// Least addresses of a block that pods may be thought to be in: a block of fewer is meant
/// for hosts that somebody knows.
const LEAST_ADDRESSES: u128 = 16;

/// Most addresses that stand in, over all ends.
const MOST_ADDRESSES: usize = 1 << 20;

/// Networks that pods without an address are in; all private ones where there is none of a
/// family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodNetworks(pub Vec<PodNetwork>);

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodNetwork(IpNet);

impl FromStr for PodNetwork {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let net: IpNet = text
            .parse()
            .map_err(|_| format!("{text:?} is not a network, such as 10.244.0.0/16"))?;
        Ok(Self(net.trunc()))
    }
}

/// First and last address of a stretch.
type Range = (u128, u128);

/// Addresses that lie in the same blocks: the longest stretch of them.
#[derive(Debug, Clone, Copy)]
struct Region {
    first: u128,
    /// The next address to give away, from the end.
    next: u128,
    family: Family,
}

/// Gives addresses to every pod and node that has none.
pub(super) fn stand_in(
    inventory: &mut Inventory,
    networks: &PodNetworks,
) -> Result<StandIns, ReachError> {
    let nodes: Vec<Arc<str>> = (inventory.nodes().iter())
        .filter(|(_, node)| node.addresses.is_empty())
        .map(|(name, _)| name.clone())
        .collect();
    let pods: Vec<Workload> = (inventory.workloads().values())
        .filter(|pod| !pod.finished && pod.addresses.is_empty())
        .filter(|pod| !(pod.host_network && super::ends::has_node(inventory, pod)))
        .cloned()
        .collect();
    let mut given = StandIns::default();
    if pods.is_empty() && nodes.is_empty() {
        return Ok(given);
    }
    let blocks = blocks(inventory);
    let count = pods.len() + nodes.len();
    let of_nodes = regions(&blocks, &PodNetworks::default(), count);
    // Both take from the same stretches where the same networks are meant.
    let mut free = Free {
        regions: regions(&blocks, networks, count),
    };
    let is_same = networks.0.is_empty();
    let each = free.regions.len().max(of_nodes.len());
    if count.saturating_mul(each) > MOST_ADDRESSES {
        return Err(ReachError::TooManyBlocks { ends: count });
    }
    for mut pod in pods {
        let owner = Owner::Workload(pod.name.clone());
        pod.addresses = free.take(inventory, &owner)?;
        (inventory.set_workload(pod)).expect("nobody owns an address that was free");
        given.insert(owner);
    }
    if !is_same {
        free = Free { regions: of_nodes };
    }
    for name in nodes {
        let owner = Owner::Node(name.clone());
        let mut node = inventory.nodes()[&name].clone();
        node.addresses = free.take(inventory, &owner)?;
        (inventory.set_node(&name, node)).expect("nobody owns an address that was free");
        given.insert(owner);
    }
    Ok(given)
}

/// All blocks of rules.
fn blocks(inventory: &Inventory) -> BTreeSet<IpNet> {
    let mut blocks = BTreeSet::new();
    for policy in inventory.policies().values() {
        let rules = [&policy.ingress, &policy.egress];
        for rule in rules.into_iter().flatten().flatten() {
            for peer in rule.peers.iter().flatten() {
                if let Peer::Block { cidr, except } = peer {
                    blocks.insert(*cidr);
                    blocks.extend(except);
                }
            }
        }
    }
    for policy in inventory.cluster_policies().values() {
        for rule in policy.ingress.iter().chain(&policy.egress) {
            for peer in rule.peers.iter().flatten() {
                if let ClusterPeer::Networks(networks) = peer {
                    blocks.extend(networks);
                }
            }
        }
    }
    blocks
}

fn range(net: IpNet) -> Range {
    let number = |address| match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    (number(net.network()), number(net.broadcast()))
}

/// The networks of a family that pods may be in.
fn pool(networks: &PodNetworks, family: Family) -> Vec<Range> {
    let is_of_family = |net: &&IpNet| matches!(net, IpNet::V4(_)) == (family == Family::V4);
    let given = networks.0.iter().map(|PodNetwork(net)| net);
    let given: Vec<Range> = given.filter(is_of_family).map(|net| range(*net)).collect();
    if !given.is_empty() {
        return given;
    }
    let v4 = |a, b, length| Ipv4Net::new(Ipv4Addr::new(a, b, 0, 0), length).map(IpNet::V4);
    let private = match family {
        Family::V4 => vec![
            v4(10, 0, 8),
            v4(172, 16, 12),
            v4(192, 168, 16),
            v4(100, 64, 10),
        ],
        Family::V6 => {
            let ula = Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0);
            vec![Ipv6Net::new(ula, 7).map(IpNet::V6)]
        }
    };
    private.into_iter().flatten().map(range).collect()
}

/// The regions of both families that `count` ends without an address may be in.
fn regions(blocks: &BTreeSet<IpNet>, networks: &PodNetworks, count: usize) -> Vec<Region> {
    let least = LEAST_ADDRESSES.max(count as u128);
    let mut all = Vec::new();
    for family in [Family::V4, Family::V6] {
        let is_of_family = |net: &&IpNet| matches!(net, IpNet::V4(_)) == (family == Family::V4);
        let blocks: Vec<Range> = (blocks.iter().filter(is_of_family))
            .map(|net| range(*net))
            .collect();
        let stretches = longest(&blocks, &pool(networks, family));
        let large: Vec<Range> = (stretches.iter().copied())
            .filter(|(first, last)| last - first >= least - 1)
            .collect();
        // A network that somebody gave may be small.
        let chosen = if large.is_empty() {
            stretches
                .into_iter()
                .max_by_key(|(first, last)| last - first)
                .into_iter()
                .collect()
        } else {
            large
        };
        // The end of a network is nobody's address where there is another.
        let region = |(first, last): Range| Region {
            first,
            next: if last > first { last - 1 } else { last },
            family,
        };
        all.extend(chosen.into_iter().map(region));
    }
    all
}

/// For each set of blocks that addresses of the pool lie in, the longest stretch of those;
/// the last addresses first.
fn longest(blocks: &[Range], pool: &[Range]) -> Vec<Range> {
    // Where sets change: at the first address of a block, and behind its last.
    let mut changes: BTreeMap<u128, Vec<(u32, bool)>> = BTreeMap::new();
    for ((first, last), number) in blocks.iter().zip(0u32..) {
        changes.entry(*first).or_default().push((number, true));
        if let Some(behind) = last.checked_add(1) {
            changes.entry(behind).or_default().push((number, false));
        }
    }
    let mut best: HashMap<Vec<u32>, Range> = HashMap::new();
    let mut inside: BTreeSet<u32> = BTreeSet::new();
    let mut begin = 0u128;
    let mut take = |inside: &BTreeSet<u32>, (first, last): Range| {
        for (pool_first, pool_last) in pool {
            let cut = (first.max(*pool_first), last.min(*pool_last));
            if cut.0 <= cut.1 {
                let set = inside.iter().copied().collect();
                let known = best.entry(set).or_insert(cut);
                if cut.1 - cut.0 > known.1 - known.0 {
                    *known = cut;
                }
            }
        }
    };
    for (at, blocks) in changes {
        if at > begin {
            take(&inside, (begin, at - 1));
        }
        for (number, enters) in blocks {
            if enters {
                inside.insert(number);
            } else {
                inside.remove(&number);
            }
        }
        begin = at;
    }
    take(&inside, (begin, u128::MAX));
    let mut all: Vec<Range> = best.into_values().collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    all
}

/// The next addresses that may stand in.
struct Free {
    regions: Vec<Region>,
}

impl Free {
    fn take(&mut self, inventory: &Inventory, owner: &Owner) -> Result<Vec<IpAddr>, ReachError> {
        let mut taken = Vec::with_capacity(self.regions.len());
        let mut has = [false; 2];
        for region in &mut self.regions {
            let address = |number: u128| match region.family {
                Family::V4 => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
                Family::V6 => IpAddr::V6(number.into()),
            };
            while region.next > region.first && inventory.owner(address(region.next)).is_some() {
                region.next -= 1;
            }
            if inventory.owner(address(region.next)).is_some() || region.next < region.first {
                continue;
            }
            taken.push(address(region.next));
            has[usize::from(region.family == Family::V6)] = true;
            if region.next > region.first {
                region.next -= 1;
            }
        }
        if has != [true; 2] {
            return Err(ReachError::NoStandIn {
                end: owner.to_string(),
            });
        }
        Ok(taken)
    }
}
