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
use cofferdam_ebpf::{Attachment, DROP, PASS, answer, find_source, order_loads, run};
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
static BENCH_ARRAY: Array<[u32; 16], 100_000> = Array::new();

/// Number of sources, at most 2^24; the loader writes it.
#[unsafe(no_mangle)]
static BENCH_SOURCES: u32 = 1;

/// How far apart the sources are: an odd number, 1 for consecutive addresses. The
/// loader writes it.
#[unsafe(no_mangle)]
static BENCH_STRIDE: u32 = 1;

/// Where the source address lies, behind an Ethernet header.
const SOURCE_V4: usize = 14 + 12;
const SOURCE_V6: usize = 14 + 8;

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
    let Some(Source { address, .. }) = choose_source(&context) else {
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

#[classifier]
pub fn bench_nothing(context: TcContext) -> i32 {
    choose_source(&context);
    PASS
}

/// The lookup of the source address alone.
#[classifier]
pub fn bench_address(context: TcContext) -> i32 {
    let Some(Source { address, .. }) = choose_source(&context) else {
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
    let Some(Source { number, .. }) = choose_source(&context) else {
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

/// The source of one packet.
struct Source {
    /// Its number among the sources.
    number: u32,
    /// Its address.
    address: Address,
}

/// Writes one of the sources into the packet: of 10.0.0.0/8 or fd00::/64, by number.
#[inline(always)]
fn choose_source(context: &TcContext) -> Option<Source> {
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
    let (sources, stride) = unsafe {
        (
            core::ptr::read_volatile(&raw const BENCH_SOURCES),
            core::ptr::read_volatile(&raw const BENCH_STRIDE),
        )
    };
    let number = ((u64::from(x) * u64::from(sources)) >> 32) as u32;
    let skb: *mut __sk_buff = context.as_ptr().cast();
    // SAFETY: the kernel hands the program a valid context.
    let (data, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    if data + SOURCE_V6 + 16 > end {
        return None;
    }
    // SAFETY: the check above covers all of these bytes.
    let is_v6 = unsafe { *((data + 12) as *const u8) } == 0x86;
    let apart = u64::from(number) * u64::from(stride);
    let (at, address) = if is_v6 {
        let words = [0xfd00_0000, 0, (apart >> 32) as u32, apart as u32];
        let family = Family::V6;
        (SOURCE_V6 + 8, Address { family, words })
    } else {
        let words = [0x0a00_0000 | apart as u32 & 0xff_ffff, 0, 0, 0];
        let family = Family::V4;
        (SOURCE_V4, Address { family, words })
    };
    // SAFETY: as above; packets may be written at any alignment on x86-64.
    unsafe {
        if is_v6 {
            *((data + at) as *mut u32) = address.words[2].to_be();
            *((data + at + 4) as *mut u32) = address.words[3].to_be();
        } else {
            *((data + at) as *mut u32) = address.words[0].to_be();
        }
    }
    Some(Source { number, address })
}
