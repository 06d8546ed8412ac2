//! Programs for the packet benchmark: the bodies of the hooks, and nothing, each
//! behind the same choice of a peer.
//!
//! One test run sends one packet many times over. To measure with cold caches,
//! these programs write another peer into the packet before each judgement: its
//! address, and a port. What that costs is in both, and goes out of the difference.

#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the attribute of a program repeats it without its comment"
)]
#![expect(unreachable_pub, reason = "programs are found by their symbols")]

use aya_ebpf::{
    EbpfContext as _,
    bindings::__sk_buff,
    btf_maps::Array,
    macros::{btf_map, classifier},
    programs::TcContext,
};
use cofferdam_ebpf::{Attachment, DROP, PASS, answer, clear_flows, find_source, order_loads, run};
use cofferdam_verdict::{
    address::{Address, Family},
    bucket::Found,
    counter::Hook,
    judge::Case,
    packet::protocol,
    table::row_key,
};

/// State of the random numbers.
#[btf_map]
static BENCH_STATE: Array<u32, 1> = Array::new();

/// Read at random by the reference program, for what one cache miss costs.
#[btf_map]
static BENCH_ARRAY: Array<[u32; 16], 500_000> = Array::new();

/// Number of peers, at most 2^24; the loader writes it.
#[unsafe(no_mangle)]
static BENCH_PEERS: u32 = 1;

/// Distance of the peers' addresses: an odd number, 1 for consecutive ones. The
/// loader writes it.
#[unsafe(no_mangle)]
static BENCH_STRIDE: u32 = 1;

/// Number of ports for each peer; the loader writes it.
#[unsafe(no_mangle)]
static BENCH_PORTS: u32 = 1;

/// The first of these ports.
const FIRST_PORT: u32 = 20_000;

/// Ports below are a server's, and stay.
const SERVER_PORTS: u32 = 1024;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

#[classifier]
pub fn bench_to_workload(context: TcContext) -> i32 {
    choose_peer(&context, Peer::Source);
    run(&context, Hook::ToWorkload, Attachment::Link)
}

#[classifier]
pub fn bench_from_workload(context: TcContext) -> i32 {
    choose_peer(&context, Peer::Destination);
    run(&context, Hook::FromWorkload, Attachment::Link)
}

/// The workload's packets in others' names.
#[classifier]
pub fn bench_spoofed(context: TcContext) -> i32 {
    choose_peer(&context, Peer::Source);
    run(&context, Hook::FromWorkload, Attachment::Link)
}

/// The decision alone: addresses to slots to a row to a verdict, without a packet.
#[classifier]
pub fn bench_decision(context: TcContext) -> i32 {
    let Some(Chosen { address, .. }) = choose_peer(&context, Peer::Source) else {
        return PASS;
    };
    let destination = match address.family {
        Family::V4 => [0xac10_0001, 0, 0, 0],
        Family::V6 => [0xfd01_0000, 0, 0, 1],
    };
    let destination = Address {
        family: address.family,
        words: destination,
    };
    let key = row_key(protocol::TCP, 80);
    // The receiver is the only endpoint, so that it has the first number given. The sender
    // is a workload of another node, and has no stamp.
    let mut case = Case::to_workload(&address, &destination, 0, 0, key);
    answer(&raw mut case);
    if case.is_allowed() { PASS } else { DROP }
}

/// Nothing, about packets towards the workload.
#[classifier]
pub fn bench_nothing(context: TcContext) -> i32 {
    choose_peer(&context, Peer::Source);
    PASS
}

/// Nothing, about packets of the workload.
#[classifier]
pub fn bench_nothing_sent(context: TcContext) -> i32 {
    choose_peer(&context, Peer::Destination);
    PASS
}

/// Forgets some of the flows of the first partition: the next sets at each run.
#[classifier]
pub fn bench_forget(_: TcContext) -> i32 {
    let Some(state) = BENCH_STATE.get_ptr_mut(0) else {
        return DROP;
    };
    // SAFETY: a map's value; test runs are one at a time.
    let state = unsafe { &mut *state };
    if clear_flows(*state) {
        *state = state.wrapping_add(1);
    } else {
        *state = 0;
    }
    PASS
}

/// The lookup of the source address alone.
#[classifier]
pub fn bench_address(context: TcContext) -> i32 {
    let Some(Chosen { address, .. }) = choose_peer(&context, Peer::Source) else {
        return PASS;
    };
    if matches!(find_source(&address), Found::Value(_)) {
        PASS
    } else {
        DROP
    }
}

/// One load from an array of cache lines, the least that a lookup can cost.
#[classifier]
pub fn bench_array_random(context: TcContext) -> i32 {
    let Some(Chosen { number, .. }) = choose_peer(&context, Peer::Source) else {
        return PASS;
    };
    match BENCH_ARRAY.get(number) {
        // SAFETY: a word of a map's value. Volatile, so that it is loaded.
        Some(line) if unsafe { core::ptr::read_volatile(&raw const line[0]) } == 0 => PASS,
        _ => DROP,
    }
}

/// A word that is loaded first and needed on one way only, which is chosen by a second
/// one. Nothing but the order of loads keeps the compiler from loading it there: a fence
/// of `core` does not. A test looks at the compiled program.
#[classifier]
pub fn bench_order(_: TcContext) -> i32 {
    let Some(line) = BENCH_ARRAY.get(0) else {
        return PASS;
    };
    let value = line[1];
    order_loads();
    let chosen = line[0];
    if chosen == 0 {
        line[2].wrapping_sub(value) as i32
    } else {
        chosen as i32
    }
}

/// End of a packet that the peer is.
#[derive(Clone, Copy)]
enum Peer {
    Source,
    Destination,
}

/// The peer of one packet.
struct Chosen {
    /// Its number among the peers.
    number: u32,
    /// Its address.
    address: Address,
}

/// Writes one of the peers into the packet, by its number an address of 10.0.0.0/8 or
/// fd00::/64, and one of the ports, in place of the one that is no server's.
#[inline(always)]
fn choose_peer(context: &TcContext, peer: Peer) -> Option<Chosen> {
    let state = BENCH_STATE.get_ptr_mut(0)?;
    // SAFETY: a map's value; test runs are one at a time.
    let state = unsafe { &mut *state };
    // xorshift32 (Marsaglia 2003).
    let mut x = *state | 1;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    *state = x;
    // SAFETY: the loader's values count, not the ones above.
    let (peers, stride, ports) = unsafe {
        (
            core::ptr::read_volatile(&raw const BENCH_PEERS),
            core::ptr::read_volatile(&raw const BENCH_STRIDE),
            core::ptr::read_volatile(&raw const BENCH_PORTS),
        )
    };
    let number = ((u64::from(x) * u64::from(peers)) >> 32) as u32;
    let spread = x.wrapping_mul(0x9e37_79b1);
    let port = FIRST_PORT + ((u64::from(spread) * u64::from(ports)) >> 32) as u32;
    let skb: *mut __sk_buff = context.as_ptr().cast();
    // SAFETY: the kernel hands the program a valid context.
    let (data, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    if data + ETHERNET + 40 > end {
        return None;
    }
    // SAFETY: the check above covers all of these bytes.
    let is_v6 = unsafe { *((data + 12) as *const u8) } == 0x86;
    let apart = u64::from(number) * u64::from(stride);
    let is_source = matches!(peer, Peer::Source);
    let address = if is_v6 {
        let words = [0xfd00_0000, 0, (apart >> 32) as u32, apart as u32];
        let at = data + ETHERNET + if is_source { 8 } else { 24 };
        // SAFETY: as above; packets may be written at any alignment on x86-64.
        unsafe {
            *(at as *mut u32) = words[0].to_be();
            *((at + 4) as *mut u32) = words[1].to_be();
            *((at + 8) as *mut u32) = words[2].to_be();
            *((at + 12) as *mut u32) = words[3].to_be();
        }
        write_port(data + ETHERNET + 40, end, port);
        Address {
            family: Family::V6,
            words,
        }
    } else {
        let words = [0x0a00_0000 | apart as u32 & 0xff_ffff, 0, 0, 0];
        let at = data + ETHERNET + if is_source { 12 } else { 16 };
        // SAFETY: as above.
        unsafe { *(at as *mut u32) = words[0].to_be() };
        write_port(data + ETHERNET + 20, end, port);
        Address {
            family: Family::V4,
            words,
        }
    };
    Some(Chosen { number, address })
}

/// Writes a port into the transport header at `at`.
#[inline(always)]
fn write_port(at: usize, end: usize, port: u32) {
    if at + 4 > end {
        return;
    }
    // SAFETY: the check above covers both ports.
    unsafe {
        let source = at as *mut u16;
        let destination = (at + 2) as *mut u16;
        if u32::from(u16::from_be(*source)) < SERVER_PORTS {
            *destination = (port as u16).to_be();
        } else {
            *source = (port as u16).to_be();
        }
    }
}
