//! The clsact qdisc and its filters, by rtnetlink, in the caller's network
//! namespace.
//!
//! aya has these too, but takes a filter off when the value that stands for it is
//! dropped, and cannot say what else stands on the hook.

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use libc::{
    ETH_P_ALL, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, RTM_DELTFILTER, RTM_GETQDISC, RTM_GETTFILTER, RTM_NEWQDISC, RTM_NEWTFILTER,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
    socket,
};

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

/// Bytes of a `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// Bytes of a `struct tcmsg`.
const TC_BYTES: usize = 20;
/// What a dump sends at once is at most this long (`NLMSG_GOODSIZE` and then some).
const BUFFER_BYTES: usize = 1 << 16;

/// Which filters of the qdisc: those on the way in or out of the interface.
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
    let mut request = Request::new(
        RTM_NEWQDISC,
        NLM_F_CREATE | NLM_F_EXCL,
        Traffic {
            ifindex,
            handle: HANDLE_CLSACT,
            parent: PARENT_CLSACT,
            info: 0,
        },
    );
    request.attribute(tca::KIND, b"clsact\0");
    match request.send().and_then(done) {
        Ok(()) => Ok(Qdisc::Added),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(match qdisc(ifindex)? {
            Some(Qdisc::StoodAsClsact) => Qdisc::StoodAsClsact,
            _ => Qdisc::StoodAsIngress,
        }),
        Err(error) => Err(error),
    }
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
    Request::new(RTM_GETQDISC, NLM_F_DUMP, all)
        .send()?
        .each(|message| {
            let Some((about, attributes)) = message.traffic(RTM_NEWQDISC) else {
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
    Request::new(RTM_GETTFILTER, NLM_F_DUMP, all)
        .send()?
        .each(|message| {
            let Some((about, attributes)) = message.traffic(RTM_NEWTFILTER) else {
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
    let mut request = Request::new(
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
    match Request::new(RTM_DELTFILTER, 0, about).send().and_then(done) {
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

/// A request in the making.
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: i32, about: Traffic) -> Self {
        let mut bytes = Vec::with_capacity(128);
        let flags = flags | NLM_F_REQUEST | if flags == NLM_F_DUMP { 0 } else { NLM_F_ACK };
        // The length comes last.
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags as u16).to_ne_bytes());
        // Sequence and port: one request to a socket.
        bytes.extend([0; 8]);
        // Family and padding.
        bytes.extend([0; 4]);
        for word in [about.ifindex, about.handle, about.parent, about.info] {
            bytes.extend(word.to_ne_bytes());
        }
        Self { bytes }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |request| request.bytes.extend(value));
    }

    fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        content(self);
        let length = (self.bytes.len() - start) as u16;
        for (to, from) in self.bytes[start..].iter_mut().zip(length.to_ne_bytes()) {
            *to = from;
        }
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }

    fn send(mut self) -> io::Result<Answer> {
        let length = self.bytes.len() as u32;
        for (to, from) in self.bytes.iter_mut().zip(length.to_ne_bytes()) {
            *to = from;
        }
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let kernel = NetlinkAddr::new(0, 0);
        sendto(socket.as_raw_fd(), &self.bytes, &kernel, MsgFlags::empty())?;
        Ok(Answer { socket })
    }
}

/// What the kernel answers to one request.
struct Answer {
    socket: OwnedFd,
}

impl Answer {
    /// Hands over each message until the last.
    fn each(self, mut take: impl FnMut(Message<'_>)) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((message, after)) = Message::first(rest) {
                match i32::from(message.kind) {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        return match word(message.body).map(u32::cast_signed) {
                            Some(0) => Ok(()),
                            Some(negative) => Err(io::Error::from_raw_os_error(-negative)),
                            None => Err(io::ErrorKind::UnexpectedEof.into()),
                        };
                    }
                    _ => take(message),
                }
                rest = after;
            }
        }
    }
}

/// Waits for the kernel's yes or no.
fn done(answer: Answer) -> io::Result<()> {
    answer.each(|_| ())
}

/// One message of an answer.
#[derive(Clone, Copy)]
struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    fn first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = word(bytes)? as usize;
        let body = bytes.get(HEADER_BYTES..length)?;
        let kind = half(bytes.get(4..)?)?;
        let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((Self { kind, body }, after))
    }

    /// What a message of this kind is about, and its attributes.
    fn traffic(self, kind: u16) -> Option<(Traffic, &'a [u8])> {
        if self.kind != kind {
            return None;
        }
        let (head, attributes) = self.body.split_at_checked(TC_BYTES)?;
        let about = Traffic {
            ifindex: word(&head[4..])?,
            handle: word(&head[8..])?,
            parent: word(&head[12..])?,
            info: word(&head[16..])?,
        };
        Some((about, attributes))
    }
}

/// The value of the first attribute of a kind.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    // The upper bits say "nested" and "network order".
    const KIND_MASK: u16 = 0x3fff;
    loop {
        let length = half(attributes)? as usize;
        let kind = half(attributes.get(2..)?)? & KIND_MASK;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().copied().map(u16::from_ne_bytes)
}

const _: () = assert!(size_of::<libc::nlmsghdr>() == HEADER_BYTES);
