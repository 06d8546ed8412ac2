//! The system calls that aya has no safe form of: making maps of a size that is
//! known only now, mapping them, opening what is pinned, tcx links that are held by
//! nothing but their pins, and a BPF file system of our own.

pub(crate) mod ethtool;
pub(crate) mod tcx;

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use aya::maps::MapType;
use libc::c_long;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::rand::{GetRandomFlags, getrandom};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Gives pages that glibc's allocator holds and nothing uses back to the kernel, such as those
/// that a first list leaves. Pages on which anything is left stay. Does nothing with another
/// allocator.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes any number, and touches nothing but free memory, under the allocator's locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// `BPF_F_MMAPABLE`: user space may map the values.
pub(crate) const MMAPABLE: u32 = 1 << 10;

const BPF_MAP_CREATE: c_long = 0;
const BPF_MAP_LOOKUP_ELEM: c_long = 1;
const BPF_MAP_UPDATE_ELEM: c_long = 2;
const BPF_MAP_DELETE_ELEM: c_long = 3;
const BPF_OBJ_PIN: c_long = 6;
const BPF_OBJ_GET: c_long = 7;
const BPF_PROG_GET_FD_BY_ID: c_long = 13;
const BPF_MAP_GET_FD_BY_ID: c_long = 14;
const BPF_OBJ_GET_INFO_BY_FD: c_long = 15;
const BPF_MAP_UPDATE_BATCH: c_long = 26;

/// The kernel's own `ENOTSUPP`, which no C library knows: a map has no such command.
const ENOTSUPP: i32 = 524;

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

/// The attributes of `BPF_MAP_UPDATE_ELEM`, `BPF_MAP_LOOKUP_ELEM` and `BPF_MAP_DELETE_ELEM`.
#[repr(C)]
struct MapElement {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The attributes of `BPF_MAP_UPDATE_BATCH`.
#[derive(FromBytes)]
#[repr(C)]
struct MapBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The attributes of `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct ObjectPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The attributes of `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct ObjectInfo {
    bpf_fd: u32,
    info_bytes: u32,
    info: u64,
}

/// Information of the kernel about a map: the beginning of its `struct bpf_map_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct MapInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_bytes: u32,
    pub(crate) value_bytes: u32,
    pub(crate) entries: u32,
    pub(crate) flags: u32,
}

/// The kernel's account of a program: the beginning of its `struct bpf_prog_info`, up to its
/// name.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ProgramInfo {
    _before: [u32; 16],
    name: [u8; 16],
}

/// Type and sizes with which a map is made.
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
    // Where it writes, it does so through addresses in the attributes, which are
    // those of buffers that the caller borrows alone.
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

/// Like [`bpf`], where the kernel answers in the attributes themselves.
fn bpf_mut<T: FromBytes>(command: c_long, attributes: &mut T) -> io::Result<c_long> {
    // SAFETY: as in `bpf`; the attributes are borrowed alone, and whatever the
    // kernel leaves in them is a value.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
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

/// Makes a map with keys of four bytes; a ring buffer has none.
pub(crate) fn create_map(shape: &MapShape<'_>) -> io::Result<OwnedFd> {
    let mut map_name = [0; 16];
    for (to, from) in map_name.iter_mut().take(15).zip(shape.name.bytes()) {
        *to = from;
    }
    let attributes = MapCreate {
        map_type: shape.kind as u32,
        key_size: key_bytes(shape.kind),
        value_size: shape.value_bytes,
        max_entries: shape.entries,
        map_flags: shape.flags,
        inner_map_fd: shape.inner.map_or(0, |inner| inner.as_raw_fd() as u32),
        numa_node: 0,
        map_name,
    };
    bpf(BPF_MAP_CREATE, &attributes).and_then(owned)
}

/// Bytes of a key of the kinds of maps used here.
pub(crate) fn key_bytes(kind: MapType) -> u32 {
    if matches!(kind, MapType::RingBuf) {
        0
    } else {
        4
    }
}

/// Stores a map in an array of maps. Returns after a grace period: whoever read
/// the old one has finished.
pub(crate) fn set_inner(
    outer: BorrowedFd<'_>,
    index: u32,
    inner: BorrowedFd<'_>,
) -> io::Result<()> {
    set_value(outer, index, &(inner.as_raw_fd() as u32))
}

/// Stores maps in an array of maps, each at its index. Returns after a grace period: one for
/// all of them on newer kernels, one for each on older ones.
pub(crate) fn set_inners(
    outer: BorrowedFd<'_>,
    inners: &[(u32, BorrowedFd<'_>)],
) -> io::Result<()> {
    let indexes: Vec<u32> = inners.iter().map(|(index, _)| *index).collect();
    let values: Vec<u32> = (inners.iter())
        .map(|(_, inner)| inner.as_raw_fd() as u32)
        .collect();
    let mut attributes = MapBatch {
        in_batch: 0,
        out_batch: 0,
        keys: indexes.as_ptr().addr() as u64,
        values: values.as_ptr().addr() as u64,
        count: u32::try_from(inners.len()).map_err(io::Error::other)?,
        map_fd: outer.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    match bpf_mut(BPF_MAP_UPDATE_BATCH, &mut attributes) {
        // This kernel stores them one by one.
        Err(error) if matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EINVAL)) => inners
            .iter()
            .try_for_each(|&(index, inner)| set_inner(outer, index, inner)),
        result => result.map(drop),
    }
}

/// Takes the map at an index out of an array of maps. Returns after a grace period, at once if
/// none was there.
pub(crate) fn remove_inner(outer: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let attributes = MapElement {
        map_fd: outer.as_raw_fd() as u32,
        _pad: 0,
        key: std::ptr::from_ref(&index).addr() as u64,
        value: 0,
        flags: 0,
    };
    match bpf(BPF_MAP_DELETE_ELEM, &attributes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map(drop),
    }
}

/// Bytes of memory that a map takes, as the kernel accounts for them.
pub(crate) fn memory_of(map: BorrowedFd<'_>) -> io::Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    let bytes = line.and_then(|bytes| bytes.trim().parse().ok());
    bytes.ok_or_else(|| io::Error::other("the kernel does not say how much memory a map takes"))
}

/// The map that an array of maps has at an index. Needs CAP_SYS_ADMIN, as every
/// way from a number to an object does.
pub(crate) fn inner(outer: BorrowedFd<'_>, index: u32) -> io::Result<Option<OwnedFd>> {
    let id: u32 = match value(outer, index) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    bpf(BPF_MAP_GET_FD_BY_ID, &[id, 0, 0])
        .and_then(owned)
        .map(Some)
}

/// Name of the program with a number, at most 15 bytes of it. Needs CAP_SYS_ADMIN.
pub(crate) fn program_name(id: u32) -> io::Result<String> {
    let program = bpf(BPF_PROG_GET_FD_BY_ID, &[id, 0, 0]).and_then(owned)?;
    let padded = info::<ProgramInfo>(program.as_fd())?.name;
    let name = padded.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// Stores a value in an array. `T` has the size of the array's values.
pub(crate) fn set_value<T: IntoBytes + Immutable>(
    map: BorrowedFd<'_>,
    index: u32,
    value: &T,
) -> io::Result<()> {
    let attributes = MapElement {
        map_fd: map.as_raw_fd() as u32,
        _pad: 0,
        key: std::ptr::from_ref(&index).addr() as u64,
        value: std::ptr::from_ref(value).addr() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &attributes).map(drop)
}

/// The value of an array. `T` has the size of the array's values: the kernel
/// writes as many bytes as those have.
pub(crate) fn value<T: FromBytes + IntoBytes>(map: BorrowedFd<'_>, index: u32) -> io::Result<T> {
    let info = map_info(map)?;
    if info.value_bytes as usize != size_of::<T>() {
        return Err(io::Error::other("the map has values of another size"));
    }
    let mut value = T::new_zeroed();
    let attributes = MapElement {
        map_fd: map.as_raw_fd() as u32,
        _pad: 0,
        key: std::ptr::from_ref(&index).addr() as u64,
        value: std::ptr::from_mut(&mut value).expose_provenance() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_LOOKUP_ELEM, &attributes)?;
    Ok(value)
}

/// Returns the kernel's information about a map.
pub(crate) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(map)
}

/// Returns the kernel's information about an object: as much of it as `T` has.
pub(crate) fn info<T: FromBytes + IntoBytes>(object: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::new_zeroed();
    let attributes = ObjectInfo {
        bpf_fd: object.as_raw_fd() as u32,
        info_bytes: size_of::<T>() as u32,
        info: std::ptr::from_mut(&mut info).expose_provenance() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes)?;
    Ok(info)
}

/// Pins a map, program or link.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjectPin {
        pathname: path.as_ptr().addr() as u64,
        bpf_fd: object.as_raw_fd() as u32,
        file_flags: 0,
    };
    bpf(BPF_OBJ_PIN, &attributes).map(drop)
}

/// Opens what is pinned.
pub(crate) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjectPin {
        pathname: path.as_ptr().addr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    bpf(BPF_OBJ_GET, &attributes).and_then(owned)
}

/// A BPF file system that is mounted nowhere: only this process can reach it,
/// and it is gone with the process.
#[derive(Debug)]
pub(crate) struct PrivateBpffs {
    mount: OwnedFd,
}

impl PrivateBpffs {
    pub(crate) fn new() -> io::Result<Self> {
        let context = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(context.as_fd())?;
        let mount = fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?;
        Ok(Self { mount })
    }

    /// Returns the path by which its root can be named while this value lives.
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

/// Random bytes from the kernel, for hash keys: at most 256, which come whole (getrandom(2)).
pub(crate) fn random<T: FromBytes + IntoBytes>() -> io::Result<T> {
    let mut value = T::new_zeroed();
    let got = getrandom(value.as_mut_bytes(), GetRandomFlags::empty())?;
    if got == size_of::<T>() {
        Ok(value)
    } else {
        Err(io::Error::other("the kernel gave too few random bytes"))
    }
}
