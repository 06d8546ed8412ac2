//! tcx links (Linux 6.6): making them first in order, what they lead to, and what
//! stands on a hook. And links of XDP (Linux 5.9), of which an interface has one.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use libc::{c_long, c_uint};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

use super::{bpf, bpf_mut, info, owned};

const BPF_PROG_QUERY: c_long = 16;
const BPF_LINK_CREATE: c_long = 28;
const BPF_LINK_UPDATE: c_long = 29;
const BPF_LINK_DETACH: c_long = 34;

/// `BPF_LINK_TYPE_TCX`.
const LINK_TYPE_TCX: u32 = 11;
/// `BPF_LINK_TYPE_XDP`.
const LINK_TYPE_XDP: u32 = 6;
/// `BPF_XDP`, an attach type.
const XDP: u32 = 37;
/// `BPF_F_BEFORE`: before everything, when relative to nothing.
const BEFORE: u32 = 1 << 3;
/// Most programs on one hook (`bpf_mprog_max`).
const MAX_PROGRAMS: usize = 64;

/// The side of an interface that a link is on: `BPF_TCX_INGRESS` or `BPF_TCX_EGRESS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AttachType {
    Ingress = 46,
    Egress = 47,
}

/// The attributes of `BPF_LINK_CREATE` for tcx.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    _pad: u32,
    expected_revision: u64,
}

/// The attributes of `BPF_LINK_UPDATE`.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The attributes of `BPF_PROG_QUERY`.
#[derive(FromBytes)]
#[repr(C)]
struct ProgramQuery {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    _pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The beginning of the kernel's `struct bpf_link_info`, for tcx; for XDP without the last.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Info {
    kind: u32,
    id: u32,
    program_id: u32,
    _pad: u32,
    ifindex: u32,
    attach_type: u32,
}

/// Target of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    pub(crate) id: u32,
    /// 0 when the interface is gone.
    pub(crate) ifindex: u32,
    pub(crate) program_id: u32,
}

/// A link at one place of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) program_id: u32,
    /// 0 when the program is attached without a link.
    pub(crate) link_id: u32,
}

/// Makes a link, first in order.
pub(crate) fn link(
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    create(program, ifindex, attach_type as u32, BEFORE)
}

/// Makes the XDP link of an interface, if nothing stands there, in the mode of these flags.
pub(crate) fn link_xdp(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    create(program, ifindex, XDP, flags)
}

fn create(
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type,
        flags,
        relative_fd: 0,
        _pad: 0,
        expected_revision: 0,
    };
    bpf(BPF_LINK_CREATE, &attributes).and_then(owned)
}

/// Puts another program on a link, in its place, by one store.
pub(crate) fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = LinkUpdate {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &attributes).map(drop)
}

/// Takes a link off its hook at once, whoever holds or pins it. (The kernel
/// leaves what closing the last descriptor does to a worker.)
pub(crate) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let attributes: c_uint = link.as_raw_fd() as u32;
    bpf(BPF_LINK_DETACH, &attributes).map(drop)
}

/// Returns the target of a link; `None` if it is no link of tcx or XDP.
pub(crate) fn link_info(link: BorrowedFd<'_>) -> io::Result<Option<LinkInfo>> {
    let Info {
        kind,
        id,
        ifindex,
        program_id,
        ..
    } = info(link)?;
    let is_ours = matches!(kind, LINK_TYPE_TCX | LINK_TYPE_XDP);
    Ok(is_ours.then_some(LinkInfo {
        id,
        ifindex,
        program_id,
    }))
}

/// Lists the links on a hook, in the order packets meet them; none when the kernel has no tcx.
pub(crate) fn query(ifindex: u32, attach_type: AttachType) -> io::Result<Option<Vec<Standing>>> {
    let mut program_ids = [0u32; MAX_PROGRAMS];
    let mut link_ids = [0u32; MAX_PROGRAMS];
    let mut attributes = ProgramQuery::new_zeroed();
    attributes.target_ifindex = ifindex;
    attributes.attach_type = attach_type as u32;
    attributes.count = MAX_PROGRAMS as u32;
    attributes.prog_ids = program_ids.as_mut_ptr().expose_provenance() as u64;
    attributes.link_ids = link_ids.as_mut_ptr().expose_provenance() as u64;
    match bpf_mut(BPF_PROG_QUERY, &mut attributes) {
        Ok(_) => {}
        // Nobody was ever on the hook.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Some(Vec::new())),
        // The attach type, or the room for links' numbers, is not known.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
        Err(error) => return Err(error),
    }
    let standing = program_ids.into_iter().zip(link_ids);
    Ok(Some(
        standing
            .take(attributes.count as usize)
            .map(|(program_id, link_id)| Standing {
                program_id,
                link_id,
            })
            .collect(),
    ))
}
