//! The DaemonSet whose pods protect nodes: its pods ask, when they end, if it is to go.

use std::path::Path;
use std::str::FromStr;

use cofferdam_syntax::names;
use serde::Deserialize;
use thiserror::Error;

use super::connection::{ApiError, connect, object};

/// Name of a DaemonSet, `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonSet {
    namespace: String,
    name: String,
}

/// The API server has not said if a DaemonSet is there.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct Unanswered(#[from] ApiError);

impl FromStr for DaemonSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, name) = (text.split_once('/')).ok_or("write NAMESPACE/NAME")?;
        names::dns_label(namespace).map_err(|reason| reason.to_string())?;
        names::subdomain(name).map_err(|reason| reason.to_string())?;
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

#[derive(Deserialize)]
struct Found {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    deletion_timestamp: Option<String>,
}

impl DaemonSet {
    /// Asks if it has been removed: it is not there, is being deleted, or who asks has no right
    /// to know any more. Roles and service accounts are removed with the DaemonSet, so that a
    /// refusal is what one that goes hears. Without a kubeconfig, as the pod that this runs in.
    ///
    /// # Errors
    /// When the API server cannot be reached, or gives an answer that says neither.
    pub async fn is_removed(&self, kubeconfig: Option<&Path>) -> Result<bool, Unanswered> {
        let client = connect(kubeconfig).await?;
        let path = format!("/apis/apps/v1/namespaces/{}/daemonsets", self.namespace);
        match object(&client, &path, &self.name).await {
            Ok(text) => {
                let found: Found = serde_json::from_str(&text).map_err(ApiError::from)?;
                Ok(found.metadata.deletion_timestamp.is_some())
            }
            Err(
                ApiError::NotServed
                | ApiError::Refused {
                    code: 401 | 403, ..
                },
            ) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_set_has_a_namespace_and_a_name() {
        let set: DaemonSet = "a/b.c".parse().expect("a name");
        assert_eq!((&*set.namespace, &*set.name), ("a", "b.c"));
        for wrong in ["", "a", "a/", "/b", "a/b/c", "A/b", "a.b/c", "a/b?x=1"] {
            assert!(wrong.parse::<DaemonSet>().is_err(), "{wrong}");
        }
    }
}
