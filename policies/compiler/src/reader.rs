//! Reads the words of a table that has just been made.
//!
//! The same answers as those of `verdict::table`, which trusts no word: what the compiler
//! itself has written needs no checks, so that it can be asked millions of times.
//!
//! Invariant: a class or an atom that the table does not have gets no answer.

use cofferdam_verdict::table::{BLOCK_WORDS, CLASS_WORDS, Decision, header};
use cofferdam_verdict::verdict::{Direction, Verdict};

/// Reads the words of a table.
#[derive(Clone, Copy)]
pub(super) struct Reader<'w> {
    words: &'w [u32],
}

impl<'w> Reader<'w> {
    /// Reads these.
    pub(super) fn new(words: &'w [u32]) -> Self {
        Self { words }
    }

    fn at(&self, offset: u32) -> u32 {
        self.words[offset as usize]
    }

    /// A word of the header.
    pub(super) fn header(&self, word: usize) -> u32 {
        self.words[word]
    }

    /// The offset of the row of a class towards an atom.
    pub(super) fn row_at(&self, class: u32, direction: Direction, atom: u32) -> u32 {
        let groups = self.groups_at(class, direction);
        let block = self.at(groups + atom / BLOCK_WORDS);
        self.at(block + atom % BLOCK_WORDS)
    }

    /// The offset of the list of a class's blocks.
    fn groups_at(&self, class: u32, direction: Direction) -> u32 {
        let class = self.header(header::CLASSES) + class * CLASS_WORDS;
        self.at(class + direction as u32)
    }

    /// The blocks of a class, one for each group of atoms.
    pub(super) fn blocks(&self, class: u32, direction: Direction) -> Option<&'w [u32]> {
        (class < self.header(header::CLASS_COUNT)).then(|| {
            let groups = self.header(header::ATOM_COUNT).div_ceil(BLOCK_WORDS);
            let first = self.groups_at(class, direction) as usize;
            &self.words[first..first + groups as usize]
        })
    }

    /// The offsets of the rows of a block, one for each atom of its group.
    pub(super) fn rows_of(&self, block: u32) -> &'w [u32] {
        &self.words[block as usize..(block + BLOCK_WORDS) as usize]
    }

    /// The intervals of a row: first key, verdict in force, audited verdict.
    pub(super) fn intervals(&self, row: u32) -> impl Iterator<Item = [u32; 3]> + use<'w> {
        let words = &self.words[row as usize..];
        let count = words[0] as usize;
        let word = move |at: usize, part: usize| words[1 + part * count + at];
        (0..count).map(move |at| [word(at, 0), word(at, 1), word(at, 2)])
    }

    /// Returns the row of a class towards an atom.
    pub(super) fn row(&self, class: u32, direction: Direction, atom: u32) -> Option<u32> {
        let is_there =
            class < self.header(header::CLASS_COUNT) && atom < self.header(header::ATOM_COUNT);
        is_there.then(|| self.row_at(class, direction, atom))
    }

    /// Returns the decision of a row about a key.
    pub(super) fn decision(&self, row: u32, key: u32) -> Decision {
        let row = row as usize;
        let count = self.words[row] as usize;
        let firsts = &self.words[row + 1..=row + count];
        let at = row + firsts.partition_point(|first| *first <= key);
        Decision {
            enforced: Verdict::from_word(self.words[at + count]),
            audited: Verdict::from_word(self.words[at + 2 * count]),
        }
    }
}
