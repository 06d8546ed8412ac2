//! Frames whose checksum or segmentation is left to the kernel and the device.

use std::io::{self, IoSlice};

use nix::sys::uio::writev;
use socket2::{Domain, Socket, Type};

use super::entering;
use super::frames::{bind, set_option};
use crate::world::Namespace;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` of linux/virtio_net.h.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_NONE`.
const NO_SEGMENTS: u8 = 0;

/// Work that is left to do on a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Sum the bytes from this offset in the frame on …
    pub checksum_start: u16,
    /// … and write the result this far behind it.
    pub checksum_offset: u16,
    /// Cut it into segments: the kind, as `virtio_net_hdr` numbers it, and the bytes
    /// of payload in each.
    pub segments: Option<(u8, u16)>,
    /// Bytes of all headers together; counts with segments alone.
    pub headers: u16,
}

/// Segments of TCP over IPv4.
pub const SEGMENTS_TCP_V4: u8 = 1;
/// Segments of TCP over IPv6.
pub const SEGMENTS_TCP_V6: u8 = 4;

/// A packet socket that sends unfinished frames and receives nothing.
#[derive(Debug)]
pub struct UnfinishedSocket {
    socket: Socket,
}

impl UnfinishedSocket {
    /// Opens one on an interface.
    pub fn open(namespace: &Namespace, interface: &str) -> io::Result<Self> {
        let ifindex = namespace.ifindex(interface).map_err(entering)?;
        let socket = {
            let _inside = namespace.enter().map_err(entering)?;
            Socket::new(Domain::PACKET, Type::RAW, None)?
        };
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        bind(&socket, ifindex, 0)?;
        Ok(Self { socket })
    }

    /// Sends a frame, and says what is left to do.
    pub fn send(&self, frame: &[u8], left: Unfinished) -> io::Result<()> {
        let (kind, size) = left.segments.unwrap_or((NO_SEGMENTS, 0));
        // `struct virtio_net_hdr`, in the machine's byte order.
        let mut header = vec![NEEDS_CHECKSUM, kind];
        for number in [
            left.headers,
            size,
            left.checksum_start,
            left.checksum_offset,
        ] {
            header.extend(number.to_ne_bytes());
        }
        let parts = [IoSlice::new(&header), IoSlice::new(frame)];
        let sent = writev(&self.socket, &parts)?;
        if sent == header.len() + frame.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }
}
