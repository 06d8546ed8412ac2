//! Programs for the packet benchmark: the body of a hook, and nothing, each
//! behind the same choice of a source address.
//!
//! One test run sends one packet many times over. To measure with cold caches,
//! these programs write another source into the packet before each judgement;
//! what that costs is in both, and goes out of the difference.

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
use cofferdam_ebpf::{Attachment, DROP, PASS, answer, run};
use cofferdam_verdict::{
    address::{Address, Family},
    counter::Hook,
    judge::Case,
    packet::protocol,
    table::row_key,
};

/// State of the random numbers.
#[btf_map]
static BENCH_STATE: Array<u32, 1> = Array::new();

/// Number of sources, at most 2^24; the loader writes it.
#[unsafe(no_mangle)]
static BENCH_SOURCES: u32 = 1;

/// Where the last word of the source address lies, behind an Ethernet header.
const SOURCE_V4: usize = 14 + 12;
const SOURCE_V6: usize = 14 + 8 + 12;

#[classifier]
pub fn bench_to_workload(context: TcContext) -> i32 {
    choose_source(&context);
    run(&context, Hook::ToWorkload, Attachment::Link)
}

#[classifier]
pub fn bench_from_workload(context: TcContext) -> i32 {
    choose_source(&context);
    run(&context, Hook::FromWorkload, Attachment::Link)
}

/// The decision alone: addresses to slots to a row to a verdict, without a packet.
#[classifier]
pub fn bench_decision(context: TcContext) -> i32 {
    let Some((is_v6, word)) = choose_source(&context) else {
        return PASS;
    };
    let (source, destination) = if is_v6 {
        let address = |high, low| Address {
            family: Family::V6,
            words: [high, 0, 0, low],
        };
        (address(0xfd00_0000, word), address(0xfd01_0000, 1))
    } else {
        let address = |word| Address {
            family: Family::V4,
            words: [word, 0, 0, 0],
        };
        (address(word), address(0xac10_0001))
    };
    let key = row_key(protocol::TCP, 80);
    // The receiver is the only endpoint, so that it has the first number given.
    let mut case = Case::to_workload(&source, &destination, 0, 1, key);
    answer(&raw mut case);
    if case.is_allowed() { PASS } else { DROP }
}

#[classifier]
pub fn bench_nothing(context: TcContext) -> i32 {
    choose_source(&context);
    PASS
}

/// Writes one of the sources into the packet: 10.0.0.0/8 or fd00::/104, by number.
/// Returns whether it is IPv6, and the last word of the address.
#[inline(always)]
fn choose_source(context: &TcContext) -> Option<(bool, u32)> {
    let state = BENCH_STATE.get_ptr_mut(0)?;
    // SAFETY: a map's value; test runs are one at a time.
    let state = unsafe { &mut *state };
    // xorshift32 (Marsaglia 2003).
    let mut x = *state | 1;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    *state = x;
    // SAFETY: the loader's value counts, not the one above.
    let sources = unsafe { core::ptr::read_volatile(&raw const BENCH_SOURCES) };
    let number = ((u64::from(x) * u64::from(sources)) >> 32) as u32;
    let skb: *mut __sk_buff = context.as_ptr().cast();
    // SAFETY: the kernel hands the program a valid context.
    let (data, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    if data + SOURCE_V6 + 4 > end {
        return None;
    }
    // SAFETY: the check above covers all of these bytes.
    let is_v6 = unsafe { *((data + 12) as *const u8) } == 0x86;
    let (at, word) = if is_v6 {
        (SOURCE_V6, number)
    } else {
        (SOURCE_V4, 0x0a00_0000 | number)
    };
    // SAFETY: as above; packets may be written at any alignment on x86-64.
    unsafe { *((data + at) as *mut u32) = word.to_be() };
    Some((is_v6, word))
}
