//! Accounting of a live flow's packets, which moves the flow's state.
//!
//! Invariant: the state moves only by an exchange of the word that was read.

use crate::{
    case::{Case, mark},
    flow::{FlowEntry, FlowState, StateWord, flow_mark},
    memory::FlowMemory,
    packet::{protocol, tcp_flag},
};

/// Sequence numbers past the last acknowledged one at which a reset is believed.
const RESET_WINDOW: u32 = 65_535;

/// Counts a packet of a live flow, and moves the flow's state.
#[inline(always)]
pub(super) fn account<M: FlowMemory>(
    memory: &M,
    entry: &FlowEntry,
    case: &Case,
    word: StateWord,
    from_opener: bool,
) {
    let side = usize::from(!from_opener);
    memory.add(&entry.packets[side], 1);
    memory.add(&entry.bytes[side], u64::from(case.bytes));
    let now = memory.jiffies();
    if entry.last_seen.load() != now {
        entry.last_seen.put(now);
    }
    let state = word.state();
    let flags = case.tcp_flags();
    let is_tcp = case.protocol() == protocol::TCP;
    let is_reset = is_tcp && flags & tcp_flag::RST != 0;
    // The other end's packets may come back another way.
    let leaving = case.is(mark::LEAVING);
    let mut next = state;
    let mut finished = 0;
    if is_reset {
        // A reset from outside the window is somebody's guess (RFC 5961, 3).
        let expected = entry.acknowledged[side ^ 1].load();
        if leaving || case.sequence.wrapping_sub(expected) <= RESET_WINDOW {
            next = FlowState::Closing;
        }
    } else if from_opener {
        let goes_on = if leaving {
            is_tcp && matches!(state, FlowState::Embryonic | FlowState::Answered)
        } else {
            matches!(state, FlowState::Answered) && (!is_tcp || has_seen_answer(entry, case))
        };
        if goes_on {
            next = FlowState::Established;
        }
    } else if matches!(state, FlowState::Embryonic | FlowState::Answered) {
        if is_tcp {
            note_answer(memory, entry, case, word);
            return;
        }
        next = FlowState::Answered;
    }
    if is_tcp && !is_reset {
        if flags & tcp_flag::ACK != 0 {
            entry.acknowledged[side].put(case.acknowledged);
        }
        let mine = if leaving {
            flow_mark::FIN_OPENER | flow_mark::FIN_REPLY
        } else if from_opener {
            flow_mark::FIN_OPENER
        } else {
            flow_mark::FIN_REPLY
        };
        let is_over;
        (finished, is_over) = finish(word, flags, mine);
        if is_over {
            next = FlowState::Closing;
        }
    }
    let moved = word.in_state(next).with_marks(finished);
    if moved.0 != word.0 {
        // Another processor that was quicker has seen a later packet; this one moves
        // nothing then.
        memory.exchange(&entry.state, word.0, moved.0);
    }
}

/// Returns `true` if the opener acknowledges the other end's SYN as last seen, or a byte that
/// the other end has been seen to send after it.
#[inline(always)]
fn has_seen_answer(entry: &FlowEntry, case: &Case) -> bool {
    let first = entry.initial[1].load().wrapping_add(1);
    let sent = entry.answered.load().wrapping_sub(first);
    case.tcp_flags() & tcp_flag::ACK != 0 && case.acknowledged.wrapping_sub(first) <= sent
}

/// The mark of a FIN, if the segment has one, and whether both ends have sent theirs by it.
#[inline(always)]
const fn finish(word: StateWord, flags: u8, mark: u32) -> (u32, bool) {
    const BOTH: u32 = flow_mark::FIN_OPENER | flow_mark::FIN_REPLY;
    if flags & tcp_flag::FIN == 0 {
        return (0, false);
    }
    (mark, (word.marks() | mark) & BOTH == BOTH)
}

/// Notes a TCP segment of the other end of a connection that is not established: its SYN and
/// how far it has sent. The entry is locked for that: its next flow must not inherit them.
#[inline(always)]
fn note_answer<M: FlowMemory>(memory: &M, entry: &FlowEntry, case: &Case, word: StateWord) {
    let flags = case.tcp_flags();
    let is_syn = flags & tcp_flag::SYN != 0;
    let is_first = matches!(word.state(), FlowState::Embryonic);
    let (finished, is_over) = finish(word, flags, flow_mark::FIN_REPLY);
    let next = if is_over {
        FlowState::Closing
    } else {
        FlowState::Answered
    };
    if memory.exchange(&entry.state, word.0, word.locked().0) != word.0 {
        return;
    }
    // A first fragment does not show how long its segment is.
    let end = if case.is(mark::FIRST) {
        case.sequence.wrapping_add(u32::from(is_syn))
    } else {
        case.datagram
    };
    if is_syn {
        entry.initial[1].put(case.sequence);
    } else if is_first {
        // A connection from before the endpoint was put in force.
        entry.initial[1].put(case.sequence.wrapping_sub(1));
    }
    let further = end.wrapping_sub(entry.answered.load());
    if is_syn || is_first || further >> 31 == 0 {
        entry.answered.put(end);
    }
    if flags & tcp_flag::ACK != 0 {
        entry.acknowledged[1].put(case.acknowledged);
    }
    let noted = word.next().in_state(next).with_marks(finished);
    memory.exchange(&entry.state, word.locked().0, noted.0);
}
