//! The kernel's own type information (BTF): where the fields of its structures lie.
//!
//! Only what the loader asks for is read: fields of one structure, by name. aya reads BTF
//! too, but shows no fields. Format: Linux, Documentation/bpf/btf.rst.
//!
//! Invariant: bytes that are no type information are an error, never a panic.

/// Kinds of types.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
    /// Kinds from here on are not known.
    pub(super) const END: u32 = 20;
}

const MAGIC: u16 = 0xeb9f;
/// Words of a type without what its kind adds.
const TYPE_WORDS: usize = 3;
/// Words of a field.
const MEMBER_WORDS: usize = 3;
/// Structures without a name within each other that are looked into.
const MOST_NESTED: u32 = 8;

/// Type information of a kernel.
pub(crate) struct Btf<'a> {
    words: Vec<u32>,
    strings: &'a [u8],
    /// First word of each type; numbers of types start at 1.
    types: Vec<usize>,
}

impl<'a> Btf<'a> {
    /// Reads type information; `None` if the bytes are none, or of a later version.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let section = |at: usize| {
            let head = usize::try_from(word(4)?).ok()?;
            let start = head.checked_add(usize::try_from(word(at)?).ok()?)?;
            let length = usize::try_from(word(at + 4)?).ok()?;
            bytes.get(start..start.checked_add(length)?)
        };
        if word(0)? & 0xffff != u32::from(MAGIC) {
            return None;
        }
        let (words, _) = section(8)?.as_chunks::<4>();
        let words = words.iter().map(|word| u32::from_ne_bytes(*word));
        let mut new = Self {
            words: words.collect(),
            strings: section(16)?,
            types: Vec::new(),
        };
        let mut at = 0;
        while at < new.words.len() {
            new.types.push(at);
            let info = *new.words.get(at + 1)?;
            let count = usize::try_from(info & 0xffff).ok()?;
            let added = match info >> 24 & 31 {
                kind::INT | kind::VAR | kind::DECL_TAG => 1,
                kind::ARRAY => 3,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 3 * count,
                kind::ENUM | kind::FUNC_PROTO => 2 * count,
                0 | kind::END.. => return None,
                _ => 0,
            };
            at += TYPE_WORDS + added;
        }
        Some(new)
    }

    /// Number of a function; `None` if the kernel has none of this name.
    pub(crate) fn function(&self, function: &str) -> Option<u32> {
        let is_wanted = |&at: &usize| {
            self.kind(at) == Some(kind::FUNC) && self.name(at) == Some(function.as_bytes())
        };
        let index = self.types.iter().position(is_wanted)?;
        u32::try_from(index + 1).ok()
    }

    /// Bit at which a field of a structure starts, whether it lies in the structure itself
    /// or in one without a name inside it.
    pub(crate) fn field(&self, structure: &str, field: &str) -> Option<u32> {
        let is_wanted = |&&at: &&usize| {
            self.kind(at) == Some(kind::STRUCT) && self.name(at) == Some(structure.as_bytes())
        };
        let at = *self.types.iter().find(is_wanted)?;
        self.field_of(at, field, MOST_NESTED)
    }

    fn field_of(&self, at: usize, field: &str, nested: u32) -> Option<u32> {
        let info = *self.words.get(at + 1)?;
        // With the flag, an offset has the width of a bit field in its high byte.
        let mask = if info >> 31 == 1 { 0xff_ffff } else { u32::MAX };
        let mut members = self
            .words
            .get(at + TYPE_WORDS..)?
            .chunks_exact(MEMBER_WORDS)
            .take(usize::try_from(info & 0xffff).ok()?);
        members.find_map(|member| {
            let [name, number, offset] = *member.first_chunk()?;
            let offset = offset & mask;
            if self.string(name)? == field.as_bytes() {
                return Some(offset);
            }
            let at = *self
                .types
                .get(usize::try_from(number).ok()?.checked_sub(1)?)?;
            let inside = matches!(self.kind(at)?, kind::STRUCT | kind::UNION);
            if name != 0 || !inside || nested == 0 {
                return None;
            }
            Some(offset + self.field_of(at, field, nested - 1)?)
        })
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some(self.words.get(at + 1)? >> 24 & 31)
    }

    fn name(&self, at: usize) -> Option<&[u8]> {
        self.string(*self.words.get(at)?)
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        let rest = self.strings.get(usize::try_from(offset).ok()?..)?;
        rest.split(|&byte| byte == 0).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct s { int a; union { int b; struct { int c:2; int d:2; }; } x; union { … }; }`:
    /// the last member is the union of the one before, without a name. And `int f(void)`.
    fn example() -> Vec<u8> {
        let strings = b"\0s\0a\0b\0c\0d\0x\0f\0";
        let (s, a, b, c, d, x, f) = (1, 3, 5, 7, 9, 11, 13);
        let types = [
            // 1: int
            vec![a, kind::INT << 24, 4, 32],
            // 2: struct { int c:2 at 1; int d:2 at 3; }
            vec![
                0,
                1 << 31 | kind::STRUCT << 24 | 2,
                4,
                c,
                1,
                2 << 24 | 1,
                d,
                1,
                2 << 24 | 3,
            ],
            // 3: union { int b; struct 2; }
            vec![0, kind::UNION << 24 | 2, 4, b, 1, 0, 0, 2, 0],
            // 4: struct s
            vec![s, kind::STRUCT << 24 | 3, 12, a, 1, 0, x, 3, 32, 0, 3, 64],
            // 5: int (*)(void)
            vec![0, kind::FUNC_PROTO << 24, 1],
            // 6: f
            vec![f, kind::FUNC << 24, 5],
        ]
        .concat();
        let length = |words: usize| u32::try_from(4 * words).expect("a few");
        let head = [
            u32::from(MAGIC) | 1 << 16,
            24,
            0,
            length(types.len()),
            length(types.len()),
            u32::try_from(strings.len()).expect("a few"),
        ];
        let words = head
            .iter()
            .chain(&types)
            .flat_map(|word| word.to_ne_bytes());
        words.chain(*strings).collect()
    }

    #[test]
    fn fields_are_found_where_they_lie_and_inside_structures_without_a_name() {
        let bytes = example();
        let btf = Btf::parse(&bytes).expect("an example");
        let bits = [("a", 0), ("x", 32), ("b", 64), ("c", 65), ("d", 67)];
        for (field, bit) in bits {
            assert_eq!(btf.field("s", field), Some(bit), "{field}");
        }
        assert_eq!(btf.field("s", "y"), None);
        assert_eq!(btf.field("t", "a"), None);
    }

    #[test]
    fn functions_have_the_numbers_of_their_types() {
        let bytes = example();
        let btf = Btf::parse(&bytes).expect("an example");
        assert_eq!(btf.function("f"), Some(6));
        assert_eq!(btf.function("s"), None);
        assert_eq!(btf.function("g"), None);
    }

    #[test]
    fn what_is_cut_off_is_no_type_information_and_no_panic() {
        let bytes = example();
        for end in 0..bytes.len() {
            let cut = Btf::parse(&bytes[..end]);
            assert!(cut.is_none(), "{end}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            if let Some(btf) = Btf::parse(&changed) {
                let _ = btf.field("s", "d");
            }
        }
    }
}
