//! The clsact qdisc and its filters, by rtnetlink, in the caller's network
//! namespace.
//!
//! aya has these too, but takes a filter off when the value that stands for it is
//! dropped, and cannot say what else stands on the hook.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use libc::{
    ETH_P_ALL, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, RTM_DELTFILTER, RTM_GETQDISC, RTM_GETTFILTER,
    RTM_NEWQDISC, RTM_NEWTFILTER,
};
use nix::sys::socket::SockProtocol;

use super::{Message, Request, attribute, done, word};

/// `TC_H_CLSACT`: where the qdisc hangs.
const PARENT_CLSACT: u32 = 0xffff_fff1;
/// The handle of a clsact or ingress qdisc.
const HANDLE_CLSACT: u32 = 0xffff_0000;
/// `TCA_BPF_FLAG_ACT_DIRECT`: the program's return value is the verdict.
const ACT_DIRECT: u32 = 1;

/// Attributes of qdiscs and filters (linux/rtnetlink.h).
mod tca {
    pub(super) const KIND: u16 = 1;
    pub(super) const OPTIONS: u16 = 2;
    pub(super) const CHAIN: u16 = 11;
}

/// Attributes of a BPF filter (linux/pkt_cls.h).
mod tca_bpf {
    pub(super) const FD: u16 = 6;
    pub(super) const NAME: u16 = 7;
    pub(super) const FLAGS: u16 = 8;
    pub(super) const ID: u16 = 11;
}

/// Bytes of a `struct tcmsg`.
const TC_BYTES: usize = 20;
/// Filters of the qdisc: those on the way in or out of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Parent {
    Ingress = 0xffff_fff2,
    Egress = 0xffff_fff3,
}

/// A filter, as the kernel tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) priority: u16,
    pub(crate) handle: u32,
    /// The number of its program, if it is a BPF filter.
    pub(crate) program_id: Option<u32>,
}

/// The `struct tcmsg` of a request.
#[derive(Clone, Copy, Debug)]
struct Traffic {
    ifindex: u32,
    handle: u32,
    parent: u32,
    info: u32,
}

/// Gives an interface a clsact qdisc, unless it has one.
pub(crate) fn add_clsact(ifindex: u32) -> io::Result<()> {
    match add_ingress(ifindex)? {
        Qdisc::Added | Qdisc::StoodAsClsact => Ok(()),
        Qdisc::StoodAsIngress => Err(io::Error::other(
            "an ingress qdisc is in its place: replace that by a clsact qdisc",
        )),
    }
}

/// The qdisc that carries an interface's filters on the way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qdisc {
    /// A clsact qdisc that was added now, and has no filters.
    Added,
    /// A clsact qdisc that was there.
    StoodAsClsact,
    /// An ingress qdisc that was there: it has no way out.
    StoodAsIngress,
}

/// Gives an interface a clsact qdisc, unless it has one, or an ingress qdisc in its place:
/// for filters on the way in alone.
pub(crate) fn add_ingress(ifindex: u32) -> io::Result<Qdisc> {
    match put_clsact(ifindex, NLM_F_CREATE | NLM_F_EXCL) {
        Ok(()) => Ok(Qdisc::Added),
        // Asked by putting it there again, which changes no clsact qdisc: a list would be one
        // of all interfaces.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            match put_clsact(ifindex, NLM_F_CREATE) {
                Ok(()) => Ok(Qdisc::StoodAsClsact),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    Ok(Qdisc::StoodAsIngress)
                }
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

fn put_clsact(ifindex: u32, flags: i32) -> io::Result<()> {
    let about = Traffic {
        ifindex,
        handle: HANDLE_CLSACT,
        parent: PARENT_CLSACT,
        info: 0,
    };
    let mut request = request(RTM_NEWQDISC, flags, about);
    request.attribute(tca::KIND, b"clsact\0");
    request.send().and_then(done)
}

/// The qdisc in clsact's place, if there is one. An ingress qdisc takes filters for
/// the way out as well, and runs them on the way in.
pub(crate) fn qdisc(ifindex: u32) -> io::Result<Option<Qdisc>> {
    let all = Traffic {
        ifindex,
        handle: 0,
        parent: 0,
        info: 0,
    };
    let mut kind = None;
    request(RTM_GETQDISC, NLM_F_DUMP, all)
        .send()?
        .each(|message| {
            let Some((about, attributes)) = about(message, RTM_NEWQDISC) else {
                return;
            };
            if about.ifindex == ifindex && about.handle == HANDLE_CLSACT {
                kind = match attribute(attributes, tca::KIND) {
                    Some(b"clsact\0") => Some(Qdisc::StoodAsClsact),
                    _ => Some(Qdisc::StoodAsIngress),
                };
            }
        })?;
    Ok(kind)
}

/// The filters that packets meet, in order. An interface without clsact has none.
pub(crate) fn filters(ifindex: u32, parent: Parent) -> io::Result<Vec<Filter>> {
    let all = Traffic {
        ifindex,
        handle: 0,
        parent: parent as u32,
        info: 0,
    };
    let mut filters = Vec::new();
    request(RTM_GETTFILTER, NLM_F_DUMP, all)
        .send()?
        .each(|message| {
            let Some((about, attributes)) = about(message, RTM_NEWTFILTER) else {
                return;
            };
            // A priority is announced by a message without handle before its
            // filters come. Other chains are met only from the first.
            let chain = attribute(attributes, tca::CHAIN).and_then(word);
            if about.handle == 0 || chain.is_some_and(|chain| chain != 0) {
                return;
            }
            let options = attribute(attributes, tca::OPTIONS).unwrap_or_default();
            filters.push(Filter {
                priority: (about.info >> 16) as u16,
                handle: about.handle,
                program_id: attribute(options, tca_bpf::ID).and_then(word),
            });
        })?;
    Ok(filters)
}

/// Puts a program on a filter by one store: a new one, before all of its
/// priority, or in the place of the one with that handle.
pub(crate) fn set_filter(
    ifindex: u32,
    parent: Parent,
    (priority, handle): (u16, u32),
    program: BorrowedFd<'_>,
    name: &str,
) -> io::Result<()> {
    let mut request = request(
        RTM_NEWTFILTER,
        NLM_F_CREATE,
        filter(ifindex, parent, priority, handle),
    );
    request.attribute(tca::KIND, b"bpf\0");
    request.nested(tca::OPTIONS, |options| {
        options.attribute(tca_bpf::FD, &program.as_raw_fd().to_ne_bytes());
        options.attribute(tca_bpf::NAME, &[name.as_bytes(), b"\0"].concat());
        options.attribute(tca_bpf::FLAGS, &ACT_DIRECT.to_ne_bytes());
    });
    request.send().and_then(done)
}

/// Takes a filter off; `false` if it was not there.
pub(crate) fn delete_filter(
    ifindex: u32,
    parent: Parent,
    (priority, handle): (u16, u32),
) -> io::Result<bool> {
    let about = filter(ifindex, parent, priority, handle);
    match request(RTM_DELTFILTER, 0, about).send().and_then(done) {
        Ok(()) => Ok(true),
        // The filter, the qdisc or the interface is gone.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn filter(ifindex: u32, parent: Parent, priority: u16, handle: u32) -> Traffic {
    let protocol_be = (ETH_P_ALL as u16).to_be();
    Traffic {
        ifindex,
        handle,
        parent: parent as u32,
        info: u32::from(priority) << 16 | u32::from(protocol_be),
    }
}

/// Begins a request about a qdisc or a filter.
fn request(kind: u16, flags: i32, about: Traffic) -> Request {
    let mut request = Request::new(SockProtocol::NetlinkRoute, kind, flags);
    // Family and padding.
    request.put(&[0; 4]);
    for word in [about.ifindex, about.handle, about.parent, about.info] {
        request.put(&word.to_ne_bytes());
    }
    request
}

/// Subject of a message of this kind, and its attributes.
fn about(message: Message<'_>, kind: u16) -> Option<(Traffic, &[u8])> {
    if message.kind != kind {
        return None;
    }
    let (head, attributes) = message.body.split_at_checked(TC_BYTES)?;
    let about = Traffic {
        ifindex: word(&head[4..])?,
        handle: word(&head[8..])?,
        parent: word(&head[12..])?,
        info: word(&head[16..])?,
    };
    Some((about, attributes))
}
