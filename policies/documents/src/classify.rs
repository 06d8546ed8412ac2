//! Class of a document by its `apiVersion` and `kind`.

use super::Kind;
use super::admin::AdminKind;
use super::context::group;
use super::hints::nearest;

/// Class of a document, which tells how it is treated.
pub(super) enum Class {
    /// It is read.
    Ours(Kind),
    /// It has the form of policies of the whole cluster before this one.
    Admin(AdminKind),
    /// It is a list, and this is the kind of its items when they need not say it.
    List(Option<Kind>),
    /// It would be a policy, or another kind that is read, in a form that is not.
    Unsupported {
        /// Advice on the form to write instead.
        hint: String,
    },
    /// Another product's policy.
    ForeignPolicy,
    /// It says nothing of policies.
    Other,
}

/// The forms in which policies are read.
pub(super) const READ_AS: &str = "policies are read as networking.k8s.io/v1 NetworkPolicy, \
     policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy, and v1alpha1 AdminNetworkPolicy and \
     BaselineAdminNetworkPolicy";

/// Policies of other products that are not called so.
const FOREIGN: &[(&str, &str)] = &[
    ("k8s.ovn.org", "EgressFirewall"),
    ("networking.k8s.aws", "PolicyEndpoint"),
    ("vpcresources.k8s.aws", "SecurityGroupPolicy"),
];

/// The group of policies of the whole cluster.
const CLUSTER_POLICY_GROUP: &str = "policy.networking.k8s.io";

/// Returns the class of a document of this `apiVersion` and `kind`.
pub(super) fn classify(api_version: &str, kind: &str) -> Class {
    if let Some(known) = Kind::parse(kind)
        && known.api_version() == api_version
    {
        return Class::Ours(known);
    }
    let singular = kind.strip_suffix("List").unwrap_or(kind);
    if kind == "List" && api_version == "v1" {
        return Class::List(None);
    }
    if let Some(admin) = AdminKind::of(api_version, kind) {
        return Class::Admin(admin);
    }
    if AdminKind::of(api_version, singular).is_some() {
        return Class::List(None);
    }
    if let Some(item) = Kind::parse(singular) {
        return if item.api_version() == api_version {
            Class::List(Some(item))
        } else if item.is_policy() {
            let hint = unsupported_hint(api_version, singular).to_owned();
            Class::Unsupported { hint }
        } else {
            // Other groups have pods and nodes of their own.
            Class::Other
        };
    }
    if let Some(hint) = misspelt_hint(api_version, kind) {
        return Class::Unsupported { hint };
    }
    if group(api_version) == CLUSTER_POLICY_GROUP {
        let hint = unsupported_hint(api_version, singular).to_owned();
        Class::Unsupported { hint }
    } else if singular.ends_with("NetworkPolicy")
        || FOREIGN.contains(&(group(api_version), singular))
    {
        Class::ForeignPolicy
    } else {
        Class::Other
    }
}

/// Guesses which kind was meant by one that is none of ours, if it looks like one: passed over,
/// it would be a policy that is not in force, or a pod that nothing selects.
fn misspelt_hint(api_version: &str, kind: &str) -> Option<String> {
    const PLURALS: [(&str, Kind); 2] = [
        ("NetworkPolicies", Kind::NetworkPolicy),
        ("ClusterNetworkPolicies", Kind::ClusterNetworkPolicy),
    ];
    let plural = PLURALS.iter().find(|(plural, _)| *plural == kind);
    let meant = plural.map(|(_, kind)| *kind).or_else(|| {
        Kind::ALL.into_iter().find(|ours| {
            // Other groups have words of their own; those of policies are rare enough.
            let here = ours.api_version() == api_version;
            let near = || nearest(kind, &[ours.as_str()]).is_some();
            (here || ours.is_policy()) && (kind.eq_ignore_ascii_case(ours.as_str()) || near())
        })
    })?;
    Some(format!(
        "did you mean `apiVersion: {}` and `kind: {meant}`?",
        meant.api_version()
    ))
}

/// Returns `true` for a version of another product's, or of an API that no server has any
/// more: what is of that kind is another policy than those that are read.
pub(super) fn is_of_others(api_version: &str) -> bool {
    let group = group(api_version);
    group == "extensions" || group.contains('.') && !group.ends_with("networking.k8s.io")
}

/// Tells the changes on the way from this form to the one that is read.
fn unsupported_hint(api_version: &str, kind: &str) -> &'static str {
    match (group(api_version), kind) {
        (CLUSTER_POLICY_GROUP, "AdminNetworkPolicy") => {
            "write a policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy with `tier: Admin`; \
             `Allow` is `Accept` there, and `ports` is `protocols`"
        }
        (CLUSTER_POLICY_GROUP, "BaselineAdminNetworkPolicy") => {
            "write a policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy with `tier: Baseline` \
             and a `priority`; `Allow` is `Accept` there, and `ports` is `protocols`"
        }
        (CLUSTER_POLICY_GROUP, "ClusterNetworkPolicy") => {
            "write apiVersion: policy.networking.k8s.io/v1alpha2"
        }
        ("extensions" | "networking.k8s.io", "NetworkPolicy") => {
            "write apiVersion: networking.k8s.io/v1"
        }
        _ => READ_AS,
    }
}
