//! The owner of a pod: the workload of which it is one replica.
//!
//! Documents of a cluster name the owner of a pod in fields that policies have no use
//! for. The labels that Kubernetes' own controllers put on their pods say it as well.

use cofferdam_inventory::{ObjectName, Workload};

/// Label of a Deployment's pods, with the hash that is part of their names.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// Labels of a StatefulSet's pods, which end in their number.
const NUMBERED: [&str; 2] = [
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
];
/// Label of the pods of a DaemonSet, which are called by it and five characters, and of a
/// StatefulSet.
const REVISION_HASH: &str = "controller-revision-hash";
/// Labels of a Job's pods, with its name.
const JOB: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// Least digits by which a CronJob numbers its Jobs: minutes since 1970.
const MINUTES: usize = 8;

/// The workload that a pod belongs to: itself if nothing says another.
pub(super) fn owner(pod: &Workload) -> ObjectName {
    let name = &*pod.name.name;
    let label = |key: &str| pod.labels.get(key);
    let any = |keys: [&str; 2]| keys.into_iter().find_map(label);
    let found = if let Some(hash) = label(TEMPLATE_HASH) {
        (name.rsplit_once('-')).and_then(|(front, _)| front.strip_suffix(hash)?.strip_suffix('-'))
    } else if any(NUMBERED).is_some() {
        without_number(name, 1)
    } else if label(REVISION_HASH).is_some() {
        name.rsplit_once('-').map(|(front, _)| front)
    } else if let Some(job) = any(JOB) {
        let is_of_job = name
            .strip_prefix(job)
            .is_some_and(|rest| rest.starts_with('-'));
        is_of_job.then(|| without_number(job, MINUTES).unwrap_or(job))
    } else {
        None
    };
    match found.filter(|owner| !owner.is_empty()) {
        Some(owner) => ObjectName::new(&pod.name.namespace, owner),
        None => pod.name.clone(),
    }
}

/// A name before its `-` and so many digits or more.
fn without_number(name: &str, least: usize) -> Option<&str> {
    let (front, number) = name.rsplit_once('-')?;
    let is_number = number.len() >= least && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(front)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_inventory::selectors::Labels;

    fn owned_by(name: &str, labels: &[(&str, &str)]) -> String {
        let labels = Labels::from_iter(labels.iter().copied());
        let pod = Workload::supposed(ObjectName::new("shop", name), labels);
        owner(&pod).name.to_string()
    }

    #[test]
    fn replicas_belong_to_what_made_them() {
        for (name, labels, owner) in [
            (
                "web-5d4f-x7k2p",
                &[("pod-template-hash", "5d4f")][..],
                "web",
            ),
            (
                "db-0",
                &[("statefulset.kubernetes.io/pod-name", "db-0")],
                "db",
            ),
            ("db-10", &[("apps.kubernetes.io/pod-index", "10")], "db"),
            ("log-q8zkd", &[("controller-revision-hash", "77c")], "log"),
            ("dump-tz4kq", &[("job-name", "dump")], "dump"),
            (
                "dump-29012345-tz4kq",
                &[("job-name", "dump-29012345")],
                "dump",
            ),
        ] {
            assert_eq!(owned_by(name, labels), owner);
        }
    }

    #[test]
    fn a_pod_that_nothing_says_more_of_stands_for_itself() {
        for (name, labels) in [
            ("web-1", &[][..]),
            ("web", &[("pod-template-hash", "5d4f")]),
            ("other-0abc", &[("job-name", "dump")]),
            ("web-1-1", &[("pod-template-hash", "2")]),
        ] {
            assert_eq!(owned_by(name, labels), name);
        }
    }
}
