//! The way to an API server: where it is, who the agent is there, and questions.
//!
//! A client is made anew after each failure, so that a kubeconfig or certificate that was
//! replaced counts at the next try; tokens in files are read again while it lives.
//!
//! Invariant: no error text has anything of a kubeconfig or an answer in it, which may hold
//! secrets.

use cofferdam_syntax::diagnostic::chain;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam_documents::Kind;
use futures_util::{Stream, StreamExt as _};
use kube::Client;
use kube::api::{GetParams, ListParams, WatchParams};
use kube::client::AuthError;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::core::request::Request;
use kube::core::{Status, WatchEvent, watch::Bookmark};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use tokio::time::timeout;

use super::object::{Object, Page, PageMetadata, Read, Spec, Stripped};

/// Longest wait for a connection, or for the first words of an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for a page of a list.
const PAGE_PATIENCE: Duration = Duration::from_secs(60);
/// Objects of a page: a page is in memory whole, a list never is.
const PAGE: u32 = 500;
/// Annotation of the bookmark behind the last object of a list that is streamed.
const END_OF_LIST: &str = "k8s.io/initial-events-end";

/// A question that was not answered.
#[derive(Debug, Error)]
pub(super) enum ApiError {
    /// The kubeconfig cannot be opened.
    #[error(
        "cannot read the kubeconfig {} (set `kubernetes.kubeconfig`, or `--kubeconfig` of a \
         command)",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
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
    /// A user has no kubeconfig.
    #[error("there is no kubeconfig: give `--kubeconfig FILE`, or set KUBECONFIG")]
    NoKubeconfig,
    /// The kubeconfig has no such context.
    #[error("there is no context `{context}` in {}: it has {known}", path.display())]
    NoContext {
        /// The file.
        path: PathBuf,
        /// The name that was asked for.
        context: String,
        /// The names that there are.
        known: String,
    },
    /// The program that gives a user's credentials fails.
    #[error("the program that the kubeconfig names for credentials fails: {cause}")]
    ProgramFails {
        /// Reason, as far as it is known, without its output.
        cause: String,
    },
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
    let config = match kubeconfig {
        None => Config::incluster().map_err(|_| ApiError::NotInCluster)?,
        Some(path) => read(path).await?,
    };
    client(config)
}

fn client(mut config: Config) -> Result<Client, ApiError> {
    config.connect_timeout = Some(PATIENCE);
    config.write_timeout = Some(PATIENCE);
    let program = config
        .auth_info
        .exec
        .as_ref()
        .and_then(|exec| exec.command.clone())
        .unwrap_or_else(|| "it".to_owned());
    Client::try_from(config).map_err(|error| match error {
        kube::Error::Auth(AuthError::AuthExecStart(cause)) => ApiError::ProgramFails {
            cause: cause.to_string(),
        },
        // Neither its output is told nor its arguments and environment: they may be secrets.
        kube::Error::Auth(AuthError::AuthExecRun { out, .. }) => ApiError::ProgramFails {
            cause: format!("{program} ended with {}", out.status),
        },
        kube::Error::Auth(AuthError::AuthExecParse(_) | AuthError::ExecPluginFailed) => {
            ApiError::ProgramFails {
                cause: "its output is no ExecCredential".to_owned(),
            }
        }
        _ => ApiError::Credentials,
    })
}

/// A user's way to an API server, as kubectl finds it.
#[derive(Debug, Clone, Default)]
pub struct User {
    /// The kubeconfig; `None` takes those of KUBECONFIG, `~/.kube/config`, or the service
    /// account of the pod that the command runs in, in this order.
    pub kubeconfig: Option<PathBuf>,
    /// The context; `None` takes the current one.
    pub context: Option<String>,
}

/// Makes a client for a user. A program that the kubeconfig names for credentials is run.
pub(super) async fn connect_as(user: &User) -> Result<Client, ApiError> {
    let (path, kubeconfig) = match &user.kubeconfig {
        Some(path) => (path.clone(), read_file(path)?),
        None => match of_environment()? {
            Some(found) => found,
            None => {
                let config = Config::incluster().map_err(|_| ApiError::NoKubeconfig)?;
                return client(config);
            }
        },
    };
    if let Some(context) = &user.context
        && !kubeconfig.contexts.iter().any(|one| one.name == *context)
    {
        let known: Vec<&str> = (kubeconfig.contexts.iter())
            .map(|one| one.name.as_str())
            .collect();
        return Err(ApiError::NoContext {
            path,
            context: context.clone(),
            known: match known.is_empty() {
                true => "none".to_owned(),
                false => known.join(", "),
            },
        });
    }
    let options = KubeConfigOptions {
        context: user.context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    client(config.map_err(|_| ApiError::Kubeconfig { path })?)
}

/// Returns the kubeconfig that a user's environment names, with the path to tell of it.
fn of_environment() -> Result<Option<(PathBuf, Kubeconfig)>, ApiError> {
    if let Some(value) = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()) {
        let path = PathBuf::from(value);
        return match Kubeconfig::from_env() {
            Ok(found) => Ok(found.map(|kubeconfig| (path, kubeconfig))),
            Err(_) => Err(ApiError::Kubeconfig { path }),
        };
    }
    let path = std::env::home_dir().map(|home| home.join(".kube/config"));
    match path.filter(|path| path.exists()) {
        Some(path) => Ok(Some((path.clone(), read_file(&path)?))),
        None => Ok(None),
    }
}

fn read_file(path: &Path) -> Result<Kubeconfig, ApiError> {
    // Checked before kube reads it, whose errors would show parts of the file.
    fs::metadata(path).map_err(|source| ApiError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    Kubeconfig::read_from(path).map_err(|_| ApiError::Kubeconfig {
        path: path.to_owned(),
    })
}

async fn read(path: &Path) -> Result<Config, ApiError> {
    let kubeconfig = read_file(path)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|_| ApiError::Kubeconfig {
            path: path.to_owned(),
        })?;
    if config.auth_info.exec.is_some() || config.auth_info.auth_provider.is_some() {
        return Err(ApiError::Program {
            path: path.to_owned(),
        });
    }
    Ok(config)
}

/// Returns the word for objects of a kind in paths and roles.
pub(super) fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "namespaces",
        Kind::Node => "nodes",
        Kind::Pod => "pods",
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices",
        Kind::NetworkPolicy => "networkpolicies",
        Kind::ClusterNetworkPolicy => "clusternetworkpolicies",
    }
}

/// Returns the path under which objects of a kind are listed.
fn path_of(kind: Kind, namespace: Option<&str>) -> String {
    let plural = plural(kind);
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
        let text = timeout(PAGE_PATIENCE, client.request_text(asked))
            .await
            .map_err(|_| ApiError::Silent)??;
        let page: Page<O> = serde_json::from_str(&text)?;
        let (metadata, items) = page.strip_to(kind);
        objects.extend(items);
        match metadata.next.filter(|next| !next.is_empty()) {
            Some(next) => params = params.continue_token(&next),
            None => return Ok((objects, metadata.resource_version)),
        }
    }
}

/// Form in which objects are listed whose kind is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Whole objects.
    Whole,
    /// Their metadata alone.
    Metadata,
}

/// Lists all objects under a path, page by page, as they are.
pub(super) async fn list_raw(
    client: &Client,
    path: &str,
    form: Form,
) -> Result<Vec<Value>, ApiError> {
    #[derive(Deserialize)]
    struct RawPage {
        metadata: PageMetadata,
        #[serde(default)]
        items: Vec<Value>,
    }
    let request = Request::new(path);
    let mut objects = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let asked = match form {
            Form::Whole => request.list(&params),
            Form::Metadata => request.list_metadata(&params),
        };
        let asked = asked.map_err(kube_request)?;
        let text = timeout(PAGE_PATIENCE, client.request_text(asked))
            .await
            .map_err(|_| ApiError::Silent)??;
        let page: RawPage = serde_json::from_str(&text)?;
        objects.extend(page.items);
        match page.metadata.next.filter(|next| !next.is_empty()) {
            Some(next) => params = params.continue_token(&next),
            None => return Ok(objects),
        }
    }
}

/// Begins to watch a kind from a version on, for some seconds. The server tells now and then
/// how far the watch has come. Without a version it tells all objects first, and by a bookmark
/// ([`is_end_of_list`]) that those were all (KEP-3157).
pub(super) async fn watch<O: Read>(
    client: &Client,
    kind: Kind,
    version: Option<&str>,
    seconds: u32,
) -> Result<impl Stream<Item = Result<WatchEvent<O>, ApiError>> + use<O>, ApiError> {
    let request = Request::new(path_of(kind, None));
    let mut params = WatchParams::default().timeout(seconds);
    if version.is_none() {
        params = params.initial_events();
    }
    // The empty version is the newest one that there is when the question comes.
    let version = version.unwrap_or_default();
    let asked = request.watch(&params, version).map_err(kube_request)?;
    let events = timeout(PATIENCE, client.request_events::<O>(asked))
        .await
        .map_err(|_| ApiError::Silent)??;
    Ok(events.map(|event| event.map_err(ApiError::from)))
}

/// Returns `true` if a bookmark says that all objects have been told that there were.
pub(super) fn is_end_of_list(bookmark: &Bookmark) -> bool {
    let mark = bookmark.metadata.annotations.get(END_OF_LIST);
    mark.is_some_and(|mark| mark == "true")
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
    let text = timeout(PATIENCE, client.request_text(asked))
        .await
        .map_err(|_| ApiError::Silent)??;
    let Groups { groups } = serde_json::from_str(&text)?;
    let mut versions = groups.iter().flat_map(|group| &group.versions);
    Ok(versions.any(|version| version.group_version == kind.api_version()))
}

pub(super) fn kube_request(error: kube::core::request::Error) -> ApiError {
    ApiError::Unreachable {
        cause: chain(&error),
    }
}
