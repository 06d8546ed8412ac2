//! The rows of this node's classes, kept from table to table.
//!
//! They follow from the classes, from all rules that apply to them and from the atoms that
//! these speak of. A workload elsewhere that takes the labels of another changes none of
//! that, and working the rows out again is a fifth of the work of such a table.
//!
//! Invariant: what is kept is what would be made anew, with the numbers that it would have.

use std::sync::Arc;

use super::super::CompileError;
use super::super::peers::{AtomSets, Atoms};
use super::super::policy::CompiledPolicy;
use super::super::rules::RuleNumbers;
use super::super::subjects::{Class, Subjects};
use super::Matrix;

/// Numbers of rows, blocks, groups, classes, isolation sets and words.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ends {
    pub(super) rows: usize,
    pub(super) blocks: usize,
    pub(super) groups: usize,
    pub(super) classes: usize,
    pub(super) isolation_sets: usize,
    pub(super) words: u64,
}

/// The rows of this node's classes in the last table.
#[derive(Debug, Default)]
pub(super) struct LocalRows(Option<KnownRows>);

/// A matrix of this node's classes alone, and all that it follows from.
#[derive(Debug)]
struct KnownRows {
    policies: Arc<[CompiledPolicy]>,
    classes: Arc<[Class]>,
    atoms: Arc<AtomSets>,
    /// The number that the first isolation set had.
    first_set: u32,
    isolation_sets: Vec<Arc<[u32]>>,
    matrix: Matrix,
}

impl LocalRows {
    /// Takes the rows of the last table if these would be the same, and gives their
    /// isolation sets the numbers that they have.
    ///
    /// # Errors
    /// No number is left for an isolation set.
    pub(super) fn take(
        &mut self,
        subjects: &Subjects,
        atoms: &Atoms,
        numbers: &mut RuleNumbers,
        max_words: u64,
    ) -> Result<Option<Matrix>, CompileError> {
        let known = self.0.take().filter(|known| {
            let mut policies = known.policies.iter().zip(&*subjects.policies);
            known.matrix.words <= max_words
                && known.first_set == numbers.next()
                && known.classes == subjects.classes
                && known.policies.len() == subjects.policies.len()
                && policies.all(|(one, other)| one.decides_like(other))
                && known.atoms == *atoms.sets()
        });
        let Some(known) = known else {
            return Ok(None);
        };
        for set in &known.isolation_sets {
            numbers.isolation_set(set)?;
        }
        Ok(Some(known.matrix))
    }

    /// Keeps what a matrix has of this node's classes.
    pub(super) fn keep(
        &mut self,
        mut matrix: Matrix,
        subjects: &Subjects,
        atoms: &Atoms,
        numbers: &RuleNumbers,
    ) {
        let ends = matrix.local;
        let isolation_sets = &numbers.isolation_sets()[..ends.isolation_sets];
        matrix.rows.truncate(ends.rows);
        matrix.blocks.truncate(ends.blocks);
        matrix.groups.truncate(ends.groups);
        matrix.classes.truncate(ends.classes);
        matrix.words = ends.words;
        self.0 = Some(KnownRows {
            policies: subjects.policies.clone(),
            classes: subjects.classes.clone(),
            atoms: atoms.sets().clone(),
            first_set: numbers.first_set(),
            isolation_sets: isolation_sets.to_vec(),
            matrix,
        });
    }
}
