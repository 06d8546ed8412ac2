//! Policies, pods, namespaces and labels come, change and go.

use super::case;
use super::pieces::{Direction, Peer, Policy, UDP_81_BY_NAME};
use crate::conformance::Case;
use crate::conformance::cluster::{Change, delete, namespace, network_policy, relabel, trio_pod};

/// Everything that is tried, while a namespace comes and goes beside it.
pub(super) fn example() -> Case {
    let named = "- * > x/*\n+ * > x/* tcp/81";
    case(
        "a named port, while a namespace comes and goes",
        ["example"],
    )
    .step(
        [network_policy(
            "x/named",
            "{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: \
                 serve-81-tcp}]}]}",
        )],
        named,
    )
    .step(
        [namespace("w", &["ns=w"]), Change::Pod(trio_pod("w", "a"))],
        named,
    )
    .step([Change::DeletePod("w/a".to_owned())], named)
    .step([Change::DeleteNamespace("w".to_owned())], named)
    .step([], named)
    .step([], named)
    .tries([
        ("y/a > x/a tcp/81".to_owned(), true),
        ("x/b > x/c tcp/81".to_owned(), true),
    ])
    .step([], named)
    .tries([
        ("z/c > x/a tcp/81".to_owned(), true),
        ("z/c > x/a tcp/80".to_owned(), false),
    ])
}

pub(super) fn actions() -> Vec<Case> {
    let mut cases = of_policies();
    cases.extend(of_namespaces());
    cases.extend(of_pods());
    cases
}

fn of_policies() -> Vec<Case> {
    let base = Policy::base();
    let updated = Policy::base().ports(Direction::Ingress, vec![UDP_81_BY_NAME]);
    vec![
        case(
            "a policy is made and deleted",
            ["create-policy", "delete-policy"],
        )
        .step([base.apply()], base.expected())
        .step([delete("x/base")], ""),
        case(
            "a policy is made and updated",
            ["create-policy", "update-policy"],
        )
        .step([base.apply()], base.expected())
        .step([updated.apply()], updated.expected()),
    ]
}

/// Nobody, until a label comes: the name of a peer's namespace or pod then.
fn nobody(text: &'static str) -> Peer {
    Peer {
        name: "nobody yet",
        text,
        tags: &[],
        is: |_, _| false,
    }
}

fn of_namespaces() -> Vec<Case> {
    let base = Policy::base();
    let text = "{namespaceSelector: {matchLabels: {new-ns: qrs}}}";
    let closed = Policy::base().peers(Direction::Ingress, vec![nobody(text)]);
    let open = Peer {
        is: |_, end| end.namespace() == "y",
        ..nobody(text)
    };
    let open = Policy::base().peers(Direction::Ingress, vec![open]);
    vec![
        case(
            "a namespace with the labels of another is made and deleted",
            ["create-namespace", "delete-namespace"],
        )
        .step([base.apply()], base.expected())
        .step(
            [
                namespace("y-2", &["ns=y"]),
                Change::Pod(trio_pod("y-2", "a")),
                Change::Pod(trio_pod("y-2", "b")),
            ],
            base.expected(),
        )
        .step([Change::DeleteNamespace("y-2".to_owned())], base.expected()),
        case(
            "a namespace's labels match, and match no longer",
            ["set-namespace-labels"],
        )
        .step([closed.apply()], closed.expected())
        .step([namespace("y", &["ns=y", "new-ns=qrs"])], open.expected())
        .step([namespace("y", &["ns=y"])], closed.expected()),
    ]
}

fn of_pods() -> Vec<Case> {
    let base = Policy::base();
    let text = "{podSelector: {matchLabels: {new-label: abc}}, namespaceSelector: \
                {matchExpressions: [{key: ns, operator: In, values: [y, z]}]}}";
    let closed = Policy::base().peers(Direction::Ingress, vec![nobody(text)]);
    let open = Peer {
        is: |_, end| end.to_string() == "y/b",
        ..nobody(text)
    };
    let open = Policy::base().peers(Direction::Ingress, vec![open]);
    vec![
        case("a pod is made and deleted", ["create-pod", "delete-pod"])
            .step([base.apply()], base.expected())
            .step([Change::Pod(trio_pod("x", "d"))], base.expected())
            .step([Change::DeletePod("x/d".to_owned())], base.expected()),
        case(
            "a pod's labels match, and match no longer",
            ["set-pod-labels"],
        )
        .step([closed.apply()], closed.expected())
        .step(
            [relabel("y/b", &["pod=b", "new-label=abc"])],
            open.expected(),
        )
        .step([relabel("y/b", &["pod=b"])], closed.expected()),
    ]
}
