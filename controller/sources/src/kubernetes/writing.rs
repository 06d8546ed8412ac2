//! Writes of an agent to the API server: what it tells of itself.
//!
//! A client is made anew after each failure, as for reading. What is written is the caller's;
//! this module knows paths and refusals.
//!
//! Invariant: nothing here waits longer than [`PATIENCE`], and no failure reaches what follows
//! objects.

use cofferdam_syntax::diagnostic::chain;
use std::path::PathBuf;
use std::time::Duration;

use kube::Client;
use kube::api::{GetParams, Patch, PatchParams, PostParams};
use kube::core::request::Request;
use serde_json::Value;
use thiserror::Error;
use tokio::time::timeout;

use super::connection::{ApiError, connect, kube_request};
use super::once::Resource;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The name under which the server keeps account of written fields.
const MANAGER: &str = "cofferdam-agent";

/// A write that was not carried out.
#[derive(Debug, Error)]
pub enum WriteError {
    /// There is an object of that name already.
    #[error("it is there already")]
    Exists,
    /// Somebody else has written since the object was read.
    #[error("the object has been modified since it was read")]
    Conflict,
    /// There is no such object, or the server does not serve its kind.
    #[error("there is no such object, or its kind is not installed")]
    Missing,
    /// Everything else.
    #[error("{problem}")]
    Failed {
        /// The reason.
        problem: String,
    },
}

impl From<ApiError> for WriteError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::NotServed => Self::Missing,
            ApiError::Refused {
                code: 409, reason, ..
            } if reason == "AlreadyExists" => Self::Exists,
            ApiError::Refused { code: 409, .. } => Self::Conflict,
            error => Self::Failed {
                problem: chain(&error),
            },
        }
    }
}

impl Resource {
    fn request(self, namespace: Option<&str>) -> Request {
        let path = self.path();
        match (namespace, path.rsplit_once('/')) {
            (Some(namespace), Some((version, plural))) => {
                Request::new(format!("{version}/namespaces/{namespace}/{plural}"))
            }
            _ => Request::new(path),
        }
    }
}

/// Writes to an API server.
pub struct Writer {
    kubeconfig: Option<PathBuf>,
    client: Option<Client>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    /// Makes ready to write with the credentials of the kubeconfig, `None` for those of the pod
    /// that the agent runs in.
    #[must_use]
    pub fn new(kubeconfig: Option<PathBuf>) -> Self {
        Self {
            kubeconfig,
            client: None,
        }
    }

    /// Returns an object of the whole cluster.
    ///
    /// # Errors
    /// If there is none, or the server does not say.
    pub async fn get(&mut self, resource: Resource, name: &str) -> Result<Value, WriteError> {
        self.send(async |client| {
            let asked = resource.request(None).get(name, &GetParams::default());
            // Not `Client::request`: that logs an answer which it does not understand.
            Ok(client.request_text(asked.map_err(kube_request)?).await?)
        })
        .await
    }

    /// Makes an object of the whole cluster what is said, or makes it.
    ///
    /// # Errors
    /// If the server refuses or does not answer.
    pub async fn apply(
        &mut self,
        resource: Resource,
        name: &str,
        object: &Value,
    ) -> Result<(), WriteError> {
        let params = PatchParams::apply(MANAGER).force();
        self.patch(resource.request(None), name, &params, &Patch::Apply(object))
            .await
    }

    /// Changes an object by a merge patch (RFC 7396). One that names a `resourceVersion` is
    /// refused if somebody has written since.
    ///
    /// # Errors
    /// If the server refuses or does not answer.
    pub async fn merge(
        &mut self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        patch: &Value,
    ) -> Result<(), WriteError> {
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.patch(
            resource.request(namespace),
            name,
            &params,
            &Patch::Merge(patch),
        )
        .await
    }

    async fn patch(
        &mut self,
        request: Request,
        name: &str,
        params: &PatchParams,
        patch: &Patch<&Value>,
    ) -> Result<(), WriteError> {
        self.send(async |client| {
            let asked = request.patch(name, params, patch);
            Ok(client.request_text(asked.map_err(kube_request)?).await?)
        })
        .await
        .map(drop)
    }

    /// Makes an object.
    ///
    /// # Errors
    /// If there is one of that name, or the server refuses or does not answer.
    pub async fn create(
        &mut self,
        resource: Resource,
        namespace: Option<&str>,
        object: &Value,
    ) -> Result<(), WriteError> {
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        self.send(async |client| {
            let body = object.to_string().into_bytes();
            let asked = resource.request(namespace).create(&params, body);
            Ok(client.request_text(asked.map_err(kube_request)?).await?)
        })
        .await
        .map(drop)
    }

    /// Asks with a client that is kept while it is good.
    async fn send(
        &mut self,
        ask: impl AsyncFnOnce(&Client) -> Result<String, ApiError>,
    ) -> Result<Value, WriteError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => connect(self.kubeconfig.as_deref()).await?,
        };
        let answer = timeout(PATIENCE, ask(&client))
            .await
            .unwrap_or(Err(ApiError::Silent));
        // The server has answered: the client is good.
        let is_good = match &answer {
            Ok(_) | Err(ApiError::NotServed) => true,
            Err(ApiError::Refused { code, .. }) => *code != 401,
            Err(_) => false,
        };
        if is_good {
            self.client = Some(client);
        }
        let value: Value = serde_json::from_str(&answer?).map_err(ApiError::from)?;
        Ok(value)
    }
}
