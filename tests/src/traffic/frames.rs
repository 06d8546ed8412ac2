//! Frames of any shape, sent and seen on an interface.

use std::io::{self, IoSliceMut, Read as _};
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recvmsg};
use socket2::{Domain, Socket, Type};

use super::{entering, not_yet, wait};
use crate::packet::{Body, Packet};
use crate::world::Namespace;

/// Longest frame: the longest IP packet, its Ethernet header, and tags.
const LONGEST_FRAME: usize = (1 << 16) + 64;
/// Room for frames that come in faster than a test reads them.
const RECEIVE_BUFFER: libc::c_int = 16 << 20;

/// A packet socket on one interface: sends frames as they are, and sees those
/// that arrive at it from the moment it was opened.
///
/// Frames that it sends pass the tc egress filters of its interface. Frames that it sees have
/// not yet passed the tc ingress filters there: whether those let a frame through shows at the
/// next interface on the frame's way. Frames sent on the interface, by whomever, it does not
/// see. Tags that the kernel took out of a frame are put back.
#[derive(Debug)]
pub struct FrameSocket {
    socket: Socket,
}

impl FrameSocket {
    /// Opens one.
    pub fn open(namespace: &Namespace, interface: &str) -> io::Result<Self> {
        let ifindex = namespace.ifindex(interface).map_err(entering)?;
        let socket = {
            let _inside = namespace.enter().map_err(entering)?;
            // Without a protocol it receives nothing before it is bound.
            Socket::new(Domain::PACKET, Type::RAW, None)?
        };
        socket.set_nonblocking(true)?;
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        set_option(
            &socket,
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            RECEIVE_BUFFER,
        )?;
        bind(&socket, ifindex, libc::ETH_P_ALL as u16)?;
        Ok(Self { socket })
    }

    /// Sends a packet.
    pub fn send<S: Body>(&self, packet: &Packet<S>) -> io::Result<()> {
        self.send_bytes(&packet.bytes())
    }

    /// Sends a frame.
    pub fn send_bytes(&self, frame: &[u8]) -> io::Result<()> {
        let sent = self.socket.send(frame)?;
        if sent == frame.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// The next frame that `wanted` accepts; `None` when none has come in time.
    /// Others are thrown away.
    pub fn next(
        &self,
        timeout: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> io::Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.take(deadline)? {
                Some(frame) if wanted(&frame) => return Ok(Some(frame)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// All frames before the one that `last` accepts; `None` when that one has
    /// not come in time.
    ///
    /// This is how to show that a frame does *not* arrive without waiting for
    /// nothing: send it, send another that must arrive, and look at what came
    /// before that one. A veth keeps the order of what is sent on one CPU; only a
    /// thread that is moved between the two sends can overtake itself.
    pub fn before(
        &self,
        timeout: Duration,
        last: impl Fn(&[u8]) -> bool,
    ) -> io::Result<Option<Vec<Vec<u8>>>> {
        let deadline = Instant::now() + timeout;
        let mut frames = Vec::new();
        loop {
            match self.take(deadline)? {
                Some(frame) if last(&frame) => return Ok(Some(frames)),
                Some(frame) => frames.push(frame),
                None => return Ok(None),
            }
        }
    }

    /// All frames that are there already.
    pub fn drain(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        loop {
            match self.receive() {
                Ok(frame) => frames.push(frame),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(frames),
                Err(error) if not_yet(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::NetworkDown => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Throws away all frames that are there already.
    pub fn forget(&self) -> io::Result<()> {
        // What does not fit is cut off.
        let mut start = [0; 1];
        loop {
            match (&self.socket).read(&mut start) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if not_yet(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::NetworkDown => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// One frame, with its tag.
    fn take(&self, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
        loop {
            match self.receive() {
                Ok(frame) => return Ok(Some(frame)),
                Err(error) if not_yet(&error) => {}
                // The interface went down or away; what comes no more is late.
                Err(error) if error.kind() == io::ErrorKind::NetworkDown => {}
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            wait(&[(self.socket.as_fd(), PollFlags::POLLIN)], Some(deadline))?;
        }
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut frame = vec![0; LONGEST_FRAME];
        // Zeros are no control message.
        let mut control = [0; 128];
        let mut buffers = [IoSliceMut::new(&mut frame)];
        let fd = self.socket.as_raw_fd();
        let received = recvmsg::<()>(fd, &mut buffers, Some(&mut control), MsgFlags::empty())?;
        let length = received.bytes;
        frame.truncate(length);
        if let Some([tpid, tci]) = removed_tag(&control) {
            let tag = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
            // Behind the two MAC addresses.
            frame.splice(12..12, tag);
        }
        Ok(frame)
    }
}

/// Accepts frames in which these bytes stand somewhere: a payload that no other
/// frame has.
pub fn carrying(marker: &[u8]) -> impl Fn(&[u8]) -> bool + use<> {
    let marker = marker.to_vec();
    move |frame| frame.windows(marker.len()).any(|window| window == marker)
}

/// The protocol identifier and control information of a tag the kernel took
/// out, from the control message about it.
fn removed_tag(control: &[u8]) -> Option<[u16; 2]> {
    let u16_at = |at: usize| {
        control
            .get(at..at + 2)?
            .try_into()
            .ok()
            .map(u16::from_ne_bytes)
    };
    let i32_at = |at: usize| {
        control
            .get(at..at + 4)?
            .try_into()
            .ok()
            .map(i32::from_ne_bytes)
    };
    let about_packet = i32_at(offset_of!(libc::cmsghdr, cmsg_level))? == libc::SOL_PACKET
        && i32_at(offset_of!(libc::cmsghdr, cmsg_type))? == libc::PACKET_AUXDATA;
    let data = size_of::<libc::cmsghdr>();
    let status = i32_at(data + offset_of!(libc::tpacket_auxdata, tp_status))?;
    let tagged = status & libc::TP_STATUS_VLAN_VALID as i32 != 0;
    (about_packet && tagged).then_some([
        u16_at(data + offset_of!(libc::tpacket_auxdata, tp_vlan_tpid))?,
        u16_at(data + offset_of!(libc::tpacket_auxdata, tp_vlan_tci))?,
    ])
}

pub(super) fn set_option(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value is an int that lives across the call, and its length is
    // given as that of an int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Binds a packet socket to an interface, for frames of an EtherType; with 0 it
/// receives none.
pub(super) fn bind(socket: &Socket, ifindex: u32, ethertype: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: ifindex as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address lives across the call, and its length is given as its
    // size.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
