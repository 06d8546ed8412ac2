//! The flow key, its placement, and the state word.

use std::net::IpAddr;

use cofferdam_verdict::{
    address::Address,
    flow::{
        FlowKey, FlowState, StateWord, WAYS,
        model::{Flow, FlowTableFull, Partition},
    },
    hash::Keys,
    packet::protocol,
};
use proptest::prelude::*;

const KEYS: Keys = Keys {
    words: [
        0x9e37_79b9,
        0x7f4a_7c15,
        0xf39c_c060,
        0x5ced_c834,
        0x2545_f491,
        0x4f6c_dd1d,
        0x1234_5679,
        0xdead_beef,
        0x0bad_cafe,
        0x8765_4321,
    ],
    spread: [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9],
    mark: 0,
    _spare: 0,
};

fn address(text: &str) -> Address {
    text.parse::<IpAddr>()
        .expect("an address of the test")
        .into()
}

fn key(port: u16) -> FlowKey {
    FlowKey::new(
        &address("10.0.0.1"),
        &address("10.0.0.2"),
        protocol::TCP,
        port,
        443,
    )
}

fn flow(port: u16, state: FlowState, last_seen: u32) -> Flow {
    Flow {
        key: key(port),
        state,
        last_seen,
        idle: 100,
        rest: 60,
        opener: [u32::from(port), 0, 0, 0],
    }
}

#[test]
fn request_and_reply_have_one_key_at_one_endpoint() {
    let (local, peer) = (address("fd00::1"), address("fd00::2"));
    let request = FlowKey::new(&local, &peer, protocol::UDP, 4000, 53);
    // The reply's source is the peer, its destination port the local one.
    let reply = FlowKey::new(&local, &peer, protocol::UDP, 4000, 53);
    assert_eq!(request, reply);
    assert_ne!(
        request,
        FlowKey::new(&peer, &local, protocol::UDP, 4000, 53)
    );
    assert_ne!(
        request,
        FlowKey::new(&local, &peer, protocol::TCP, 4000, 53)
    );
}

#[test]
fn two_candidate_sets_differ() {
    for port in 0..1000 {
        let [first, second] = key(port).places(&KEYS, 1023).sets;
        assert_ne!(first, second);
    }
}

/// With one candidate set, 4 ways refuse 3.8 % at half load; with two, none.
#[test]
fn half_full_table_refuses_nothing() {
    let mut sets = vec![[None; WAYS]; 1024];
    let mut partition = Partition::new(&KEYS, &mut sets).expect("a power of two");
    for port in 0..2048 {
        assert_eq!(
            partition.insert(flow(port, FlowState::Established, 0), 0),
            Ok(())
        );
    }
    for port in 0..2048 {
        assert!(partition.find(&key(port), 0).is_some());
    }
}

#[test]
fn established_flows_are_never_pushed_out() {
    let mut sets = vec![[None; WAYS]; 1];
    let mut partition = Partition::new(&KEYS, &mut sets).expect("a power of two");
    for port in 0..4 {
        partition
            .insert(flow(port, FlowState::Established, 0), 0)
            .expect("there is room");
    }
    let late = flow(9, FlowState::Embryonic, 50);
    assert_eq!(partition.insert(late, 50), Err(FlowTableFull));
    // Idle for too long: the place is free again.
    assert_eq!(partition.insert(late, 101), Ok(()));
}

/// One opener cannot hold a set against others, nor lose what it holds within its share.
#[test]
fn flows_of_an_opener_with_more_than_its_share_are_pushed_out() {
    let mut sets = vec![[None; WAYS]; 1];
    let mut partition = Partition::new(&KEYS, &mut sets).expect("a power of two");
    let by = |opener: u32, port, last_seen| Flow {
        opener: [opener, 0, 0, 0],
        ..flow(port, FlowState::Established, last_seen)
    };
    for (opener, port) in [(1, 0), (2, 1), (2, 2), (2, 3)] {
        let entry = by(opener, port, u32::from(port));
        partition.insert(entry, 50).expect("there is room");
    }
    partition
        .insert(by(3, 4, 50), 50)
        .expect("one of three gives way");
    assert!(
        partition.find(&key(1), 50).is_none(),
        "the longest idle one"
    );
    let late = by(3, 5, 50);
    assert_eq!(
        partition.insert(late, 50),
        Err(FlowTableFull),
        "two are a share"
    );
}

#[test]
fn expired_flows_go_before_embryonic_ones() {
    let mut sets = vec![[None; WAYS]; 1];
    let mut partition = Partition::new(&KEYS, &mut sets).expect("a power of two");
    partition
        .insert(flow(0, FlowState::Established, 0), 0)
        .expect("there is room");
    for (port, seen) in [(1, 140), (2, 120), (3, 130)] {
        partition
            .insert(flow(port, FlowState::Embryonic, seen), seen)
            .expect("there is room");
    }
    partition
        .insert(flow(4, FlowState::Embryonic, 150), 150)
        .expect("flow 0 has expired");
    assert!(partition.find(&key(0), 150).is_none());
    assert!((1..=4).all(|port| partition.find(&key(port), 150).is_some()));
    partition
        .insert(flow(5, FlowState::Embryonic, 150), 150)
        .expect("an embryonic one goes");
    assert!(
        partition.find(&key(2), 150).is_none(),
        "the longest idle one"
    );
}

proptest! {
    #[test]
    fn state_word_keeps_its_fields_apart(
        version in 0u32..1 << 11,
        revision in 0u32..1 << 12,
        incarnation in 0u32..1 << 10,
        rule in 0u32..1 << 20,
        marks in 0u32..1 << 7,
    ) {
        let word =
            StateWord::new(version, revision, incarnation, rule, FlowState::Closing, marks);
        prop_assert_eq!(word.version(), version);
        prop_assert_eq!(word.rule(), rule);
        prop_assert_eq!(word.state(), FlowState::Closing);
        prop_assert_eq!(word.marks(), marks);
        prop_assert_eq!(word.with_marks(64).marks(), marks | 64);
        prop_assert!(word.is_current(revision, incarnation));
        prop_assert!(!word.is_current(revision ^ 1, incarnation));
        prop_assert!(!word.is_current(revision, incarnation ^ 512));
        prop_assert!(!word.is_locked() && word.locked().is_locked());
        let next = word.published(revision, incarnation, rule, FlowState::Free, 0);
        prop_assert_eq!(next.version(), (version + 1) % (1 << 11));
        prop_assert_ne!(next, word);
    }
}
