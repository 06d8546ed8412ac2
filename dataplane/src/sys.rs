//! The system calls that aya has no safe form of: making maps of a size that is
//! known only now, mapping them, and a BPF file system of our own.

use std::{
    ffi::CString,
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::maps::MapType;
use libc::{c_long, c_uint};

/// `BPF_F_MMAPABLE`: user space may map the values.
pub(crate) const MMAPABLE: u32 = 1 << 10;

const BPF_MAP_CREATE: c_long = 0;
const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_OBJ_PIN: c_long = 6;

/// The attributes of `BPF_MAP_CREATE` that are used here (linux/bpf.h).
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// The attributes of `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The attributes of `BPF_OBJ_PIN`.
#[repr(C)]
struct ObjectPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// What a map is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapShape<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: MapType,
    pub(crate) value_bytes: u32,
    pub(crate) entries: u32,
    pub(crate) flags: u32,
    /// The template of an array of maps.
    pub(crate) inner: Option<BorrowedFd<'a>>,
}

fn bpf<T>(command: c_long, attributes: &T) -> io::Result<c_long> {
    // SAFETY: the attributes are a live, initialised struct of the stated size
    // without padding; the kernel reads that much and treats the rest as zero.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(descriptor: c_long) -> io::Result<OwnedFd> {
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Makes a map with keys of four bytes.
pub(crate) fn create_map(shape: &MapShape<'_>) -> io::Result<OwnedFd> {
    let mut map_name = [0; 16];
    for (to, from) in map_name.iter_mut().take(15).zip(shape.name.bytes()) {
        *to = from;
    }
    let attributes = MapCreate {
        map_type: shape.kind as u32,
        key_size: 4,
        value_size: shape.value_bytes,
        max_entries: shape.entries,
        map_flags: shape.flags,
        inner_map_fd: shape.inner.map_or(0, |inner| inner.as_raw_fd() as u32),
        numa_node: 0,
        map_name,
    };
    bpf(BPF_MAP_CREATE, &attributes).and_then(owned)
}

/// Stores a map in an array of maps. Returns after a grace period: whoever read
/// the old one has finished.
pub(crate) fn set_inner(
    outer: BorrowedFd<'_>,
    index: u32,
    inner: BorrowedFd<'_>,
) -> io::Result<()> {
    let value = inner.as_raw_fd() as u32;
    let attributes = MapUpdate {
        map_fd: outer.as_raw_fd() as u32,
        _pad: 0,
        key: std::ptr::from_ref(&index).addr() as u64,
        value: std::ptr::from_ref(&value).addr() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &attributes).map(drop)
}

/// Pins a map or program.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjectPin {
        pathname: path.as_ptr().addr() as u64,
        bpf_fd: object.as_raw_fd() as u32,
        file_flags: 0,
    };
    bpf(BPF_OBJ_PIN, &attributes).map(drop)
}

/// A BPF file system that is mounted nowhere: only this process can reach it,
/// and it is gone with the process.
#[derive(Debug)]
pub(crate) struct PrivateBpffs {
    mount: OwnedFd,
}

impl PrivateBpffs {
    pub(crate) fn new() -> io::Result<Self> {
        const FSCONFIG_CMD_CREATE: c_uint = 6;
        let call = |result: c_long| {
            if result < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(result)
            }
        };
        // SAFETY: a constant name; no memory is written.
        let context = owned(call(unsafe {
            libc::syscall(libc::SYS_fsopen, c"bpf".as_ptr(), 1)
        })?)?;
        // SAFETY: the command takes no key and no value.
        call(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                FSCONFIG_CMD_CREATE,
                0usize,
                0usize,
                0,
            )
        })?;
        // SAFETY: only descriptors and flags are passed.
        let mount = owned(call(unsafe {
            libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0)
        })?)?;
        Ok(Self { mount })
    }

    /// Where its root can be named while this value lives.
    pub(crate) fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.mount.as_raw_fd()))
    }
}

/// Maps `bytes` of a map for reading and writing.
pub(crate) fn map_memory(map: BorrowedFd<'_>, bytes: usize) -> io::Result<*mut u8> {
    // SAFETY: a new mapping at a place of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            map.as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(address.cast())
    }
}

/// Undoes [`map_memory`].
///
/// # Safety
///
/// `address` and `bytes` are those of one mapping, and nothing refers to it.
pub(crate) unsafe fn unmap_memory(address: *mut u8, bytes: usize) {
    // SAFETY: the caller's. A failure would leave the mapping in place.
    unsafe { libc::munmap(address.cast(), bytes) };
}

/// Random bytes from the kernel, for hash keys.
pub(crate) fn random<T: zerocopy::FromBytes + zerocopy::IntoBytes>() -> io::Result<T> {
    // SAFETY: zeroes are a valid value of every type that is `FromBytes`.
    let mut value: T = unsafe { zeroed() };
    let bytes = value.as_mut_bytes();
    // SAFETY: the buffer is that long. Up to 256 bytes come whole (getrandom(2)).
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(got) == Ok(bytes.len()) {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}
