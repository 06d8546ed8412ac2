//! Words that user space and programs share.
//!
//! In user space it is an atomic. The BPF target has atomics of 64 bits only;
//! there it is a cell with volatile loads and stores, each a single instruction. Order
//! between loads is [`crate::memory::Memory::order_loads`]'s, between stores that of the
//! compare-and-swap that publishes them.
//!
//! In tests of this crate a model checker may watch words: it then decides which of the values
//! stored so far a load yields, and which processor goes on.

#[cfg(target_arch = "bpf")]
use core::cell::Cell;
#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use core::sync::atomic::{Ordering, fence};

/// Keeps loads before this call from being done after it.
#[inline(always)]
pub(crate) fn order_loads() {
    fence(Ordering::Acquire);
    #[cfg(test)]
    watched::order_loads();
}

/// Words that a model checker watches.
#[cfg(test)]
pub(crate) mod watched {
    use std::{cell::RefCell, collections::BTreeMap, ptr, rc::Rc};

    use loom::sync::atomic::{AtomicU64, Ordering, fence};

    thread_local! {
        /// By their places. All threads of a model are one of the system's.
        static WATCHED: RefCell<BTreeMap<usize, Rc<AtomicU64>>> = RefCell::default();
    }

    /// Watches a word that has a value, until [`forget`].
    pub(crate) fn watch<T>(word: &T, value: u64) {
        let place = ptr::from_ref(word).addr();
        WATCHED.with_borrow_mut(|all| all.insert(place, Rc::new(AtomicU64::new(value))));
    }

    /// Watches no word any more.
    pub(crate) fn forget() {
        WATCHED.take();
    }

    fn find<T>(word: &T) -> Option<Rc<AtomicU64>> {
        let place = ptr::from_ref(word).addr();
        WATCHED.with_borrow(|all| all.get(&place).cloned())
    }

    pub(super) fn load<T>(word: &T) -> Option<u64> {
        find(word).map(|word| word.load(Ordering::Relaxed))
    }

    /// Returns `None` if nobody watches the word.
    pub(super) fn put<T>(word: &T, value: u64) -> Option<()> {
        find(word).map(|word| word.store(value, Ordering::Relaxed))
    }

    /// In order with all loads and stores around it, as the processor's is.
    pub(super) fn exchange<T>(word: &T, old: u64, new: u64) -> Option<u64> {
        let word = find(word)?;
        fence(Ordering::SeqCst);
        let was = word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Some(was.unwrap_or_else(|was| was))
    }

    pub(super) fn order_loads() {
        if WATCHED.with_borrow(|all| !all.is_empty()) {
            fence(Ordering::Acquire);
        }
    }
}

/// Loads a cell by one instruction of its width. The compiler may do an ordinary load
/// twice, or in halves, because a cell has no other writers.
#[inline(always)]
#[cfg(target_arch = "bpf")]
#[expect(unsafe_code, reason = "this target has no atomics of 32 bits")]
fn load<T: Copy>(cell: &Cell<T>) -> T {
    // SAFETY: the cell is alive, aligned and initialised.
    unsafe { cell.as_ptr().read_volatile() }
}

/// Stores into a cell by one instruction of its width; see [`load`].
#[inline(always)]
#[cfg(target_arch = "bpf")]
#[expect(unsafe_code, reason = "this target has no atomics of 32 bits")]
fn put<T: Copy>(cell: &Cell<T>, value: T) {
    // SAFETY: the cell is alive and aligned, and may be written through a shared reference.
    unsafe { cell.as_ptr().write_volatile(value) };
}

/// One shared byte.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct SharedByte(
    #[cfg(target_arch = "bpf")] Cell<u8>,
    #[cfg(not(target_arch = "bpf"))] AtomicU8,
);

const _: () = assert!(size_of::<SharedByte>() == 1);

#[cfg(target_arch = "bpf")]
impl SharedByte {
    /// Loads the byte, once.
    #[inline(always)]
    pub fn load(&self) -> u8 {
        load(&self.0)
    }

    /// Stores the byte, without any order.
    #[inline(always)]
    pub fn put(&self, value: u8) {
        put(&self.0, value);
    }
}

#[cfg(not(target_arch = "bpf"))]
impl SharedByte {
    /// Loads the byte, once.
    pub fn load(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    /// Stores the byte, without any order.
    pub fn put(&self, value: u8) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// One shared 32-bit word.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct SharedWord(
    #[cfg(target_arch = "bpf")] Cell<u32>,
    #[cfg(not(target_arch = "bpf"))] AtomicU32,
);

const _: () = assert!(size_of::<SharedWord>() == 4);

impl SharedWord {
    /// Loads the word, once.
    #[inline(always)]
    #[cfg(target_arch = "bpf")]
    pub fn load(&self) -> u32 {
        load(&self.0)
    }

    /// Loads the word, once.
    #[inline(always)]
    #[cfg(not(target_arch = "bpf"))]
    pub fn load(&self) -> u32 {
        #[cfg(test)]
        if let Some(value) = watched::load(self) {
            return value as u32;
        }
        self.0.load(Ordering::Relaxed)
    }

    /// Stores the word in one piece, without any order: for entries that the
    /// caller has locked, or where the last of several values may win.
    #[inline(always)]
    #[cfg(target_arch = "bpf")]
    pub fn put(&self, value: u32) {
        put(&self.0, value);
    }

    /// Stores the word in one piece, without any order: for entries that the
    /// caller has locked, or where the last of several values may win.
    #[inline(always)]
    #[cfg(not(target_arch = "bpf"))]
    pub fn put(&self, value: u32) {
        #[cfg(test)]
        if watched::put(self, value.into()).is_some() {
            return;
        }
        self.0.store(value, Ordering::Relaxed);
    }
}

#[cfg(not(target_arch = "bpf"))]
impl SharedWord {
    /// A word with a value.
    pub const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    /// Stores the word; whoever sees the value sees all that was stored before.
    pub fn store(&self, value: u32) {
        self.0.store(value, Ordering::Release);
    }

    /// Stores the word and returns what it was.
    pub fn swap(&self, value: u32) -> u32 {
        self.0.swap(value, Ordering::SeqCst)
    }

    /// Sets bits.
    pub fn set_bits(&self, bits: u32) {
        self.0.fetch_or(bits, Ordering::SeqCst);
    }

    /// Clears bits.
    pub fn clear_bits(&self, bits: u32) {
        self.0.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Adds, wrapping; what is stored later is seen later.
    pub fn add(&self, value: u32) {
        self.0.fetch_add(value, Ordering::SeqCst);
    }
}

/// One shared 64-bit word. What changes it in one step is
/// [`crate::memory::FlowMemory`]'s.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct SharedWord64(
    #[cfg(target_arch = "bpf")] Cell<u64>,
    #[cfg(not(target_arch = "bpf"))] AtomicU64,
);

const _: () = assert!(size_of::<SharedWord64>() == 8);

#[cfg(target_arch = "bpf")]
impl SharedWord64 {
    /// Loads the word, once.
    #[inline(always)]
    pub fn load(&self) -> u64 {
        load(&self.0)
    }

    /// Stores the word in one piece, without any order.
    #[inline(always)]
    pub fn put(&self, value: u64) {
        put(&self.0, value);
    }

    /// Returns the address of the word, aligned.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut u64 {
        self.0.as_ptr()
    }
}

#[cfg(not(target_arch = "bpf"))]
impl SharedWord64 {
    /// Loads the word, once.
    pub fn load(&self) -> u64 {
        #[cfg(test)]
        if let Some(value) = watched::load(self) {
            return value;
        }
        self.0.load(Ordering::Relaxed)
    }

    /// Stores the word in one piece, without any order.
    pub fn put(&self, value: u64) {
        #[cfg(test)]
        if watched::put(self, value).is_some() {
            return;
        }
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds, wrapping, without any order.
    pub fn add(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    /// Compare-and-swap, in order with all loads and stores around it: stores `new`
    /// if the word is `old`. Returns what it was.
    pub fn exchange(&self, old: u64, new: u64) -> u64 {
        #[cfg(test)]
        if let Some(was) = watched::exchange(self, old, new) {
            return was;
        }
        match (self.0).compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(was) | Err(was) => was,
        }
    }
}
