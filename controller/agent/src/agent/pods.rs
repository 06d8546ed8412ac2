//! Pods that kubelets start: none is put in force before its labels are known.
//!
//! The wait is here and not in the thread that reconciles, so that nobody else waits. What
//! that thread then reads has the pod: the source tells it of the pod before anybody who
//! waits for it.

use std::sync::Arc;

use cofferdam_answers::Reply;
use cofferdam_protocol::EndpointSpec;
use cofferdam_sources::kubernetes::Kubernetes;

/// The pods of a node, as the API server has them.
#[derive(Debug, Clone)]
pub(super) struct PodsOfNode {
    api: Arc<Kubernetes>,
    node: Arc<str>,
}

impl PodsOfNode {
    pub(super) fn new(api: Arc<Kubernetes>, node: &str) -> Self {
        Self {
            api,
            node: node.into(),
        }
    }

    /// Waits until a pod's labels are known. Returns the answer of a caller who is refused,
    /// because they are not or the pod is another node's; `None` if the endpoint can be added.
    pub(super) async fn refusal(&self, spec: &EndpointSpec) -> Option<Reply> {
        let pod = spec.pod.as_ref()?;
        let EndpointSpec {
            namespace, name, ..
        } = spec;
        let node = match self.api.pod(namespace, name, pod.uid.as_deref()).await {
            Ok(found) => found.node.unwrap_or_default(),
            Err(message) => {
                tracing::warn!("a pod is to be tried again: {message}");
                return Some(Reply::TryAgain { message });
            }
        };
        (*node != *self.node).then(|| Reply::Failed {
            message: format!(
                "pod {namespace}/{name} is bound to node {node}, and this agent is of node {}: \
                 set `node.name` to the name that the kubelet has",
                self.node
            ),
        })
    }
}
