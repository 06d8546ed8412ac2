//! Places in the running kernel's packet buffer that the programs read, the two ways to
//! read there, and what keeps them from reading.
//!
//! Kernels from Linux 6.2 on give programs the buffer as it is, by a function of theirs,
//! `bpf_cast_to_kern_ctx`: that costs nothing. On others the programs copy a part of it,
//! which costs 24 ns a packet. aya cannot link a call of a function of the kernel; the
//! compiled programs have a mark where the call belongs ([`CAST_CALL`]), and the loader
//! writes the call there before aya reads them.

use std::{fs, io, sync::OnceLock};

use cofferdam_verdict::checksum::{CAST_CALL, WINDOW_BYTES, Window};
use zerocopy::IntoBytes as _;

use crate::btf::Btf;

/// The kernel's type information.
const TYPES: &str = "/sys/kernel/btf/vmlinux";
/// File of the lockdown mode: it tells how much the kernel keeps even from root.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
/// Privileges of the calling thread.
const STATUS: &str = "/proc/thread-self/status";
/// The function by which the kernel gives programs its packet buffer as it is.
const CAST: &str = "bpf_cast_to_kern_ctx";
/// Number of CAP_PERFMON.
const PERFMON: u32 = 38;
/// Number of CAP_SYS_ADMIN, which stands for CAP_PERFMON.
const SYS_ADMIN: u32 = 21;

/// Reason for which the programs cannot look at the checksums that packets leave to be written.
/// Without that look a workload could change its packets behind the verdict, so that nothing is
/// loaded.
#[derive(Debug, thiserror::Error)]
pub enum SocketBufferError {
    /// The kernel has no type information.
    #[error("cannot read {TYPES}: a kernel with CONFIG_DEBUG_INFO_BTF is needed")]
    NoTypes {
        /// Error of the read.
        #[source]
        source: io::Error,
    },
    /// The type information cannot be understood.
    #[error("cannot read the kernel's type information in {TYPES}: its format is not known")]
    Format,
    /// The kernel's packet buffer is not as it was in any kernel so far.
    #[error("the kernel's struct sk_buff has no {field} where the programs could read it")]
    Field {
        /// The field.
        field: &'static str,
    },
    /// Lockdown.
    #[error(
        "the kernel's lockdown mode \"confidentiality\" forbids bpf_probe_read_kernel, which the \
         programs need: boot with lockdown=integrity"
    )]
    Lockdown,
    /// A privilege is missing.
    #[error("the programs read the kernel's packet buffer: CAP_PERFMON is needed")]
    Perfmon,
}

/// Settings that the programs of this kernel need to read its packet buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    /// Places of the fields.
    pub(crate) window: Window,
    /// Number of the function [`CAST`], if the kernel has it.
    pub(crate) cast: Option<u32>,
}

/// The places that the programs of this kernel read.
pub(crate) fn places() -> Result<Places, SocketBufferError> {
    static FOUND: OnceLock<Places> = OnceLock::new();
    if let Some(places) = FOUND.get() {
        return Ok(*places);
    }
    let bytes = fs::read(TYPES).map_err(|source| SocketBufferError::NoTypes { source })?;
    let btf = Btf::parse(&bytes).ok_or(SocketBufferError::Format)?;
    let places = Places {
        window: window_of(&|field| btf.field("sk_buff", field))?,
        cast: btf.function(CAST),
    };
    Ok(*FOUND.get_or_init(|| places))
}

/// Returns `true` if the running kernel gives programs its packet buffer as it is. Else they
/// copy from it, and packets cost some 24 ns more.
///
/// # Errors
///
/// Fails if the kernel does not tell what its packet buffer looks like.
pub fn casts_socket_buffer() -> Result<bool, SocketBufferError> {
    Ok(places()?.cast.is_some())
}

/// An object's bytes, as words, with calls of the function of this number where the compiled
/// programs have their mark. Without a number, with something harmless: Linux 6.1 looks at
/// calls of its functions in code that is never reached, too.
pub(crate) fn with_cast(object: &[u8], cast: Option<u32>) -> Vec<u64> {
    /// `call`, of a helper.
    const CALL: u64 = 0x85;
    /// Source register of a `call` that makes it one of a function of the kernel
    /// (`BPF_PSEUDO_KFUNC_CALL`).
    const OF_KERNEL: u64 = 2 << 12;
    /// `r0 = 0`.
    const NOTHING: u64 = 0xb7;
    let mut words = vec![0u64; object.len().div_ceil(8)];
    for (to, from) in words.as_mut_bytes().iter_mut().zip(object) {
        *to = *from;
    }
    let mark = CALL | u64::from(CAST_CALL.cast_unsigned()) << 32;
    let instead = cast.map_or(NOTHING, |number| CALL | OF_KERNEL | u64::from(number) << 32);
    // Instructions have eight bytes, at multiples of eight.
    for word in words.iter_mut().filter(|word| u64::from_le(**word) == mark) {
        *word = instead.to_le();
    }
    words
}

/// The window over all places, by the bits at which fields start.
fn window_of(bit: &dyn Fn(&str) -> Option<u32>) -> Result<Window, SocketBufferError> {
    let place = |field| bit(field).ok_or(SocketBufferError::Field { field });
    let ip_summed = place("ip_summed")?;
    let half = |field| {
        let bit = place(field)?;
        // Half words, read as such.
        let aligned = bit.is_multiple_of(16);
        aligned
            .then_some(bit / 8)
            .ok_or(SocketBufferError::Field { field })
    };
    const HALVES: [&str; 4] = ["csum_start", "csum_offset", "mac_header", "network_header"];
    let mut halves = [0; HALVES.len()];
    for (at, field) in halves.iter_mut().zip(HALVES) {
        *at = half(field)?;
    }
    // Even, so that half words are even in the window too.
    let start = halves.into_iter().fold(ip_summed / 8, u32::min) & !1;
    let within = |field, at: u32, bytes: u32| {
        let at = at - start;
        let fits = at + bytes <= WINDOW_BYTES;
        fits.then_some(at).ok_or(SocketBufferError::Field { field })
    };
    let [csum_start, csum_offset, mac_header, network_header] = halves;
    // The two bits of `ip_summed` may not lie in two bytes.
    if ip_summed % 8 == 7 {
        return Err(SocketBufferError::Field { field: "ip_summed" });
    }
    Ok(Window {
        start,
        ip_summed: within("ip_summed", ip_summed / 8, 1)?,
        ip_summed_shift: ip_summed % 8,
        csum_start: within("csum_start", csum_start, 2)?,
        csum_offset: within("csum_offset", csum_offset, 2)?,
        mac_header: within("mac_header", mac_header, 2)?,
        network_header: within("network_header", network_header, 2)?,
    })
}

/// Finds the obstacle that keeps this process's programs from reading the kernel's memory, once
/// they were refused; `None` if it is something else. Lockdown forbids copies alone.
pub(crate) fn obstacle(copies: bool) -> Option<SocketBufferError> {
    // Where a file cannot be read, nothing is known against it.
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let lockdown = if copies {
        read(LOCKDOWN)
    } else {
        String::new()
    };
    obstacle_of(&lockdown, &read(STATUS))
}

fn obstacle_of(lockdown: &str, status: &str) -> Option<SocketBufferError> {
    if lockdown.contains("[confidentiality]") {
        return Some(SocketBufferError::Lockdown);
    }
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let lacks = |capability: u32| effective.is_some_and(|set| set >> capability & 1 == 0);
    (lacks(PERFMON) && lacks(SYS_ADMIN)).then_some(SocketBufferError::Perfmon)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits of the fields, as Linux 6.18 has them.
    fn bits(field: &str) -> Option<u32> {
        match field {
            "ip_summed" => Some(128 * 8 + 5),
            "csum_start" => Some(136 * 8),
            "csum_offset" => Some(138 * 8),
            "network_header" => Some(180 * 8),
            "mac_header" => Some(182 * 8),
            _ => None,
        }
    }

    #[test]
    fn the_window_covers_all_places() {
        let window = window_of(&bits).expect("all are there");
        let expected = Window {
            start: 128,
            ip_summed: 0,
            ip_summed_shift: 5,
            csum_start: 8,
            csum_offset: 10,
            mac_header: 54,
            network_header: 52,
        };
        assert_eq!(window, expected);
    }

    #[test]
    fn a_place_that_cannot_be_read_is_named() {
        let cases: [(&str, Option<u32>); 6] = [
            ("csum_start", None),
            ("mac_header", Some(192 * 8)),
            ("mac_header", Some(191 * 8)),
            ("csum_offset", Some(138 * 8 + 4)),
            ("ip_summed", Some(128 * 8 + 7)),
            ("ip_summed", None),
        ];
        for (wrong, bit) in cases {
            let moved = |field: &str| if field == wrong { bit } else { bits(field) };
            match window_of(&moved) {
                Err(SocketBufferError::Field { field }) => assert_eq!(field, wrong),
                other => panic!("{wrong} at {bit:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn this_kernel_tells_its_places() {
        places().expect("the tests need a kernel that tells its types");
    }

    /// The words of an object, and how many of them are this one.
    fn count(object: &[u8], word: u64) -> usize {
        let (words, _) = object.as_chunks::<8>();
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        words.filter(|&there| there == word).count()
    }

    #[test]
    fn the_call_is_written_where_the_programs_have_their_mark() {
        let mark = 0x85 | u64::from(CAST_CALL.cast_unsigned()) << 32;
        let marks = count(crate::OBJECT, mark);
        assert!(marks > 0, "the compiled programs have a mark");
        let call = 0x1234_0000_2085;
        for (cast, instead) in [(Some(0x1234), call), (None, 0xb7)] {
            let there = count(crate::OBJECT, instead);
            let linked = with_cast(crate::OBJECT, cast);
            assert_eq!(count(linked.as_bytes(), mark), 0);
            assert_eq!(count(linked.as_bytes(), instead), there + marks);
            let changed = linked
                .as_bytes()
                .iter()
                .zip(crate::OBJECT)
                .filter(|(a, b)| a != b)
                .count();
            assert!(changed <= 8 * marks, "{changed} bytes have changed");
        }
    }

    #[test]
    fn what_is_in_the_way_has_a_name() {
        let root = "CapEff:\t000001ffffffffff\n";
        let open = "[none] integrity confidentiality\n";
        assert!(obstacle_of(open, root).is_none());
        assert!(obstacle_of("", "").is_none());
        assert!(obstacle_of("none [integrity] confidentiality\n", root).is_none());
        let shut = obstacle_of("none integrity [confidentiality]\n", root);
        assert!(matches!(shut, Some(SocketBufferError::Lockdown)));
        let mut set = 1u64 << 39 | 1 << 12;
        let lacking = obstacle_of(open, &format!("CapEff:\t{set:016x}\n"));
        assert!(matches!(lacking, Some(SocketBufferError::Perfmon)));
        for capability in [PERFMON, SYS_ADMIN] {
            set = 1 << capability;
            assert!(obstacle_of(open, &format!("CapEff:\t{set:016x}\n")).is_none());
        }
    }
}
