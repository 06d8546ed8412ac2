//! The way to an API server: where it is, who the agent is there, and questions.
//!
//! A client is made anew after each failure, so that a kubeconfig or certificate that was
//! replaced counts at the next try; tokens in files are read again while it lives.
//!
//! Invariant: no error text has anything of a kubeconfig or an answer in it, which may hold
//! secrets.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam_policies::documents::Kind;
use futures_util::{Stream, StreamExt as _};
use kube::Client;
use kube::api::{GetParams, ListParams, WatchParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::core::request::Request;
use kube::core::{Status, WatchEvent};
use serde::Deserialize;
use thiserror::Error;
use tokio::time::timeout;

use super::object::{Object, Page, Read, Spec, Stripped};

/// Longest wait for a connection, or for the first words of an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for a page of a list.
const PAGE_PATIENCE: Duration = Duration::from_secs(60);
/// Objects of a page: a page is in memory whole, a list never is.
const PAGE: u32 = 500;

/// A question that was not answered.
#[derive(Debug, Error)]
pub(super) enum ApiError {
    /// The kubeconfig cannot be opened.
    #[error("cannot read the kubeconfig {}: {cause}; set `kubernetes.kubeconfig`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's own words.
        cause: std::io::Error,
    },
    /// The kubeconfig is none. Its reader would show parts of it.
    #[error("{} is not a valid kubeconfig with a current context", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
    },
    /// The kubeconfig wants programs to be run.
    #[error(
        "{} gets its credentials from a program, and the agent runs none: give it a token, a \
         token's file or a client certificate",
        path.display()
    )]
    Program {
        /// The file.
        path: PathBuf,
    },
    /// There is no kubeconfig, and no service account.
    #[error("the agent is in no pod with a service account: set `kubernetes.kubeconfig`")]
    NotInCluster,
    /// A client cannot be made of the configuration.
    #[error("the kubeconfig's certificates or keys are not usable")]
    Credentials,
    /// No version of the API from which was asked is kept any more.
    #[error("the API server has forgotten the version to go on from")]
    Gone,
    /// The server does not have the kind.
    #[error("the API server does not serve this kind")]
    NotServed,
    /// The server refuses.
    #[error("the API server says {code} {reason}: {message}")]
    Refused {
        /// The status of HTTP.
        code: u16,
        /// Its word.
        reason: String,
        /// Its sentence.
        message: String,
    },
    /// No answer in time.
    #[error("the API server gives no answer")]
    Silent,
    /// The connection fails.
    #[error("cannot reach the API server: {cause}")]
    Unreachable {
        /// The innermost cause.
        cause: String,
    },
    /// The answer is not of the form that was asked for.
    #[error("the answer of the API server is not understood (line {line}, column {column})")]
    Strange {
        /// Line in the answer's text.
        line: usize,
        /// Column in the answer's text.
        column: usize,
    },
}

impl From<Status> for ApiError {
    fn from(status: Status) -> Self {
        match status.code {
            410 => Self::Gone,
            404 => Self::NotServed,
            code => Self::Refused {
                code,
                reason: status.reason,
                message: status.message,
            },
        }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from(*status),
            kube::Error::SerdeError(error) => Self::from(error),
            error => {
                let mut cause: &dyn std::error::Error = &error;
                while let Some(source) = cause.source() {
                    cause = source;
                }
                Self::Unreachable {
                    cause: cause.to_string(),
                }
            }
        }
    }
}

impl From<serde_json::Error> for ApiError {
    fn from(error: serde_json::Error) -> Self {
        Self::Strange {
            line: error.line(),
            column: error.column(),
        }
    }
}

/// Makes a client by a kubeconfig, or for the pod that the agent runs in.
pub(super) async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ApiError> {
    let mut config = match kubeconfig {
        None => Config::incluster().map_err(|_| ApiError::NotInCluster)?,
        Some(path) => read(path).await?,
    };
    config.connect_timeout = Some(PATIENCE);
    config.write_timeout = Some(PATIENCE);
    Client::try_from(config).map_err(|_| ApiError::Credentials)
}

async fn read(path: &Path) -> Result<Config, ApiError> {
    // Checked before kube reads it, whose errors would show parts of the file.
    fs::metadata(path).map_err(|cause| ApiError::Unreadable {
        path: path.to_owned(),
        cause,
    })?;
    let wrong = || ApiError::Kubeconfig {
        path: path.to_owned(),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(|_| wrong())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let config = config.map_err(|_| wrong())?;
    if config.auth_info.exec.is_some() || config.auth_info.auth_provider.is_some() {
        return Err(ApiError::Program {
            path: path.to_owned(),
        });
    }
    Ok(config)
}

/// Returns the path under which objects of a kind are listed.
fn path_of(kind: Kind, namespace: Option<&str>) -> String {
    let plural = match kind {
        Kind::Namespace => "namespaces",
        Kind::Node => "nodes",
        Kind::Pod => "pods",
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices",
        Kind::NetworkPolicy => "networkpolicies",
        Kind::ClusterNetworkPolicy => "clusternetworkpolicies",
    };
    let version = kind.api_version();
    let root = if version.contains('/') { "apis" } else { "api" };
    let within = namespace.map(|namespace| format!("/namespaces/{namespace}"));
    format!("/{root}/{version}{}/{plural}", within.unwrap_or_default())
}

/// Lists all objects of a kind, page by page. Returns them with the version to watch from.
pub(super) async fn list<O: Read>(
    client: &Client,
    kind: Kind,
) -> Result<(Vec<Stripped>, String), ApiError> {
    let request = Request::new(path_of(kind, None));
    let mut objects = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let asked = request.list(&params).map_err(kube_request)?;
        // Not `Client::request`: that logs an answer which it does not understand.
        let text = timeout(PAGE_PATIENCE, client.request_text(asked)).await;
        let text = text.map_err(|_| ApiError::Silent)??;
        let page: Page<O> = serde_json::from_str(&text)?;
        let (metadata, items) = page.strip_to(kind);
        objects.extend(items);
        match metadata.next.filter(|next| !next.is_empty()) {
            Some(next) => params = params.continue_token(&next),
            None => return Ok((objects, metadata.resource_version)),
        }
    }
}

/// Begins to watch a kind from a version on, for some seconds. The server tells now and then
/// how far the watch has come.
pub(super) async fn watch<O: Read>(
    client: &Client,
    kind: Kind,
    version: &str,
    seconds: u32,
) -> Result<impl Stream<Item = Result<WatchEvent<O>, ApiError>> + use<O>, ApiError> {
    let request = Request::new(path_of(kind, None));
    let params = WatchParams::default().timeout(seconds);
    let asked = request.watch(&params, version).map_err(kube_request)?;
    let events = timeout(PATIENCE, client.request_events::<O>(asked)).await;
    let events = events.map_err(|_| ApiError::Silent)??;
    Ok(events.map(|event| event.map_err(ApiError::from)))
}

/// Asks for one pod.
pub(super) async fn pod(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<Stripped, ApiError> {
    let request = Request::new(path_of(Kind::Pod, Some(namespace)));
    let asked = request.get(name, &GetParams::default());
    let text = client.request_text(asked.map_err(kube_request)?).await?;
    let object: Object<Spec> = serde_json::from_str(&text)?;
    Ok(object.strip_to(Kind::Pod))
}

/// Asks for one object by its path, and returns its text.
pub(super) async fn object(client: &Client, path: &str, name: &str) -> Result<String, ApiError> {
    let asked = Request::new(path).get(name, &GetParams::default());
    let text = client.request_text(asked.map_err(kube_request)?);
    let text = timeout(PATIENCE, text).await;
    Ok(text.map_err(|_| ApiError::Silent)??)
}

/// Asks for the server's version, which says that it is there.
pub(super) async fn version(client: &Client) -> Result<(), ApiError> {
    let request = Request::new("/version");
    let asked = request.list(&ListParams::default()).map_err(kube_request)?;
    client.request_text(asked).await?;
    Ok(())
}

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    versions: Vec<Version>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    group_version: String,
}

/// Asks if the server knows the group and version of a kind at all. One that starts says
/// "not found" of a kind whose definition it has yet to read.
pub(super) async fn is_served(client: &Client, kind: Kind) -> Result<bool, ApiError> {
    let request = Request::new("/apis");
    let asked = request.list(&ListParams::default()).map_err(kube_request)?;
    let text = timeout(PATIENCE, client.request_text(asked)).await;
    let text = text.map_err(|_| ApiError::Silent)??;
    let Groups { groups } = serde_json::from_str(&text)?;
    let mut versions = groups.iter().flat_map(|group| &group.versions);
    Ok(versions.any(|version| version.group_version == kind.api_version()))
}

fn kube_request(error: kube::core::request::Error) -> ApiError {
    ApiError::Unreachable {
        cause: error.to_string(),
    }
}
