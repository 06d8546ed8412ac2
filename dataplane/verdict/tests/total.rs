//! Every input yields a verdict: words that no compiler wrote and bytes that no
//! stack sent are denied or allowed, and never panic or hang.

use cofferdam_verdict::{
    address::{Address, Family},
    bucket::{Bucket, Writer},
    counter::Hook,
    endpoint::{Binding, EndpointRecord},
    hash::Keys,
    judge::{self, Context},
    memory::Settings,
    packet::{ETHERNET_BYTES, ethertype},
    reason::Reason,
    slices::{SliceFrame, SliceMemory},
    table::{MAGIC, MAX_ROW_INTERVALS, PAGE_WORDS, Page, Table, header},
    verdict::{Direction, Verdict},
};
use proptest::prelude::*;

const KEYS: Keys = Keys {
    words: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    spread: [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9],
    mark: 0,
    _spare: 0,
};
const MAC: u64 = 0x0200_0000_0001;

/// Two pages of words, most of them small, so that many lead somewhere.
fn pages() -> impl Strategy<Value = Vec<Page>> {
    let word = prop_oneof![0u32..64, 0u32..40_000, Just(1 << 14), any::<u32>()];
    (prop::collection::vec(word, 256), any::<bool>()).prop_map(|(words, magic)| {
        let mut pages = vec![[0u32; PAGE_WORDS]; 2];
        for page in &mut pages {
            for (at, word) in page.iter_mut().enumerate() {
                *word = words[(at * 7 + at / 256) % words.len()];
            }
        }
        if magic {
            pages[0][header::MAGIC] = MAGIC;
            pages[0][header::SLOTS] = 1 << 15;
        }
        pages
    })
}

/// A frame with a plausible start and any bytes behind it.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        Just(ethertype::IPV4),
        Just(ethertype::IPV6),
        Just(ethertype::ARP),
        any::<u16>(),
    ];
    (kind, prop::collection::vec(any::<u8>(), 0..320)).prop_map(|(kind, mut rest)| {
        match (kind, rest.first_mut()) {
            (ethertype::IPV4, Some(first)) => *first = 0x45 + (*first & 3),
            (ethertype::IPV6, Some(first)) => *first = 0x60,
            _ => {}
        }
        if kind == ethertype::IPV6 && rest.len() > 48 {
            let payload = rest.len() - 40;
            rest[4..6].copy_from_slice(&(payload as u16).to_be_bytes());
            rest[6] = [0, 43, 44, 51, 60, 58, 6][usize::from(rest[6]) % 7];
        }
        let mut frame = vec![0xff; 6];
        frame.extend(&MAC.to_be_bytes()[2..]);
        frame.extend(kind.to_be_bytes());
        assert_eq!(frame.len(), ETHERNET_BYTES as usize);
        frame.extend(rest);
        frame
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_frame_against_any_table_yields_a_verdict(
        table in pages(),
        frame in frame(),
        slot in 1u32..100,
        ingress in 0u32..3,
    ) {
        let settings = Settings { keys: KEYS, bucket_masks: [0; 3], own_node_allowed: 1, idle: [1000; 8], ..Settings::default() };
        let index = [Bucket::default()];
        Writer::new(&KEYS, &index).expect("one bucket").set(&[1], 1).expect("an empty bucket");
        let mut record = EndpointRecord { ifindex: 1, mac: MAC, ..EndpointRecord::default() };
        record.primary_slot = slot;
        record.v4 = [0x0a00_0001; 8];
        record.v4_slots = [slot; 8];
        let none = [Bucket::default()];
        let bindings = [const { Binding::new() }; 4];
        let memory = SliceMemory {
            settings: &settings,
            table: &table,
            buckets: [&none, &none, &index],
            address_blocks: &[],
            endpoints: &[record],
            bindings: &bindings,
        };
        let context = Context { ifindex: 1, ingress_ifindex: ingress, ..Context::default() };
        for hook in [Hook::FromWorkload, Hook::ToWorkload] {
            for gso in [false, true] {
                let case = judge::judge(&memory, &SliceFrame { bytes: &frame, gso }, &context, hook);
                prop_assert!(Verdict::from_any_word(case.enforced).is_some());
                prop_assert!(Verdict::from_any_word(case.audited).is_some());
            }
        }
    }

    /// Rows that claim to go on behind the end of their page, above all.
    #[test]
    fn any_row_at_any_place_yields_verdicts(
        mut table in pages(),
        offset in prop_oneof![0u32..1 << 15, (1u32 << 15) - 40..1 << 15],
        count in prop_oneof![0u32..40, 0u32..6_000, any::<u32>()],
        key in 0u32..1 << 24,
    ) {
        table[0][header::MAGIC] = MAGIC;
        table[offset as usize / PAGE_WORDS][offset as usize % PAGE_WORDS] = count;
        let settings = Settings::default();
        let memory = SliceMemory {
            settings: &settings,
            table: &table,
            buckets: [&[]; 3],
            address_blocks: &[],
            endpoints: &[],
            bindings: &[],
        };
        let row = Table::open(&memory).and_then(|table| table.row(offset, key));
        if let Some(row) = row {
            for word in [row.enforced, row.audited] {
                prop_assert!(Verdict::from_any_word(word).is_some());
            }
        } else {
            prop_assert!(count == 0 || count > MAX_ROW_INTERVALS || offset == 0);
        }
    }

    #[test]
    fn any_lookup_in_any_table_ends(
        table in pages(),
        class in any::<u32>(),
        atom in any::<u32>(),
        key in 0u32..1 << 24,
        words in any::<[u32; 4]>(),
    ) {
        let settings = Settings::default();
        let memory = SliceMemory {
            settings: &settings,
            table: &table,
            buckets: [&[]; 3],
            address_blocks: &[],
            endpoints: &[],
            bindings: &[],
        };
        let Some(table) = Table::open(&memory) else { return Ok(()) };
        for (class, atom) in [(class, atom), (class % 64, atom % 64)] {
            for direction in [Direction::Ingress, Direction::Egress] {
                let decision = table.decide(class, direction, atom, key);
                // What stands in a row is one of four verdicts, or corrupt.
                if let Some(decision) = decision {
                    prop_assert!(matches!(
                        decision.enforced.reason,
                        Reason::Rule | Reason::NotIsolated | Reason::Isolated | Reason::TableCorrupt
                    ));
                }
            }
        }
        for family in [Family::V4, Family::V6] {
            let _slot = table.outside_slot(&Address { family, words });
        }
    }
}
