//! A number that differs where contents differ, the same in every build.
//!
//! FNV-1a in 128 bits. It tells apart what we made ourselves; nobody who could
//! choose the contents gains by a collision, because they already write to the
//! directory that only root may enter.

use std::fmt;

/// FNV-1a of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest(u128);

impl Digest {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

    /// Of nothing.
    pub(crate) const fn new() -> Self {
        Self(Self::OFFSET)
    }

    /// Of what came before and then these bytes, as one piece.
    pub(crate) fn add(self, bytes: &[u8]) -> Self {
        let length = (bytes.len() as u64).to_le_bytes();
        let sum = length.iter().chain(bytes).fold(self.0, |sum, &byte| {
            (sum ^ u128::from(byte)).wrapping_mul(Self::PRIME)
        });
        Self(sum)
    }
}

/// As the name of a file.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Digest;

    #[test]
    fn pieces_do_not_run_together() {
        let of = |pieces: &[&str]| {
            pieces
                .iter()
                .fold(Digest::new(), |digest, piece| digest.add(piece.as_bytes()))
        };
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&[""]), of(&[]));
        assert_eq!(of(&["ab"]).to_string().len(), 32);
    }
}
