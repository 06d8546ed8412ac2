//! Splits a set of numbers by many subsets: what no subset tells apart stays
//! together.
//!
//! The classical refinement of partitions: one subset costs time in proportion to
//! its size, whatever the number of blocks. It is exact; hashing the subsets that
//! an element lies in would be shorter, but a policy author could then aim for a
//! collision.
//!
//! Invariant: after [`Partition::refine`], each block lies wholly inside or wholly
//! outside of every subset seen so far.

/// A partition of the numbers from 0 to `n` − 1 into blocks.
#[derive(Debug, Clone)]
pub(super) struct Partition {
    /// All elements; those of one block stand together.
    elements: Vec<u32>,
    /// Position of each element in `elements`.
    position: Vec<u32>,
    /// The block of each element.
    block_of: Vec<u32>,
    blocks: Vec<Block>,
}

/// A stretch of `elements`; the marked ones stand at its front.
#[derive(Debug, Clone, Copy)]
struct Block {
    start: u32,
    end: u32,
    marked: u32,
}

impl Partition {
    /// All of `count` elements in one block.
    pub(super) fn new(count: u32) -> Self {
        Self {
            elements: (0..count).collect(),
            position: (0..count).collect(),
            block_of: vec![0; count as usize],
            blocks: vec![Block {
                start: 0,
                end: count,
                marked: 0,
            }],
        }
    }

    /// Splits every block into what lies in `subset` and what does not. An element
    /// may come several times.
    pub(super) fn refine(&mut self, subset: impl IntoIterator<Item = u32>) {
        let mut touched = Vec::new();
        for element in subset {
            let id = self.block_of[element as usize];
            let block = &mut self.blocks[id as usize];
            let front = block.start + block.marked;
            let at = self.position[element as usize];
            if at < front {
                continue;
            }
            if block.marked == 0 {
                touched.push(id);
            }
            block.marked += 1;
            let displaced = self.elements[front as usize];
            self.elements.swap(front as usize, at as usize);
            self.position[element as usize] = front;
            self.position[displaced as usize] = at;
        }
        for id in touched {
            let block = self.blocks[id as usize];
            self.blocks[id as usize].marked = 0;
            let middle = block.start + block.marked;
            if middle == block.end {
                continue;
            }
            let new = u32::try_from(self.blocks.len()).expect("no more blocks than elements");
            self.blocks[id as usize].start = middle;
            self.blocks.push(Block {
                start: block.start,
                end: middle,
                marked: 0,
            });
            for element in &self.elements[block.start as usize..middle as usize] {
                self.block_of[*element as usize] = new;
            }
        }
    }

    /// The block of each element, numbered in the order of their least elements,
    /// and how many there are.
    pub(super) fn numbered(&self) -> (Vec<u32>, u32) {
        const NONE: u32 = u32::MAX;
        let mut numbers = vec![NONE; self.blocks.len()];
        let mut next = 0;
        let numbered = self
            .block_of
            .iter()
            .map(|block| {
                let number = &mut numbers[*block as usize];
                if *number == NONE {
                    *number = next;
                    next += 1;
                }
                *number
            })
            .collect();
        (numbered, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_subset_tells_apart_stays_together() {
        let subsets: [&[u32]; 4] = [&[0, 1, 2, 3], &[2, 3, 4, 2], &[], &[7]];
        let mut partition = Partition::new(8);
        for subset in subsets {
            partition.refine(subset.iter().copied());
        }
        let (blocks, count) = partition.numbered();
        let kind = |e: u32| subsets.map(|s| s.contains(&e));
        for a in 0..8 {
            for b in 0..8 {
                assert_eq!(
                    blocks[a as usize] == blocks[b as usize],
                    kind(a) == kind(b),
                    "{a} {b}"
                );
            }
        }
        assert_eq!(count, 5);
        assert_eq!(blocks, [0, 0, 1, 1, 2, 3, 3, 4]);
    }

    #[test]
    fn the_order_of_subsets_does_not_matter() {
        let mut forwards = Partition::new(6);
        let mut backwards = Partition::new(6);
        let subsets = [vec![0, 5], vec![1, 5, 2], vec![4]];
        for subset in &subsets {
            forwards.refine(subset.iter().copied());
        }
        for subset in subsets.iter().rev() {
            backwards.refine(subset.iter().copied());
        }
        assert_eq!(forwards.numbered(), backwards.numbered());
    }

    #[test]
    fn nothing_has_no_blocks() {
        assert_eq!(Partition::new(0).numbered(), (Vec::new(), 0));
    }
}
