//! A word that user space writes while programs read it.
//!
//! In user space it is an atomic. The BPF target has atomics of 64 bits only;
//! there it is a cell, whose loads are single instructions, and programs never
//! write it. Order between loads is [`crate::memory::Memory::order_loads`]'s.

#[cfg(target_arch = "bpf")]
use core::cell::Cell;
#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU32, Ordering};

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
        self.0.get()
    }

    /// Loads the word, once.
    #[inline(always)]
    #[cfg(not(target_arch = "bpf"))]
    pub fn load(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
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
