//! Offloads of an interface: the work its driver, or a virtual link's other end, is
//! spared or left.
//!
//! A veth pair with all offloads carries super-packets and unfinished checksums as
//! they are; without them the kernel finishes both on the way out, behind every
//! hook.

use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

/// `ETHTOOL_S*` requests of linux/ethtool.h that take one number. Scatter-gather and
/// checksums come first, since segmentation needs both.
const SET_REQUESTS: [u32; 6] = [
    0x17, // ETHTOOL_STXCSUM: checksums of what is sent
    0x19, // ETHTOOL_SSG: scatter-gather
    0x1f, // ETHTOOL_STSO: TCP segmentation
    0x24, // ETHTOOL_SGSO: segmentation in software, at the last moment
    0x15, // ETHTOOL_SRXCSUM: checksums of what arrives
    0x2c, // ETHTOOL_SGRO: arriving segments put together
];

/// `SIOCETHTOOL` of linux/sockios.h, in the type that the C library's `ioctl` takes.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct Value {
    request: u32,
    data: u32,
}

/// `struct ifreq` of linux/if.h, as far as this request uses it.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: *mut Value,
    _rest: [u8; 16],
}

/// `ETHTOOL_GFLAGS` and `ETHTOOL_SFLAGS`.
const FLAGS: [u32; 2] = [0x25, 0x26];
/// `ETH_FLAG_RXVLAN`: tags are taken off frames that arrive.
const STRIPS_TAGS: u32 = 1 << 8;

/// Turns all offloads of an interface on or off, in the caller's namespace.
pub(super) fn set_here(interface: &str, on: bool) -> io::Result<()> {
    for request in SET_REQUESTS {
        ask(interface, request, on.into())?;
    }
    Ok(())
}

/// Lets an interface take tags off frames that arrive, or not, in the caller's namespace.
pub(super) fn strip_tags_here(interface: &str, on: bool) -> io::Result<()> {
    let [get, set] = FLAGS;
    let flags = ask(interface, get, 0)? & !STRIPS_TAGS;
    ask(interface, set, flags | if on { STRIPS_TAGS } else { 0 })?;
    Ok(())
}

/// Makes a request; returns the number that the kernel leaves.
fn ask(interface: &str, request: u32, data: u32) -> io::Result<u32> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut name = [0; libc::IFNAMSIZ];
    let long = || io::Error::from(io::ErrorKind::InvalidInput);
    // One byte stays zero: the end of the name.
    let place = name.get_mut(..interface.len()).ok_or_else(long)?;
    place.copy_from_slice(interface.as_bytes());
    let mut value = Value { request, data };
    let mut request = Request {
        name,
        value: &raw mut value,
        _rest: [0; 16],
    };
    // SAFETY: the request is as long as `struct ifreq` and names a value of the
    // form that its number asks for; both live across the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.data)
}
