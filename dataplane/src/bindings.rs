//! Slots to which addresses lead, and their meaning for flows.
//!
//! Invariant: whenever an address leaves a slot, the slot's binding epoch moves, and
//! every flow that was decided with the slot is decided again.

use std::net::IpAddr;

use cofferdam_verdict::{
    address::Address,
    bucket::{AddressWriter, Found, Full, find_address},
    bypass::ANY_SLOT,
    endpoint::EndpointRecord,
    table::Table,
};

use crate::kernel::{Kernel, KernelError, writer};

impl Kernel {
    /// Leads an address to a slot, whose entry is in the table already.
    ///
    /// # Errors
    ///
    /// Fails if there is no room.
    pub fn bind_address(&mut self, address: IpAddr, slot: u32) -> Result<(), KernelError> {
        if slot == 0 || slot >= self.limits.slots {
            return Err(KernelError::NoSuchSlot {
                slot,
                room: self.limits.slots,
            });
        }
        let place = address.into();
        let before = self.slot_of(&place);
        self.change(|kernel| {
            let set = kernel.addresses().set(&place, slot);
            set.map_err(|Full| KernelError::AddressesFull { address })?;
            if before != Some(slot) {
                kernel.begin_epoch(before);
            }
            Ok(())
        })
    }

    /// Makes an address an outside one; `false` if it was already.
    pub fn release_address(&mut self, address: IpAddr) -> bool {
        let place = address.into();
        let before = self.slot_of(&place);
        self.change(|kernel| {
            let released = kernel.addresses().remove(&place);
            if released {
                kernel.begin_epoch(before);
            }
            released
        })
    }

    /// Does what changes bindings or records. Until it is done, no entry of the flow table
    /// counts as checked (the generation of all bindings is odd); afterwards each is checked
    /// anew. If the agent is killed in between, that stays so until another one adopts.
    pub(crate) fn change<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let is_part = self.generation() & 1 != 0;
        if !is_part {
            self.move_generation();
        }
        let done = work(self);
        if !is_part {
            self.move_generation();
        }
        done
    }

    /// Ends what an agent before was killed in, and what it has checked.
    pub(crate) fn renew_generation(&self) {
        if self.generation() & 1 == 0 {
            self.move_generation();
        }
        self.move_generation();
    }

    fn generation(&self) -> u32 {
        (self.bindings.values().first()).map_or(1, |nobody| nobody.epoch.load())
    }

    fn move_generation(&self) {
        if let Some(nobody) = self.bindings.values().first() {
            nobody.epoch.add(1);
        }
    }

    /// The slot that an address leads to, an outside one's by the table in force.
    fn slot_of(&self, address: &Address) -> Option<u32> {
        let memory = self.memory();
        match find_address(&memory, address) {
            Found::Value(slot) => Some(slot),
            _ => Table::open(&memory)?.outside_slot(address),
        }
    }

    pub(crate) fn addresses(&self) -> AddressWriter<'_> {
        AddressWriter {
            v4: writer(&self.settings, &self.addresses_v4),
            v6: writer(&self.settings, &self.addresses_v6),
            blocks: self.address_blocks.values(),
        }
    }

    /// An address of a slot has left it: flows with the slot are to be decided
    /// again.
    ///
    /// A program that has found the slot before, and remembers its flow only now, does
    /// so under the new epoch: [`Kernel::end_epochs`] comes after it.
    fn begin_epoch(&mut self, slot: Option<u32>) {
        let Some(slot) = slot else {
            return;
        };
        if let Some(binding) = self.bindings.values().get(slot as usize) {
            binding.epoch.add(1);
            self.left[0].insert(slot);
        }
    }

    /// Returns `true` if [`Kernel::end_epochs`] has something to do.
    pub fn has_left_slots(&self) -> bool {
        self.left.iter().any(|slots| !slots.is_empty())
    }

    /// Lets flows be decided again once more that were with slots which addresses had
    /// left when this was called before: for the sake of programs that were running
    /// then. To be called from time to time, longer apart than a program can run.
    pub fn end_epochs(&mut self) {
        let [left, before] = std::mem::take(&mut self.left);
        self.change(|kernel| {
            for slot in before {
                if let Some(binding) = kernel.bindings.values().get(slot as usize) {
                    binding.epoch.add(1);
                }
            }
        });
        self.left[1] = left;
    }

    /// Ends the bindings of a record's slots, but for those that are kept and those that
    /// another endpoint has by now.
    pub(crate) fn unbind(&self, number: u32, kept: impl Fn(u32) -> bool) {
        let Some(record) = self.endpoints.values().get(number as usize) else {
            return;
        };
        let slots = record.v4_slots.iter().chain(&record.v6_slots);
        for &slot in slots.filter(|&&slot| slot != 0 && !kept(slot)) {
            if let Some(binding) = self.bindings.values().get(slot as usize)
                && binding.ifindex.load() == record.ifindex
            {
                binding.ifindex.store(0);
                binding.stamp.store(0);
                binding.bypassed_until.store(0);
                binding.epoch.add(1);
            }
        }
    }

    /// Lets policy deny the endpoint of an interface nothing until this time on the clock of
    /// flows ([`Kernel::jiffies_after`]), at most [`MAX_JIFFIES`](cofferdam_verdict::bypass::MAX_JIFFIES) from now; 0 ends that. The
    /// time ends without an agent too. Returns `false` if the interface has no endpoint.
    pub fn bypass(&self, ifindex: u32, until: u32) -> bool {
        let Some(record) = self.endpoint_record(ifindex) else {
            return false;
        };
        let bindings = self.bindings.values();
        let binding = |slot: u32| bindings.get(slot as usize);
        if until != 0
            && let Some(any) = binding(ANY_SLOT)
        {
            any.bypassed_until.store(1);
        }
        let slots = record.v4_slots.iter().chain(&record.v6_slots).copied();
        for binding in slots.filter(|slot| *slot != 0).filter_map(binding) {
            if binding.ifindex.load() == ifindex {
                binding.bypassed_until.store(until);
            }
        }
        let rest = bindings.iter().enumerate().skip(1);
        if until == 0
            && !rest
                .map(|(_, one)| one.bypassed_until.load())
                .any(|one| one != 0)
            && let Some(any) = binding(ANY_SLOT)
        {
            any.bypassed_until.store(0);
        }
        true
    }

    /// Returns the time until which policy denies the endpoint of an interface nothing; 0 if
    /// it does, or there is no endpoint.
    pub fn bypassed_until(&self, ifindex: u32) -> u32 {
        let record = self.endpoint_record(ifindex);
        record.map_or(0, |record| self.bypassed_until_of(record))
    }

    pub(crate) fn bypassed_until_of(&self, record: &EndpointRecord) -> u32 {
        let binding = self.bindings.values().get(record.primary_slot as usize);
        let own = binding.filter(|binding| binding.ifindex.load() == record.ifindex);
        own.map_or(0, |binding| binding.bypassed_until.load())
    }
}
