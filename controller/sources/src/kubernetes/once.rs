//! One look at a cluster, for a command that a user runs. Nothing is written, and nothing is
//! followed.
//!
//! Invariant: objects become documents by the same rules as those that an agent follows, the
//! rule for addresses that two pods show among them.

use cofferdam_documents::{Kind, Source};
use cofferdam_syntax::diagnostic::chain;
use kube::Client;
use serde_json::Value;
use thiserror::Error;
use tokio::runtime::Runtime;

use super::connection::{self, ApiError, Form, User, connect_as, plural};
use super::object::{Object, Spec};
use super::store::Store;

/// A failure to look at a cluster.
#[derive(Debug, Error)]
pub enum LookError {
    /// The thread cannot wait for answers.
    #[error("cannot start the runtime: {0}")]
    Runtime(std::io::Error),
    /// There is no way to the server.
    #[error("{problem}")]
    Way {
        /// The reason, and the remedy.
        problem: String,
    },
    /// The server does not let the user list a kind.
    #[error(
        "the API server forbids `list` of `{resource}`: {message}; a role with that verb for it \
         in all namespaces is needed"
    )]
    Forbidden {
        /// Plural and group of the kind: `networkpolicies.networking.k8s.io`.
        resource: String,
        /// The server's sentence.
        message: String,
    },
    /// The server does not have the kind.
    #[error("the API server does not have `{resource}`")]
    Missing {
        /// Plural and group of the kind.
        resource: String,
    },
    /// A kind cannot be listed.
    #[error("cannot list `{resource}`: {problem}")]
    Kind {
        /// Plural and group of the kind.
        resource: String,
        /// The reason.
        problem: String,
    },
}

/// A resource of an API.
#[derive(Debug, Clone, Copy)]
pub struct Resource {
    /// Group and version: `v1`, `cofferdam.dev/v1alpha1`.
    pub api_version: &'static str,
    /// Word in paths and roles: `nodes`.
    pub plural: &'static str,
}

impl Resource {
    /// Returns the resource of a kind that documents are read for.
    #[must_use]
    pub fn of(kind: Kind) -> Self {
        Self {
            api_version: kind.api_version(),
            plural: plural(kind),
        }
    }

    /// Returns the path under which all its objects are listed.
    pub(super) fn path(self) -> String {
        let root = if self.api_version.contains('/') {
            "apis"
        } else {
            "api"
        };
        format!("/{root}/{}/{}", self.api_version, self.plural)
    }

    /// Returns it as roles and errors name it: `networkpolicies.networking.k8s.io`.
    fn name(self) -> String {
        match self.api_version.split_once('/') {
            Some((group, _)) => format!("{}.{group}", self.plural),
            None => self.plural.to_owned(),
        }
    }

    fn error(self, error: ApiError) -> LookError {
        let resource = self.name();
        match error {
            ApiError::Refused {
                code: 403, message, ..
            } => LookError::Forbidden { resource, message },
            ApiError::NotServed => LookError::Missing { resource },
            ApiError::Unreachable { .. } | ApiError::Silent => LookError::Way {
                problem: chain(&error),
            },
            error => LookError::Kind {
                resource,
                problem: chain(&error),
            },
        }
    }
}

/// A cluster, as a user reaches it.
pub struct Cluster {
    client: Client,
    runtime: Runtime,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

impl Cluster {
    /// Makes ready to ask a cluster. A program that the kubeconfig names for credentials is
    /// run.
    ///
    /// # Errors
    /// If there is no usable way to an API server.
    pub fn connect(user: &User) -> Result<Self, LookError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LookError::Runtime)?;
        let client = runtime
            .block_on(connect_as(user))
            .map_err(|error| LookError::Way {
                problem: chain(&error),
            })?;
        Ok(Self { client, runtime })
    }

    /// Lists all objects of a resource as the server has them.
    ///
    /// # Errors
    /// If it cannot be listed; [`LookError::Missing`] if the server does not have it.
    pub fn objects(&self, resource: Resource) -> Result<Vec<Value>, LookError> {
        self.list(resource, Form::Whole)
    }

    /// Lists the metadata of all objects of a resource.
    ///
    /// # Errors
    /// As [`Cluster::objects`].
    pub fn metadata(&self, resource: Resource) -> Result<Vec<Value>, LookError> {
        self.list(resource, Form::Metadata)
    }

    fn list(&self, resource: Resource, form: Form) -> Result<Vec<Value>, LookError> {
        let path = resource.path();
        let listed = connection::list_raw(&self.client, &path, form);
        (self.runtime.block_on(listed)).map_err(|error| resource.error(error))
    }

    /// Lists all objects that documents are read for, as documents in the order of their names.
    ///
    /// # Errors
    /// If a kind cannot be listed. A ClusterNetworkPolicy whose definition is not installed is
    /// no error.
    pub fn documents(&self) -> Result<Vec<Source>, LookError> {
        let mut store = Store::default();
        for kind in Kind::ALL {
            let listed = self.runtime.block_on(async {
                if kind.is_policy() {
                    connection::list::<Object<Value>>(&self.client, kind).await
                } else {
                    connection::list::<Object<Spec>>(&self.client, kind).await
                }
            });
            match listed {
                Ok((objects, _)) => _ = store.replace(kind, objects),
                Err(ApiError::NotServed) if kind == Kind::ClusterNetworkPolicy => {}
                Err(error) => return Err(Resource::of(kind).error(error)),
            }
        }
        let sources = store.sources().values();
        Ok(sources.map(Source::with_text).collect())
    }
}
