//! Features of devices that change frames before programs see them.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use libc::{AF_INET, SOCK_CLOEXEC, SOCK_DGRAM};

/// `SIOCETHTOOL`, in the type that the C library's `ioctl` takes.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// `ETHTOOL_GFLAGS`: reads the flags of [`Value`].
const GET_FLAGS: u32 = 0x25;
/// `ETH_FLAG_RXVLAN`: tags are taken off received frames.
const STRIPS_TAGS: u32 = 1 << 8;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// The part of `struct ifreq` that is read.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: *mut Value,
    _rest: [u64; 2],
}

/// Returns `true` if the device takes VLAN tags off received frames.
pub(crate) fn strips_tags(interface: &str) -> io::Result<bool> {
    let mut value = Value {
        command: GET_FLAGS,
        data: 0,
    };
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        value: &raw mut value,
        _rest: [0; 2],
    };
    if interface.len() >= request.name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.name.iter_mut().zip(interface.bytes()) {
        *to = from;
    }
    // SAFETY: takes no pointers.
    let socket = unsafe { libc::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made, and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: the request is as large as `struct ifreq` (40 bytes), its name ends with a zero,
    // and it points at a value that lives until the call returns.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.data & STRIPS_TAGS != 0)
}

const _: () = assert!(size_of::<Request>() == 40);
