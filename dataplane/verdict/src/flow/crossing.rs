//! Flows of packets that cross an uplink, where no policy is asked about them.
//!
//! A reply that comes in by an uplink may bear an address that the workload's own hook does
//! not know: translation is undone behind the uplink. So a packet that leaves translated is
//! noted on its way out ([`leaves`]), and a packet that comes in is covered by what was noted,
//! or by a flow of the workload's own hooks ([`covers`]).
//!
//! An entry that was noted is one of no table: where policy must be asked about its tuple
//! ([`crate::uplink::answer`]), the entry counts for nothing.

use crate::{
    case::{Case, mark},
    endpoint::EndpointRecord,
    flow::{
        FlowKey, FlowState, Places, Size, StateWord, TRANSLATED, WAYS,
        account::account,
        step,
        track::{Candidate, LOCKED, NOWHERE, candidate, find, way_of},
    },
    judge::own_slot,
    memory::FlowMemory,
    packet::protocol,
    reason::Reason,
    table::Table,
    verdict::Verdict,
};

/// Prepares a packet that leaves the node, and that a workload's hook has let pass, for being
/// noted. Returns `false` if it need not be: its reply comes to the node's address, a flow
/// covers it, or it is noted already.
#[inline(always)]
pub fn leaves<M: FlowMemory>(memory: &M, case: &mut Case) -> bool {
    let Some(record) = memory.endpoint(case.endpoint) else {
        return false;
    };
    let Some(table) = Table::open(memory) else {
        return false;
    };
    let (source, _) = case.addresses();
    if own_slot(record, &source) == 0 {
        return false;
    }
    let Some(Candidate { mut key, .. }) = candidate(record, case) else {
        return false;
    };
    // While the partition grows, what was noted may be noted once more.
    let mask = Size(record.flow_size.load()).mask();
    key.kind &= !TRANSLATED;
    if find(memory, record, &key, mask, case.bytes) != NOWHERE {
        return false;
    }
    key.kind |= TRANSLATED;
    let place = find(memory, record, &key, mask, case.bytes);
    if place == LOCKED {
        return false;
    }
    if let Some(set) = memory.flow_set(record.flow_partition.wrapping_sub(1), place >> 2) {
        let entry = way_of(set, place);
        let word = StateWord(entry.state.load());
        if !word.is_locked() && word.is_of(record.incarnation) {
            account(memory, entry, case, word, true);
            return false;
        }
    }
    // That of no table in force: whoever asks policy about this tuple decides anew.
    case.revision = (table.revision() as u32).wrapping_sub(1);
    case.settle(Verdict::allow(Reason::Flow));
    case.flow_step = step::UNKNOWN;
    true
}

/// Returns `true` if a packet towards a workload belongs to a flow of the workload's hooks or
/// to one that was noted as it left, if the latter may have found no room, or if flows are
/// being moved.
#[inline(always)]
pub fn covers<M: FlowMemory>(memory: &M, case: &Case) -> bool {
    let Some(record) = memory.endpoint(case.endpoint) else {
        return true;
    };
    let size = Size(record.flow_size.load());
    if size.growth() != 0 {
        // Its flow may lie where it lay before.
        return true;
    }
    let mask = size.mask();
    let Some(Candidate { mut key, .. }) = candidate(record, case) else {
        return false;
    };
    if find(memory, record, &key, mask, case.bytes) != NOWHERE {
        return true;
    }
    key.kind |= TRANSLATED;
    let place = find(memory, record, &key, mask, case.bytes);
    if place == NOWHERE {
        return is_crowded(memory, record, &key);
    }
    if let Some(set) = memory.flow_set(record.flow_partition.wrapping_sub(1), place >> 2) {
        let entry = way_of(set, place);
        let now = memory.jiffies();
        if entry.last_seen.load() != now {
            entry.last_seen.put(now);
        }
        // Of TCP the opener's segments say more.
        let word = StateWord(entry.state.load());
        let is_first = matches!(word.state(), FlowState::Embryonic) && !word.is_locked();
        if is_first && case.protocol() != protocol::TCP {
            let answered = word.in_state(FlowState::Answered);
            memory.exchange(&entry.state, word.0, answered.0);
        }
    }
    true
}

/// Returns `true` if a flow would find no free place in its sets.
#[inline(always)]
fn is_crowded<M: FlowMemory>(memory: &M, record: &EndpointRecord, key: &FlowKey) -> bool {
    let Places { sets, .. } = key.places(
        &memory.settings().keys,
        Size(record.flow_size.load()).mask(),
    );
    let mut choice = 0;
    while choice < 2 {
        let Some(set) = memory.flow_set(record.flow_partition.wrapping_sub(1), sets[choice]) else {
            return true;
        };
        let mut way = 0;
        while way < WAYS {
            if matches!(
                StateWord(set.ways[way].state.load()).state(),
                FlowState::Free
            ) {
                return false;
            }
            way += 1;
        }
        choice += 1;
    }
    true
}

/// Returns `true` if the packet of a case has found a place for what is noted of it.
#[inline(always)]
pub fn is_placed(case: &Case) -> bool {
    case.flow_step == step::PLACED && case.is(mark::LEAVING)
}
