//! The taint that keeps pods from a node whose agent is not ready. Pure.
//!
//! It is put on at most once, before the agent is ready for the first time, and taken off then.
//! An agent that has been ready never puts it on: a policy that somebody gets wrong must not
//! close all nodes for new pods.
//!
//! Invariant: a patch names the version of the node that it was made from, so that taints which
//! others put on or take off meanwhile are never lost.

use serde_json::{Value, json};

/// Key of the taint.
const KEY: &str = "cofferdam.dev/agent-not-ready";
/// Effect of the taint that the agent puts on; it takes those of any effect off.
const EFFECT: &str = "NoSchedule";

/// A change of the taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TaintChange {
    /// It is put on.
    Put,
    /// It is taken off.
    TakeOff,
}

/// Changes of the taint that are done.
#[derive(Debug, Default)]
pub(super) struct Taint {
    is_put: bool,
    is_over: bool,
}

impl Taint {
    /// Returns what is to be done now.
    pub(super) fn next(&self, is_ready: bool) -> Option<TaintChange> {
        match (self.is_over, is_ready) {
            (true, _) => None,
            (false, true) => Some(TaintChange::TakeOff),
            (false, false) => (!self.is_put).then_some(TaintChange::Put),
        }
    }

    /// Notes that a change has been carried out.
    pub(super) fn done(&mut self, change: TaintChange) {
        match change {
            TaintChange::Put => self.is_put = true,
            TaintChange::TakeOff => self.is_over = true,
        }
    }
}

/// Returns the merge patch of a node for a change, `None` if there is nothing to do.
pub(super) fn patch(node: &Value, change: TaintChange) -> Option<Value> {
    let mut taints = node["spec"]["taints"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let is_own = |taint: &Value| taint["key"] == KEY;
    let has_it = taints.iter().any(is_own);
    match change {
        TaintChange::Put if has_it => return None,
        TaintChange::Put => taints.push(json!({"key": KEY, "effect": EFFECT})),
        TaintChange::TakeOff if !has_it => return None,
        TaintChange::TakeOff => taints.retain(|taint| !is_own(taint)),
    }
    Some(json!({
        "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
        "spec": {"taints": taints},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_put_on_once_and_never_after_the_agent_was_ready() {
        let mut taint = Taint::default();
        assert_eq!(taint.next(false), Some(TaintChange::Put));
        assert_eq!(
            taint.next(false),
            Some(TaintChange::Put),
            "until it was done"
        );
        taint.done(TaintChange::Put);
        assert_eq!(taint.next(false), None);
        assert_eq!(taint.next(true), Some(TaintChange::TakeOff));
        taint.done(TaintChange::TakeOff);
        assert_eq!([taint.next(false), taint.next(true)], [None, None]);
        // That of the kubelet is taken off by an agent that is ready at once.
        assert_eq!(Taint::default().next(true), Some(TaintChange::TakeOff));
    }

    #[test]
    fn a_patch_touches_the_own_taint_alone_and_names_its_version() {
        let other = json!({"key": "other", "effect": "NoExecute", "value": "v"});
        let node = |taints: Value| json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": taints}});
        let own = json!({"key": KEY, "effect": "NoSchedule"});
        let of_kubelet = json!({"key": KEY, "effect": "NoExecute"});
        for (before, change, after) in [
            (json!(null), TaintChange::Put, Some(json!([own]))),
            (json!([other]), TaintChange::Put, Some(json!([other, own]))),
            (json!([of_kubelet]), TaintChange::Put, None),
            (
                json!([own, other, of_kubelet]),
                TaintChange::TakeOff,
                Some(json!([other])),
            ),
            (json!([own]), TaintChange::TakeOff, Some(json!([]))),
            (json!([other]), TaintChange::TakeOff, None),
        ] {
            let expected = after.map(
                |taints| json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": taints}}),
            );
            assert_eq!(patch(&node(before.clone()), change), expected, "{before}");
        }
    }
}
