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
pub(super) enum Step {
    /// It is put on.
    Put,
    /// It is taken off.
    TakeOff,
}

/// Steps of the taint that are done.
#[derive(Debug, Default)]
pub(super) struct Taint {
    is_put: bool,
    is_over: bool,
}

impl Taint {
    /// Returns what is to be done now.
    pub(super) fn next(&self, is_ready: bool) -> Option<Step> {
        match (self.is_over, is_ready) {
            (true, _) => None,
            (false, true) => Some(Step::TakeOff),
            (false, false) => (!self.is_put).then_some(Step::Put),
        }
    }

    /// Notes that a step has been carried out.
    pub(super) fn done(&mut self, step: Step) {
        match step {
            Step::Put => self.is_put = true,
            Step::TakeOff => self.is_over = true,
        }
    }
}

/// Returns the merge patch of a node for a step, `None` if there is nothing to do.
pub(super) fn patch(node: &Value, step: Step) -> Option<Value> {
    let taints = node["spec"]["taints"].as_array().cloned();
    let mut taints = taints.unwrap_or_default();
    let is_own = |taint: &Value| taint["key"] == KEY;
    let has_it = taints.iter().any(is_own);
    match step {
        Step::Put if has_it => return None,
        Step::Put => taints.push(json!({"key": KEY, "effect": EFFECT})),
        Step::TakeOff if !has_it => return None,
        Step::TakeOff => taints.retain(|taint| !is_own(taint)),
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
        assert_eq!(taint.next(false), Some(Step::Put));
        assert_eq!(taint.next(false), Some(Step::Put), "until it was done");
        taint.done(Step::Put);
        assert_eq!(taint.next(false), None);
        assert_eq!(taint.next(true), Some(Step::TakeOff));
        taint.done(Step::TakeOff);
        assert_eq!([taint.next(false), taint.next(true)], [None, None]);
        // That of the kubelet is taken off by an agent that is ready at once.
        assert_eq!(Taint::default().next(true), Some(Step::TakeOff));
    }

    #[test]
    fn a_patch_touches_the_own_taint_alone_and_names_its_version() {
        let other = json!({"key": "other", "effect": "NoExecute", "value": "v"});
        let node = |taints: Value| json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": taints}});
        let own = json!({"key": KEY, "effect": "NoSchedule"});
        let of_kubelet = json!({"key": KEY, "effect": "NoExecute"});
        for (before, step, after) in [
            (json!(null), Step::Put, Some(json!([own]))),
            (json!([other]), Step::Put, Some(json!([other, own]))),
            (json!([of_kubelet]), Step::Put, None),
            (
                json!([own, other, of_kubelet]),
                Step::TakeOff,
                Some(json!([other])),
            ),
            (json!([own]), Step::TakeOff, Some(json!([]))),
            (json!([other]), Step::TakeOff, None),
        ] {
            let expected = after.map(
                |taints| json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": taints}}),
            );
            assert_eq!(patch(&node(before.clone()), step), expected, "{before}");
        }
    }
}
