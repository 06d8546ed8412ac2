//! Arrays that the kernel programs read and user space maps.

use std::{
    fmt, io,
    marker::PhantomData,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    ptr::NonNull,
    slice,
};

use aya::maps::MapType;
use cofferdam_verdict::{
    bucket::{AddressBlock, Bucket},
    endpoint::{Binding, EndpointRecord},
    flow::FlowSet,
    hits::RuleCount,
    shared::SharedWord64,
    table::Page,
};

use crate::sys::{self, MapShape};

/// A type that lies in a mapped array.
///
/// # Safety
///
/// Every bit pattern is a value, zero included, and the size is a multiple of
/// eight, which is how the kernel spaces the values of an array.
pub unsafe trait MapValue {}

// SAFETY: atomic words only, 64 bytes.
unsafe impl MapValue for Bucket {}
// SAFETY: atomic words only, 32 bytes.
unsafe impl MapValue for AddressBlock {}
// SAFETY: atomic words only, 16 bytes.
unsafe impl MapValue for Binding {}
// SAFETY: plain and atomic integers without padding, 256 bytes.
unsafe impl MapValue for EndpointRecord {}
// SAFETY: atomic integers without padding, 512 bytes.
unsafe impl MapValue for FlowSet {}
// SAFETY: atomic integers without padding, 48 bytes.
unsafe impl MapValue for RuleCount {}
// SAFETY: an atomic integer, 8 bytes.
unsafe impl MapValue for SharedWord64 {}
// SAFETY: words, 64 KiB.
unsafe impl MapValue for Page {}

/// A BPF array of `T`, and its memory.
pub struct MappedArray<T> {
    map: OwnedFd,
    memory: MappedValues<T>,
}

/// The memory of a BPF array of `T`. The array lives as long as it is mapped.
pub(crate) struct MappedValues<T> {
    memory: NonNull<T>,
    entries: usize,
    _values: PhantomData<T>,
}

// SAFETY: the mapping belongs to this value alone and may be used on any thread;
// shared access is bounded by `T` below.
unsafe impl<T: Send> Send for MappedValues<T> {}
// SAFETY: `&MappedValues` gives `&T` only.
unsafe impl<T: Sync> Sync for MappedValues<T> {}

impl<T: MapValue> MappedArray<T> {
    /// Makes an array of zeroes.
    ///
    /// # Errors
    ///
    /// The kernel's: no permission, no memory.
    pub fn new(name: &str, entries: u32) -> io::Result<Self> {
        let map = sys::create_map(&MapShape {
            name,
            kind: MapType::Array,
            value_bytes: u32::try_from(size_of::<T>()).map_err(io::Error::other)?,
            entries,
            flags: sys::MMAPABLE,
            inner: None,
        })?;
        Self::over(map)
    }

    /// Maps an array that exists.
    ///
    /// # Errors
    ///
    /// The kernel's, and when it is not an array of `T`.
    pub fn over(map: OwnedFd) -> io::Result<Self> {
        let info = sys::map_info(map.as_fd())?;
        if info.kind != MapType::Array as u32 || info.value_bytes as usize != size_of::<T>() {
            return Err(io::Error::other("this is no array of such values"));
        }
        let entries = info.entries as usize;
        let memory = sys::map_memory(map.as_fd(), entries * size_of::<T>())?;
        let memory = NonNull::new(memory.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self {
            map,
            memory: MappedValues {
                memory,
                entries,
                _values: PhantomData,
            },
        })
    }

    /// The values. What programs write meanwhile must be atomic in `T`.
    pub fn values(&self) -> &[T] {
        self.memory.values()
    }

    /// The values, for writing what no program can reach.
    pub fn values_mut(&mut self) -> &mut [T] {
        let MappedValues {
            memory, entries, ..
        } = self.memory;
        // SAFETY: as in `MappedValues::values`, and `self` is borrowed alone.
        unsafe { slice::from_raw_parts_mut(memory.as_ptr(), entries) }
    }

    /// The map, and its memory apart.
    pub(crate) fn into_parts(self) -> (OwnedFd, MappedValues<T>) {
        (self.map, self.memory)
    }

    /// The map.
    pub fn map(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }

    /// Bytes of the array.
    pub fn bytes(&self) -> usize {
        self.memory.entries * size_of::<T>()
    }
}

impl<T: MapValue> MappedValues<T> {
    /// The values. What programs write meanwhile must be atomic in `T`.
    pub(crate) fn values(&self) -> &[T] {
        // SAFETY: the mapping has that many values, page-aligned, each of them
        // valid (`MapValue`), until this value is dropped.
        unsafe { slice::from_raw_parts(self.memory.as_ptr(), self.entries) }
    }
}

impl<T> Drop for MappedValues<T> {
    fn drop(&mut self) {
        // SAFETY: these are the mapping's, and no borrow outlives the value.
        unsafe { sys::unmap_memory(self.memory.as_ptr().cast(), self.entries * size_of::<T>()) };
    }
}

impl<T> fmt::Debug for MappedValues<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedValues")
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for MappedArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedArray")
            .field("entries", &self.memory.entries)
            .finish_non_exhaustive()
    }
}
