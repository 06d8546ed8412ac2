//! Judges packets the short way and the long way over the same memory, and compares.
//!
//! The long way is the truth: a packet that passes by [`Steps::hurry`] must pass it, too, and
//! leave the same flow table behind.

use cofferdam_verdict::{
    counter::Hook,
    flow::{FlowEntry, FlowSet},
    judge::{Case, Context},
    packet::Frame,
    pipeline::{Host, Steps as _, walk},
    reason::Reason,
    shared::SharedWord,
    slices::SliceFlows,
    verdict::Verdict,
};

/// Outcome of a packet, the same both ways.
#[derive(Debug)]
pub struct Judged {
    /// The case, as the long way left it.
    pub case: Case,
    /// The packet passed the short way.
    pub hurried: bool,
}

/// Judges a frame both ways.
///
/// # Panics
///
/// Panics if the two ways differ.
pub fn judge_both_ways<F: Frame>(
    flows: &SliceFlows<'_>,
    frame: &F,
    context: &Context,
    hook: Hook,
) -> Judged {
    let steps = Host {
        memory: flows,
        frame,
        context,
        hook,
    };
    let before: Vec<_> = entries(flows, context.ifindex)
        .map(|entry| (entry, read(entry)))
        .collect();
    let hurried = if context.is_probe() {
        None
    } else {
        steps.hurry()
    };
    let now = || {
        before
            .iter()
            .map(|(entry, _)| read(entry))
            .collect::<Vec<_>>()
    };
    let after = hurried.map(|stamp| (stamp, now()));
    if after.is_some() {
        for (entry, words) in &before {
            write(entry, words);
        }
    }
    let mut case = Case::blank(hook, frame.length());
    walk(&steps, &mut case, context.is_probe());
    if let Some((stamp, left)) = after {
        let flow = Verdict::allow(Reason::Flow).to_word();
        assert_eq!(case.enforced, flow, "passed the short way: {case:?}");
        if hook == Hook::FromWorkload {
            assert_eq!(case.stamp, stamp, "{case:?}");
        }
        assert_eq!(now(), left, "the ways left different flows: {case:?}");
    }
    Judged {
        hurried: hurried.is_some(),
        case,
    }
}

/// The entries in use of the partition of the endpoint behind an interface.
fn entries<'a>(
    flows: &SliceFlows<'a>,
    ifindex: u32,
) -> impl Iterator<Item = &'a FlowEntry> + use<'a> {
    let mut records = flows.memory.endpoints.iter();
    let record = records.find(|record| record.ifindex == ifindex);
    let number = record.and_then(|record| record.flow_partition.checked_sub(1));
    let sets: &'a [FlowSet] = number.map_or(&[], |number| flows.partitions[number as usize]);
    let entries = sets.iter().flat_map(|set| &set.ways);
    entries.filter(|entry| entry.state.load() != 0)
}

/// Content of an entry, in the order of its fields.
type Words = [u64; 19];

fn read(entry: &FlowEntry) -> Words {
    let [a, b, c, d, e] = entry.key.each_ref().map(|word| word.load());
    let tags = entry.tags.each_ref().map(|tag| tag.load());
    let [sent, back] = entry.packets.each_ref().map(|word| word.load());
    let [bytes, bytes_back] = entry.bytes.each_ref().map(|word| word.load());
    let both = |pair: &[SharedWord; 2]| u64::from(pair[0].load()) << 32 | u64::from(pair[1].load());
    [
        entry.state.load(),
        a,
        b,
        c,
        d,
        e,
        entry.peer_slot.load().into(),
        entry.peer_epoch.load().into(),
        entry.last_seen.load().into(),
        u32::from_le_bytes(tags).into(),
        sent,
        back,
        bytes,
        bytes_back,
        both(&entry.acknowledged),
        both(&entry.initial),
        entry.answered.load().into(),
        entry.opened.load().into(),
        entry.checked.load(),
    ]
}

fn write(entry: &FlowEntry, words: &Words) {
    entry.state.put(words[0]);
    for (word, value) in entry.key.iter().zip(&words[1..6]) {
        word.put(*value);
    }
    entry.peer_slot.put(words[6] as u32);
    entry.peer_epoch.put(words[7] as u32);
    entry.last_seen.put(words[8] as u32);
    for (tag, value) in entry.tags.iter().zip((words[9] as u32).to_le_bytes()) {
        tag.put(value);
    }
    for (word, value) in entry.packets.iter().chain(&entry.bytes).zip(&words[10..14]) {
        word.put(*value);
    }
    for (pair, value) in [
        (&entry.acknowledged, words[14]),
        (&entry.initial, words[15]),
    ] {
        pair[0].put((value >> 32) as u32);
        pair[1].put(value as u32);
    }
    entry.answered.put(words[16] as u32);
    entry.opened.put(words[17] as u32);
    entry.checked.put(words[18]);
}
