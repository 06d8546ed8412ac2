//! Endpoints: the records that programs judge by, and what leads to them.
//!
//! A record is written while nothing leads to it, and rests for a grace period after
//! the last thing that did. An interface's index and its stamp lead to one record each.

use std::{
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd as _,
};

use cofferdam_verdict::{
    address::{Address, Family},
    bucket::Full,
    endpoint::{EndpointRecord, MAX_LISTENERS, STAMP_KEY, flags},
    shared::SharedWord,
};

use crate::{
    Kernel, KernelError,
    flows::FlowUse,
    kernel::{failed, writer},
    sys,
};

/// An endpoint to be put in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host-side interface index.
    pub ifindex: u32,
    /// The workload's MAC.
    pub mac: [u8; 6],
    /// Never repeats on this node.
    pub incarnation: u32,
    /// Its addresses with their slots; the first is the subject's for packets
    /// that name none of them.
    pub addresses: Vec<(IpAddr, u32)>,
    /// Number that its packets carry on this node, 1 to [`MAX_STAMP`], and no other
    /// endpoint's; 0 = none, and its packets count as nobody's.
    ///
    /// [`MAX_STAMP`]: cofferdam_verdict::endpoint::MAX_STAMP
    pub stamp: u16,
    /// Link-local address on the workload's interface, if it has one.
    pub link_local: Option<Ipv6Addr>,
    /// Nothing passes yet.
    pub deny_all: bool,
    /// Other programs have filters on its hooks.
    pub shared_hooks: bool,
    /// Time on the clock of flows ([`Kernel::jiffies`]) until which TCP connections from
    /// before it was put in force go on, if policy would let them begin in both
    /// directions; 0 = never.
    pub adopt_until: u32,
    /// TCP ports at which the workload took connections when filters first went on the
    /// interface, as in [`EndpointRecord::listeners`].
    pub listeners: [u32; MAX_LISTENERS],
}
impl Kernel {
    /// Puts an endpoint in force, in place of the one on the same interface.
    ///
    /// # Errors
    ///
    /// Fails if there is no room for it; nothing has changed then.
    pub fn set_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        self.change(|kernel| kernel.put_endpoint(endpoint))
    }

    /// [`Kernel::set_endpoint`], as part of a change.
    fn put_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        let mut record = self.record(endpoint)?;
        let key = [endpoint.ifindex];
        let before = writer(&self.settings, &self.endpoint_index).get(&key);
        let room = self.limits.endpoints;
        let used = self.limits.endpoint_records() as usize - self.free.len() - self.resting.len();
        if before.is_none() && used >= room as usize {
            return Err(KernelError::EndpointsFull { room });
        }
        let number = self.free_record()?;
        let last = before.and_then(|value| self.endpoints.values().get(value as usize - 1));
        let is_new = last.is_none_or(|last| last.incarnation != endpoint.incarnation);
        let bypassed_until = match last {
            Some(last) if !is_new => self.bypassed_until_of(last),
            _ => 0,
        };
        let partition = match last {
            Some(record) if record.flow_partition != 0 => record.flow_partition - 1,
            _ => {
                let taken = self.flows.take();
                if !matches!(taken, Ok(Some(_))) {
                    self.free.push(number);
                }
                taken
                    .map_err(failed("make a partition of the flow table"))?
                    .ok_or(KernelError::EndpointsFull { room })?
            }
        };
        if !(self.flows).assign(partition, endpoint.ifindex, endpoint.incarnation) {
            self.free.push(number);
            return Err(KernelError::NotSwept);
        }
        record.flow_partition = partition + 1;
        if let Some(place) = self.endpoints.values_mut().get_mut(number as usize) {
            self.flows.lead(partition, number, |size| {
                record.flow_size.put(size.0);
                *place = record;
            });
        }
        for &(_, slot) in &endpoint.addresses {
            let Some(binding) = self.bindings.values().get(slot as usize) else {
                continue;
            };
            let owner = (u32::from(endpoint.stamp), endpoint.ifindex);
            // Flows with it are decided again if its owner is another.
            if is_new || (binding.stamp.load(), binding.ifindex.load()) != owner {
                binding.stamp.store(owner.0);
                binding.ifindex.store(owner.1);
                binding.bypassed_until.store(bypassed_until);
                binding.epoch.add(1);
            }
        }
        let index = writer(&self.settings, &self.endpoint_index);
        if let Err(Full) = index.set(&key, number + 1) {
            self.free.push(number);
            self.flows.retire(partition);
            return Err(KernelError::EndpointsFull { room });
        }
        if let Some(value) = before {
            self.forget_stamp(value - 1, endpoint.stamp.into());
        }
        if endpoint.stamp != 0 {
            // Twice as many keys as endpoints fit into the buckets.
            let stamp = [STAMP_KEY | u32::from(endpoint.stamp)];
            let index = writer(&self.settings, &self.endpoint_index);
            index
                .set(&stamp, number + 1)
                .map_err(|Full| KernelError::EndpointsFull { room })?;
        }
        self.flows.lead_alone(partition);
        if let Some(value) = before {
            self.unbind(value - 1, |slot| {
                endpoint.addresses.iter().any(|&(_, kept)| kept == slot)
            });
            self.resting.push(value - 1);
        }
        Ok(())
    }

    /// Returns `true` if few flow tables are ready for the next endpoints: one that finds none
    /// waits for a grace period. [`FlowKeeper::prepare`](crate::FlowKeeper::prepare) makes more.
    pub fn are_few_flow_tables_ready(&self) -> bool {
        self.flows.are_few_ready()
    }

    /// Takes an endpoint out of force: its interface is nobody's from now on,
    /// and nothing passes there. `false` if there was none.
    pub fn remove_endpoint(&mut self, ifindex: u32) -> bool {
        let index = writer(&self.settings, &self.endpoint_index);
        let Some(value) = index.get(&[ifindex]) else {
            return false;
        };
        index.remove(&[ifindex]);
        self.forget_stamp(value - 1, 0);
        self.change(|kernel| kernel.unbind(value - 1, |_| false));
        if let Some(record) = self.endpoints.values().get(value as usize - 1)
            && record.flow_partition != 0
        {
            self.flows.retire(record.flow_partition - 1);
        }
        self.resting.push(value - 1);
        true
    }

    /// Lets nothing pass on an interface any more, whatever its record says beside: takes
    /// no memory and no time. Returns `false` if the interface has no record.
    pub fn deny_all(&self, ifindex: u32) -> bool {
        let record = self.endpoint_record(ifindex);
        record
            .map(|record| record.flags.set_bits(flags::DENY_ALL))
            .is_some()
    }

    /// Ends the time in which an endpoint's TCP connections may be adopted. The clock of
    /// flows comes round after some weeks, and a time on it with it.
    pub fn end_adoption(&self, ifindex: u32) {
        if let Some(record) = self.endpoint_record(ifindex) {
            record.adopt_until.store(0);
        }
    }

    /// Lets the stamp of a record lead nowhere, unless it is `kept` or another record's by
    /// now.
    fn forget_stamp(&self, number: u32, kept: u32) {
        let Some(record) = self.endpoints.values().get(number as usize) else {
            return;
        };
        let key = [STAMP_KEY | record.stamp];
        let index = writer(&self.settings, &self.endpoint_index);
        if record.stamp != 0 && record.stamp != kept && index.get(&key) == Some(number + 1) {
            index.remove(&key);
        }
    }

    pub(crate) fn endpoint_record(&self, ifindex: u32) -> Option<&EndpointRecord> {
        let number = writer(&self.settings, &self.endpoint_index).get(&[ifindex])?;
        self.endpoints.values().get(number as usize - 1)
    }

    /// Returns the fill of an endpoint's partition of the flow table.
    pub fn flows(&self, ifindex: u32) -> Option<FlowUse> {
        let record = self.endpoint_record(ifindex)?;
        let partition = record.flow_partition.checked_sub(1)?;
        Some(self.flows.used(partition, record.incarnation))
    }

    /// Returns the fill of an endpoint's partition as the last sweep left it, without
    /// looking at its entries.
    pub fn flows_left(&self, ifindex: u32) -> Option<FlowUse> {
        let partition = self
            .endpoint_record(ifindex)?
            .flow_partition
            .checked_sub(1)?;
        Some(self.flows.fill_after_sweep(partition))
    }

    fn record(&self, endpoint: &Endpoint) -> Result<EndpointRecord, KernelError> {
        let mut record = EndpointRecord {
            ifindex: endpoint.ifindex,
            incarnation: endpoint.incarnation,
            primary_slot: endpoint.addresses.first().map_or(0, |&(_, slot)| slot),
            stamp: endpoint.stamp.into(),
            adopt_until: SharedWord::new(endpoint.adopt_until),
            listeners: endpoint.listeners,
            link_local: endpoint
                .link_local
                .map_or([0; 4], |address| Address::from(IpAddr::V6(address)).words),
            mac: endpoint
                .mac
                .iter()
                .fold(0, |mac, &byte| mac << 8 | u64::from(byte)),
            ..EndpointRecord::default()
        };
        record.flags.set_bits(
            if endpoint.deny_all {
                flags::DENY_ALL
            } else {
                0
            } | if endpoint.shared_hooks {
                flags::SHARED_HOOKS
            } else {
                0
            },
        );
        let (mut v4, mut v6) = (0, 0);
        for &(address, slot) in &endpoint.addresses {
            if slot == 0 || slot >= self.limits.slots {
                return Err(KernelError::NoSuchSlot {
                    slot,
                    room: self.limits.slots,
                });
            }
            let Address { family, words } = address.into();
            match family {
                Family::V4 => {
                    let full = KernelError::TooManyAddresses;
                    *record.v4.get_mut(v4).ok_or(full)? = words[0];
                    record.v4_slots[v4] = slot;
                    v4 += 1;
                }
                Family::V6 => {
                    let full = KernelError::TooManyAddresses;
                    *record.v6.get_mut(v6).ok_or(full)? = words;
                    record.v6_slots[v6] = slot;
                    v6 += 1;
                }
            }
        }
        Ok(record)
    }

    fn free_record(&mut self) -> Result<u32, KernelError> {
        if self.free.is_empty() {
            // The kernel waits for a grace period when it stores the map.
            sys::set_inner(self.table.as_fd(), 0, self.published.map())
                .map_err(failed("wait for a grace period"))?;
            self.after_grace_period();
        }
        self.free.pop().ok_or(KernelError::EndpointsFull {
            room: self.limits.endpoints,
        })
    }
}
