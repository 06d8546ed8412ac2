//! Places in the running kernel's packet buffer that the programs read, and what keeps
//! them from reading.

use std::{fs, io, sync::OnceLock};

use cofferdam_verdict::checksum::{WINDOW_BYTES, Window};

use crate::btf::Btf;

/// The kernel's type information.
const TYPES: &str = "/sys/kernel/btf/vmlinux";
/// What the kernel keeps even from root.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
/// Privileges of the calling thread.
const STATUS: &str = "/proc/thread-self/status";
/// Number of CAP_PERFMON.
const PERFMON: u32 = 38;
/// Number of CAP_SYS_ADMIN, which stands for CAP_PERFMON.
const SYS_ADMIN: u32 = 21;

/// Why the programs cannot look at the checksums that packets leave to be written. Without
/// that look a workload could change its packets behind the verdict, so that nothing is
/// loaded.
#[derive(Debug, thiserror::Error)]
pub enum SocketBufferError {
    /// The kernel has no type information.
    #[error("cannot read {TYPES}: a kernel with CONFIG_DEBUG_INFO_BTF is needed")]
    NoTypes {
        /// Why not.
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
    #[error("the programs call bpf_probe_read_kernel: CAP_PERFMON is needed")]
    Perfmon,
}

/// The places that the programs of this kernel read.
pub(crate) fn window() -> Result<Window, SocketBufferError> {
    static FOUND: OnceLock<Window> = OnceLock::new();
    if let Some(window) = FOUND.get() {
        return Ok(*window);
    }
    let bytes = fs::read(TYPES).map_err(|source| SocketBufferError::NoTypes { source })?;
    let btf = Btf::parse(&bytes).ok_or(SocketBufferError::Format)?;
    let window = window_of(&|field| btf.field("sk_buff", field))?;
    Ok(*FOUND.get_or_init(|| window))
}

/// The window over all places, by the bits at which fields start.
fn window_of(bit: &dyn Fn(&str) -> Option<u32>) -> Result<Window, SocketBufferError> {
    let place = |field| bit(field).ok_or(SocketBufferError::Field { field });
    let ip_summed = place("ip_summed")?;
    let [csum_start, csum_offset, mac_header] =
        ["csum_start", "csum_offset", "mac_header"].map(|field| {
            let bit = place(field)?;
            // Half words, read as such.
            let aligned = bit.is_multiple_of(16);
            aligned
                .then_some(bit / 8)
                .ok_or(SocketBufferError::Field { field })
        });
    let (csum_start, csum_offset, mac_header) = (csum_start?, csum_offset?, mac_header?);
    // Even, so that half words are even in the window too.
    let start = (ip_summed / 8)
        .min(csum_start)
        .min(csum_offset)
        .min(mac_header)
        & !1;
    let within = |field, at: u32, bytes: u32| {
        let at = at - start;
        let fits = at + bytes <= WINDOW_BYTES;
        fits.then_some(at).ok_or(SocketBufferError::Field { field })
    };
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
    })
}

/// What keeps this process's programs from reading the kernel's memory, for when they were
/// refused; `None` if it is something else.
pub(crate) fn obstacle() -> Option<SocketBufferError> {
    // Where a file cannot be read, nothing is known against it.
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    obstacle_of(&read(LOCKDOWN), &read(STATUS))
}

fn obstacle_of(lockdown: &str, status: &str) -> Option<SocketBufferError> {
    if lockdown.contains("[confidentiality]") {
        return Some(SocketBufferError::Lockdown);
    }
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
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
        window().expect("the tests need a kernel that tells its types");
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
