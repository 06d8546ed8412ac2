//! Loops, as old verifiers see them.

use super::{Instruction, Object, code};

/// An instruction on the way that is being followed, and the ones behind it that are still
/// to be visited, each with whether a jump leads there.
type Visit = (usize, Vec<(usize, bool)>);

impl Object {
    /// Instructions that are no jumps and go back to the beginning of a loop: those that
    /// stand right before it. Linux 6.1 to 6.7 refuse them as a "back-edge"; the compiler
    /// lays loops out so when it likes.
    pub fn plain_back_edges(&self) -> Vec<(&str, usize)> {
        let functions = self.functions.iter();
        functions
            .flat_map(|(name, function)| back_edges(function).into_iter().map(|at| (&**name, at)))
            .collect()
    }
}

/// Visits the instructions of a function in depth, as `check_cfg` of the kernel does
/// (kernel/bpf/verifier.c).
fn back_edges(function: &[Instruction]) -> Vec<usize> {
    let mut found = Vec::new();
    // Of each instruction: not seen, on the way to the present one, or done.
    let mut states = vec![None; function.len()];
    let mut way: Vec<Visit> = Vec::new();
    let mut next = (!function.is_empty()).then_some(0);
    loop {
        if let Some(at) = next.take() {
            states[at] = Some(false);
            way.push((at, behind(function, at)));
        }
        let Some((at, left)) = way.last_mut() else {
            return found;
        };
        let Some((to, by_jump)) = left.pop() else {
            states[*at] = Some(true);
            way.pop();
            continue;
        };
        match states.get(to) {
            Some(None) => next = Some(to),
            Some(Some(false)) if !by_jump => found.push(*at),
            _ => {}
        }
    }
}

/// Instructions behind one, the first to be visited last.
fn behind(function: &[Instruction], at: usize) -> Vec<(usize, bool)> {
    let one = &function[at];
    let is_jump = matches!(one.code & 7, 5 | 6);
    let target = at.checked_add_signed(1 + isize::from(one.offset));
    match one.code & 0xf0 {
        code::EXIT if is_jump => Vec::new(),
        code::CALLS if is_jump => vec![(at + 1, false)],
        code::ALWAYS if is_jump => target.map(|to| (to, true)).into_iter().collect(),
        _ if is_jump => target
            .map(|to| (to, true))
            .into_iter()
            .chain([(at + 1, true)])
            .collect(),
        _ if one.code == code::LOAD_WIDE => vec![(at + 2, false)],
        _ => vec![(at + 1, false)],
    }
}
