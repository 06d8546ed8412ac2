//! The order of loads in the compiled programs.
//!
//! User space writes what programs read, and a program believes what it has read because
//! of the order in which it read it. The source says that order; these tests hold what the
//! compiler made of it, load by load, on the ways through a bucket and an entry of the
//! flow table.

use std::{collections::HashSet, mem::offset_of};

use cofferdam_dataplane::OBJECT;
use cofferdam_tests::bytecode::{Interpreter, Load, Object};
use cofferdam_verdict::{
    address::Address,
    bucket::{AddressBlock, BUCKET_WORDS, Bucket},
    endpoint::EndpointRecord,
    flow::{FlowEntry, FlowKey, FlowSet, FlowState, KEY_PAIRS, StateWord},
    judge::Case,
    memory::{BucketSet, Settings},
    packet::{ethertype, protocol},
    table::{MAGIC, Page, header, row_key},
};
use zerocopy::IntoBytes as _;

/// Low bits of an address in which neighbours differ.
const NEIGHBOURHOOD_BITS: u32 = 3;
/// Bit of a bucket's head that sends a look-up to the second candidate.
const OVERFLOWED: u32 = 1;
/// The map of blocks of slots.
const BLOCKS: &str = "ADDRESS_BLOCKS";

/// The map of a set of buckets.
const fn name_of(set: BucketSet) -> &'static str {
    match set {
        BucketSet::AddressV4 => "ADDRESSES_V4",
        BucketSet::AddressV6 => "ADDRESSES_V6",
        BucketSet::Endpoint => "ENDPOINT_INDEX",
    }
}

/// Words of a key in a set of buckets.
const fn key_words(set: BucketSet) -> usize {
    match set {
        BucketSet::AddressV6 => 4,
        _ => 1,
    }
}

/// Bytes with words in them.
fn bytes_of<T>(words: &[(usize, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<T>()];
    for &(offset, word) in words {
        bytes[offset..offset + 4].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// A case as the programs hand it on.
fn bytes_of_case(case: &Case) -> Vec<u8> {
    let words = std::ptr::from_ref(case).cast::<[u8; size_of::<Case>()]>();
    // SAFETY: a case is words alone, without padding, and lives until the copy is made.
    unsafe { *words }.to_vec()
}

/// A packet towards the endpoint.
fn case(peer: Address, local: Address) -> Case {
    let key = row_key(protocol::UDP, 53);
    let mut case = Case::to_workload(&peer, &local, 0, 7, key);
    case.ports = 40_000 << 16 | 53;
    case.kind = u32::from(ethertype::IPV4) << 16 | u32::from(protocol::UDP) << 8;
    case
}

/// An interpreter with a table that has nothing but its head, and with one endpoint,
/// 10.0.0.2.
fn interpreter(object: &Object) -> Interpreter<'_> {
    let mut run = Interpreter::new(object);
    run.outer("TABLE", "table");
    run.array("table", [bytes_of::<Page>(&[(4 * header::MAGIC, MAGIC)])]);
    let record = bytes_of::<EndpointRecord>(&[
        (offset_of!(EndpointRecord, flow_partition), 1),
        (offset_of!(EndpointRecord, v4), 0x0a00_0002),
        (offset_of!(EndpointRecord, v4_slots), 5),
    ]);
    run.array("ENDPOINTS", [record]);
    run
}

/// The loads of one look-up of an address, whose neighbourhood is entry `entry` of both
/// candidate buckets; of neither, if they have no such entry.
fn look_up(object: &Object, set: BucketSet, entry: usize, head: u32) -> Vec<Load> {
    let name = name_of(set);
    let (peer, local) = match set {
        BucketSet::AddressV6 => (Address::v6([0xfd; 16]), Address::v6([0xfe; 16])),
        _ => (Address::v4([10, 0, 0, 19]), Address::v4([10, 0, 0, 2])),
    };
    let mut run = interpreter(object);
    // Two buckets, so that the candidates are both of them.
    let settings = Settings {
        bucket_masks: [1; 3],
        ..Settings::default()
    };
    run.variable("SETTINGS", settings.as_bytes());
    let key_words = key_words(set);
    let mut key = peer.words;
    key[key_words - 1] >>= NEIGHBOURHOOD_BITS;
    let mut words = vec![(0, head)];
    let at = 1 + entry * (key_words + 1);
    if at + key_words < BUCKET_WORDS {
        let key = (at..).zip(key).take(key_words);
        words.extend(key.map(|(at, word)| (4 * at, word)));
        // The block numbered 1, all of whose neighbours have a slot.
        words.push((4 * (at + key_words), 1));
    }
    let bucket = bytes_of::<Bucket>(&words);
    run.array(name, [bucket.clone(), bucket]);
    let full = vec![7; size_of::<AddressBlock>()];
    run.array(BLOCKS, [full.clone(), full]);
    let case = run.memory(bytes_of_case(&case(peer, local)));
    run.call("answer", &[case]);
    let of_buckets = |load: &&Load| load.map == name || load.map == BLOCKS;
    run.loads().iter().filter(of_buckets).cloned().collect()
}

/// Holds the loads of a look-up against the protocol in `cofferdam_verdict::bucket`: the
/// head of a bucket, of each entry the value and then the key, the block of slots, and
/// the head again; and every word but the heads once.
fn assert_bucket_order(loads: &[Load], set: BucketSet, about: &str) {
    let name = name_of(set);
    let is_head = |load: &Load| load.map == name && load.offset == 0;
    let again = loads.iter().rev().take_while(|load| is_head(load)).count();
    let (first, again) = loads.split_at(loads.len() - again);
    let mut seen = HashSet::new();
    for load in first {
        assert_eq!(load.bytes, 4, "{about}: a word is loaded in one piece");
        let word = load.offset / 4;
        let place = (load.map == name && word != 0).then(|| (word - 1) % (key_words(set) + 1));
        if let Some(place) = place {
            assert!(
                seen.contains(&(&load.map, load.index, 0)),
                "{about}: {load:?} comes before the head"
            );
            let value = word - place + key_words(set);
            assert!(
                value == word || seen.contains(&(&load.map, load.index, value)),
                "{about}: the key {load:?} comes before its value"
            );
        }
        assert!(
            seen.insert((&load.map, load.index, word)),
            "{about}: {load:?} is a second one"
        );
    }
    for head in first.iter().filter(|load| is_head(load)) {
        assert!(
            again.contains(head),
            "{about}: {head:?} is not loaded again at the end, after all else"
        );
    }
}

#[test]
fn a_bucket_is_read_in_the_order_that_its_writer_counts_on() {
    const HEADS: [u32; 2] = [4, 4 | OVERFLOWED];
    let object = Object::parse(OBJECT);
    for (set, entries) in [(BucketSet::AddressV4, 7), (BucketSet::AddressV6, 3)] {
        // With the last, which is none, the look-up finds nothing.
        for (entry, head) in (0..=entries).flat_map(|entry| HEADS.map(|head| (entry, head))) {
            let about = format!("{set:?}, entry {entry}, head {head}");
            let loads = look_up(&object, set, entry, head);
            let absent = entry == entries;
            let buckets = if absent && head & OVERFLOWED != 0 {
                2
            } else {
                1
            };
            // Head, value and key of each entry, the block, and the heads again.
            let entries = if absent { entries } else { entry + 1 };
            let words = 1 + entries * (key_words(set) + 1);
            assert_eq!(
                loads.len(),
                buckets * words + usize::from(!absent) + 2,
                "{about}"
            );
            assert_bucket_order(&loads, set, &about);
        }
    }
}

#[test]
fn an_entry_of_the_flow_table_is_read_between_two_loads_of_its_state() {
    const WAY: usize = 2;
    const START: usize = WAY * size_of::<FlowEntry>();
    let (peer, local) = (Address::v4([10, 0, 0, 19]), Address::v4([10, 0, 0, 2]));
    let key = FlowKey::new(&local, &peer, protocol::UDP, 53, 40_000);
    // Of another incarnation: nothing is loaded but to see if the entry counts.
    let state = StateWord::new(3, 0, 9, 1, FlowState::Established, 0).0;
    let key_at = START + offset_of!(FlowEntry, key);
    let mut words = vec![(START, state as u32), (START + 4, (state >> 32) as u32)];
    words.extend((key_at..).step_by(4).zip(key.words()));
    let object = Object::parse(OBJECT);
    let mut run = interpreter(&object);
    run.outer("FLOWS", "partition");
    run.array("partition", [bytes_of::<FlowSet>(&words)]);
    let case = run.memory(bytes_of_case(&case(peer, local)));
    run.call("track", &[case]);

    let loads = run
        .loads()
        .iter()
        .filter(|load| load.map == "partition")
        .map(|load| (load.offset, load.bytes))
        .collect::<Vec<_>>();
    let is_state = |(offset, _): &(usize, usize)| offset.is_multiple_of(size_of::<FlowEntry>());
    let parts = loads.split(is_state).collect::<Vec<_>>();
    assert!(
        loads
            .iter()
            .filter(|load| is_state(load))
            .all(|&(_, bytes)| bytes == 8),
        "a state word is loaded in one piece: {loads:?}"
    );
    // Without hash keys every tag is 0, and no way is passed over. Two are free; the key is
    // compared once to find the entry, and read once more with what the entry says.
    let [first, second, third, found, read, after] = parts[..] else {
        panic!("three ways are looked at, and the found one read: {loads:?}");
    };
    let tags = offset_of!(FlowEntry, tags);
    let looked_at = [first, second, third].map(<[_]>::to_vec);
    assert_eq!(
        looked_at,
        [tags, tags + 1, tags + 2].map(|tag| vec![(tag, 1)]),
        "no more than its tag is loaded before the state of a way: {loads:?}"
    );
    assert!(after.is_empty(), "{loads:?}");
    let key = (key_at..)
        .step_by(8)
        .take(KEY_PAIRS)
        .map(|at| (at, 8))
        .collect::<Vec<_>>();
    assert_eq!(sorted(found), key, "to find it");
    let told = [
        offset_of!(FlowEntry, peer_slot),
        offset_of!(FlowEntry, peer_epoch),
        offset_of!(FlowEntry, last_seen),
    ]
    .map(|offset| (START + offset, 4));
    assert_eq!(sorted(read), [key, told.to_vec()].concat(), "to read it");
}

/// Loads in the ascending order of their offsets.
fn sorted(loads: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let mut loads = loads.to_vec();
    loads.sort_unstable();
    loads
}
