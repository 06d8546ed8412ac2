//! Places for the nodes of a graph: in layers from left to right, senders before receivers.
//!
//! The layered method in its plainest form: edges that close a cycle are left out, a
//! node's layer is the longest way to it, and within a layer nodes are ordered by the
//! middle of their neighbours. An edge over more than one layer has a *bend* in each layer
//! between, so that it leads past the nodes there; edges to one node share their bends.
//! Invariant: equal graphs get equal places.

use std::collections::{BTreeMap, BTreeSet};

/// Rounds in which the nodes of layers are ordered by their neighbours.
const ROUNDS: usize = 8;

/// Nodes and bends, by number: bends have the numbers behind those of nodes.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// For each layer its nodes and bends, in order.
    pub(super) layers: Vec<Vec<usize>>,
    /// The bends of edges that have some, from sender to receiver.
    pub(super) bends: BTreeMap<(usize, usize), Vec<usize>>,
}

/// Lays out a graph of so many nodes.
pub(super) fn lay_out(nodes: usize, edges: &[(usize, usize)]) -> Layout {
    let edges: BTreeSet<(usize, usize)> = edges.iter().copied().filter(|(a, b)| a != b).collect();
    let mut next = vec![Vec::new(); nodes];
    for (from, to) in &edges {
        next[*from].push(*to);
    }
    let order = without_cycles(&mut next);
    let mut layer = vec![0usize; nodes];
    for from in order {
        for to in &next[from] {
            layer[*to] = layer[*to].max(layer[from] + 1);
        }
    }
    let highest = layer.iter().max().map_or(0, |highest| highest + 1);
    let mut layers = vec![Vec::new(); highest];
    for (node, layer) in layer.iter().enumerate() {
        layers[*layer].push(node);
    }
    let mut neighbours = vec![Vec::new(); nodes];
    let mut bends = BTreeMap::new();
    let mut bend_before: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (from, to) in &edges {
        let between = layer[*from] + 1..layer[*to];
        let way: Vec<usize> = between
            .map(|at| {
                *bend_before.entry((*to, at)).or_insert_with(|| {
                    layers[at].push(neighbours.len());
                    neighbours.push(Vec::new());
                    neighbours.len() - 1
                })
            })
            .collect();
        let stops: Vec<usize> = [&[*from][..], &way, &[*to]].concat();
        for pair in stops.windows(2) {
            neighbours[pair[0]].push(pair[1]);
            neighbours[pair[1]].push(pair[0]);
        }
        if !way.is_empty() {
            bends.insert((*from, *to), way);
        }
    }
    let mut place = vec![0.0f64; neighbours.len()];
    for layer in &layers {
        put(layer, &mut place);
    }
    for _ in 0..ROUNDS {
        for layer in &mut layers {
            let middle = |node: usize| {
                let around = &neighbours[node];
                match around.len() {
                    0 => place[node],
                    count => around.iter().map(|one| place[*one]).sum::<f64>() / count as f64,
                }
            };
            let mut ordered: Vec<(f64, usize)> =
                layer.iter().map(|node| (middle(*node), *node)).collect();
            ordered.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
            *layer = ordered.into_iter().map(|(_, node)| node).collect();
            put(layer, &mut place);
        }
    }
    Layout { layers, bends }
}

/// Notes where the nodes of a layer stand: layers of any length are the same height.
fn put(layer: &[usize], place: &mut [f64]) {
    for (at, node) in layer.iter().enumerate() {
        place[*node] = (at as f64 + 0.5) / layer.len() as f64;
    }
}

/// Leaves out edges that close a cycle, and gives the nodes in an order in which every
/// edge leads onwards.
fn without_cycles(next: &mut [Vec<usize>]) -> Vec<usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        Open,
        Done,
    }
    let mut seen = vec![Seen::No; next.len()];
    let mut done = Vec::with_capacity(next.len());
    for start in 0..next.len() {
        if seen[start] != Seen::No {
            continue;
        }
        seen[start] = Seen::Open;
        // A node, and how many of its edges have been followed.
        let mut way = vec![(start, 0)];
        while let Some((node, followed)) = way.last_mut() {
            let node = *node;
            match next[node].get(*followed).copied() {
                None => {
                    seen[node] = Seen::Done;
                    done.push(node);
                    way.pop();
                }
                Some(to) => match seen[to] {
                    Seen::Open => {
                        next[node].remove(*followed);
                    }
                    Seen::No => {
                        *followed += 1;
                        seen[to] = Seen::Open;
                        way.push((to, 0));
                    }
                    Seen::Done => *followed += 1,
                },
            }
        }
    }
    done.reverse();
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_stand_before_receivers() {
        let layers = lay_out(4, &[(2, 1), (1, 0), (3, 1)]).layers;
        assert_eq!(layers.len(), 3);
        assert_eq!(layers[2], [0]);
        assert_eq!(layers[1], [1]);
        assert_eq!(layers[0].len(), 2);
    }

    #[test]
    fn a_cycle_is_laid_out_once() {
        let layout = lay_out(3, &[(0, 1), (1, 2), (2, 0), (1, 1)]);
        assert_eq!(layout.layers, [[0], [1], [2]]);
        assert!(layout.bends.is_empty(), "{layout:?}");
        assert!(lay_out(0, &[]).layers.is_empty());
    }

    #[test]
    fn neighbours_stand_beside_each_other() {
        // Crossed as they are numbered.
        let layers = lay_out(4, &[(0, 3), (1, 2)]).layers;
        let of = |node: usize| {
            layers
                .iter()
                .find_map(|layer| layer.iter().position(|one| *one == node))
        };
        assert_eq!(of(0), of(3));
        assert_eq!(of(1), of(2));
    }

    #[test]
    fn an_edge_over_layers_has_a_bend_beside_the_nodes_of_each() {
        let layout = lay_out(4, &[(0, 1), (1, 2), (2, 3), (0, 3), (1, 3)]);
        let bends = &layout.bends[&(0, 3)];
        assert_eq!(bends.len(), 2);
        for (layer, bend) in layout.layers[1..3].iter().zip(bends) {
            assert!(layer.contains(bend) && layer.len() == 2, "{layout:?}");
        }
        // To one node there is one way.
        assert_eq!(layout.bends[&(1, 3)], bends[1..]);
        assert_eq!(layout.bends.len(), 2);
    }
}
