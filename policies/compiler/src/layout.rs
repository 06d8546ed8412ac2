//! Writes a table's words.
//!
//! The format, with every alignment, is the verdict crate's; the order of sections
//! is free, and is here: header, slots, blocks, range nodes, profiles, classes,
//! groups, rows. Blocks and nodes come first because they have the widest alignment.
//!
//! Invariant: every offset that is written lies within the words in use, and every
//! row within one page.

use cofferdam_verdict::LAYOUT_VERSION;
use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::table::{
    BLOCK_WORDS, CLASS_WORDS, MAGIC, MAX_PROFILES, PAGE_WORDS, PROFILE_WORDS, Profile,
    RANGE_NODE_WORDS, header, slot_place,
};

use super::CompileError;
use super::matrix::Matrix;
use super::range_tree::RangeTrees;

/// Everything that goes into a table.
pub(super) struct Content<'c> {
    pub(super) revision: u64,
    /// All slots in use, and the index of each one's profile.
    pub(super) slots: &'c [(u32, u32)],
    /// The profiles of all slots, [`checked`].
    pub(super) profiles: &'c [Profile],
    pub(super) atoms: u32,
    pub(super) matrix: &'c Matrix,
    pub(super) ranges: &'c RangeTrees,
}

/// Places of the sections.
struct Sections {
    blocks: usize,
    ranges: usize,
    profiles: usize,
    classes: usize,
    groups: usize,
    /// Offset of each groups list.
    groups_at: Vec<usize>,
    /// Offset of each row.
    rows_at: Vec<usize>,
    end: usize,
}

impl Sections {
    fn new(content: &Content<'_>, limits: &Limits) -> Self {
        let matrix = content.matrix;
        let blocks = limits.slot_pages() as usize * PAGE_WORDS;
        let ranges = blocks + matrix.blocks.all().len() * BLOCK_WORDS as usize;
        let profiles_at = ranges + content.ranges.length();
        let profiles = content.profiles.len() + 1;
        let classes = profiles_at + profiles * PROFILE_WORDS as usize;
        let groups = classes + matrix.classes.len() * CLASS_WORDS as usize;
        let mut at = groups;
        let mut groups_at = Vec::with_capacity(matrix.groups.all().len());
        for list in matrix.groups.all() {
            groups_at.push(at);
            at += list.len();
        }
        let mut rows_at = Vec::with_capacity(matrix.rows.all().len());
        for row in matrix.rows.all() {
            if at % PAGE_WORDS + row.len() > PAGE_WORDS {
                at = at.next_multiple_of(PAGE_WORDS);
            }
            rows_at.push(at);
            at += row.len();
        }
        Self {
            blocks,
            ranges,
            profiles: profiles_at,
            classes,
            groups,
            groups_at,
            rows_at,
            end: at,
        }
    }
}

/// The words of a table, whole pages, and how many of them are in use.
pub(super) fn write(
    content: &Content<'_>,
    limits: &Limits,
) -> Result<(Vec<u32>, usize), CompileError> {
    let profiles = content.profiles;
    let sections = Sections::new(content, limits);
    let pages = sections.end.div_ceil(PAGE_WORDS);
    if pages as u64 > limits.table_pages.into() {
        return Err(super::pages_error(pages as u64, limits));
    }
    let mut words = vec![0u32; pages * PAGE_WORDS];
    let mut put = |at: usize, word: u32| words[at] = word;
    write_header(content, limits, &sections, &mut put);
    // Number 0 is that of spare slots.
    for (profile, at) in profiles
        .iter()
        .zip((sections.profiles..).step_by(2).skip(1))
    {
        for (at, word) in (at..).zip(profile.to_words()) {
            put(at, word);
        }
    }
    for (slot, profile) in content.slots {
        let (at, shift) = slot_place(*slot);
        words[at as usize] |= (profile + 1) << shift;
    }
    let mut put = |at: usize, word: u32| words[at] = word;
    let matrix = content.matrix;
    let rows_of_blocks = matrix.blocks.all().iter().flatten();
    for (at, row) in (sections.blocks..).zip(rows_of_blocks) {
        put(at, offset(sections.rows_at[*row as usize]));
    }
    for (at, word) in (sections.ranges..).zip(content.ranges.words(offset(sections.ranges))) {
        put(at, word);
    }
    for (at, groups) in (sections.classes..).zip(matrix.classes.iter().flatten()) {
        put(at, offset(sections.groups_at[*groups as usize]));
    }
    for (at, block) in (sections.groups..).zip(matrix.groups.all().iter().flatten()) {
        put(
            at,
            offset(sections.blocks + *block as usize * BLOCK_WORDS as usize),
        );
    }
    for (at, row) in sections.rows_at.iter().zip(matrix.rows.all()) {
        for (at, word) in (*at..).zip(&**row) {
            put(at, *word);
        }
    }
    Ok((words, sections.end))
}

/// The profiles of all slots, each once and in order, if they can be numbered; the
/// first has number 1.
pub(super) fn checked(profiles: Vec<Profile>) -> Result<Vec<Profile>, CompileError> {
    if profiles.len() >= MAX_PROFILES as usize {
        return Err(CompileError::Capacity {
            table: "profiles",
            used: profiles.len() as u64,
            max: u64::from(MAX_PROFILES) - 1,
        });
    }
    Ok(profiles)
}

fn write_header(
    content: &Content<'_>,
    limits: &Limits,
    sections: &Sections,
    put: &mut impl FnMut(usize, u32),
) {
    debug_assert!(sections.ranges.is_multiple_of(RANGE_NODE_WORDS as usize));
    let [v4, v6] = content.ranges.roots(offset(sections.ranges));
    for (at, word) in [
        (header::MAGIC, MAGIC),
        (header::VERSION, LAYOUT_VERSION),
        (header::REVISION_LOW, content.revision as u32),
        (header::REVISION_HIGH, (content.revision >> 32) as u32),
        (header::SLOTS, limits.slots),
        (header::CLASSES, offset(sections.classes)),
        (header::CLASS_COUNT, offset(content.matrix.classes.len())),
        (header::ATOM_COUNT, content.atoms),
        (header::RANGES_V4, v4),
        (header::RANGES_V6, v6),
        (header::WORDS, offset(sections.end)),
        (header::PROFILES, offset(sections.profiles)),
        (header::PROFILE_COUNT, offset(content.profiles.len() + 1)),
    ] {
        put(at, word);
    }
}

/// A place as an offset word. The page limit was checked before, and pages are
/// counted in 32 bits.
fn offset(at: usize) -> u32 {
    super::signatures::number(at)
}
