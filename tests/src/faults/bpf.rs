//! The few calls of bpf(2) by which others tamper with what stands on a hook.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const PROG_LOAD: libc::c_long = 5;
const OBJ_GET: libc::c_long = 7;
const LINK_CREATE: libc::c_long = 28;
const LINK_DETACH: libc::c_long = 34;

/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;
/// `BPF_F_BEFORE`: before everything, when relative to nothing.
const BEFORE: u32 = 1 << 3;
/// `mov32 r0, 0; exit`: `TCX_PASS`, which ends the chain.
const PASSES: [u64; 2] = [0xb4, 0x95];

/// The side of an interface that a link is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachType {
    /// `BPF_TCX_INGRESS`: packets of the workload.
    Ingress = 46,
    /// `BPF_TCX_EGRESS`: packets to the workload.
    Egress = 47,
}

/// Words of the attributes; the kernel takes zeros beyond those it knows.
type Attributes = [u64; 16];

fn bpf(command: libc::c_long, attributes: &Attributes) -> io::Result<i32> {
    // SAFETY: the attributes live across the call, and their length is given as their size;
    // the pointers in them are to values that their callers keep.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            size_of::<Attributes>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}

fn owned(descriptor: i32) -> OwnedFd {
    // SAFETY: the kernel has just made it for this caller alone.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Two words of 32 bits in the kernel's order.
fn words(first: u32, second: u32) -> u64 {
    let bytes = [first.to_ne_bytes(), second.to_ne_bytes()].concat();
    u64::from_ne_bytes(bytes.try_into().expect("eight bytes"))
}

fn address<T>(value: *const T) -> u64 {
    value.expose_provenance() as u64
}

/// Opens what is pinned at a path.
///
/// # Errors
/// When nothing is.
pub fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Attributes::default();
    attributes[0] = address(path.as_ptr());
    bpf(OBJ_GET, &attributes).map(owned)
}

/// Takes a link off its hook, whoever holds it.
///
/// # Errors
/// When it is no link, or off already.
pub fn detach(link: &OwnedFd) -> io::Result<()> {
    let mut attributes = Attributes::default();
    attributes[0] = words(link.as_raw_fd() as u32, 0);
    bpf(LINK_DETACH, &attributes).map(drop)
}

/// Puts a program before all others that passes every packet, and asks nobody behind it,
/// until the link is dropped.
///
/// # Errors
/// When the kernel has no tcx.
pub fn pass_before_all(ifindex: u32, attach_type: AttachType) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes[0] = words(SCHED_CLS, PASSES.len() as u32);
    attributes[1] = address(PASSES.as_ptr());
    attributes[2] = address(c"GPL".as_ptr());
    let program = bpf(PROG_LOAD, &attributes).map(owned)?;
    let mut attributes = Attributes::default();
    attributes[0] = words(program.as_raw_fd() as u32, ifindex);
    attributes[1] = words(attach_type as u32, BEFORE);
    bpf(LINK_CREATE, &attributes).map(owned)
}
