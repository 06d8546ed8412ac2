//! Reads the configuration from its file, and adds what the command line says.

use std::io;
use std::path::PathBuf;

use cofferdam_syntax::diagnostic::Diagnostic;
use thiserror::Error;

use super::{Config, parse};

/// Reason for having no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// The file has mistakes.
    #[error("the configuration is not valid")]
    Mistakes(Vec<Diagnostic>),
}

/// The command line's part in the configuration.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The file; without one every key has its default.
    pub file: Option<PathBuf>,
    /// Sets `accept_partial`, whatever the file says.
    pub accept_partial: bool,
    /// The node's name, whatever the file says: one that Kubernetes documents can have.
    pub node_name: Option<String>,
}

impl Given {
    /// Reads the configuration.
    ///
    /// # Errors
    /// When the file cannot be read, or has mistakes.
    pub fn read(&self) -> Result<Config, ConfigError> {
        let mut config = match &self.file {
            None => Config::default(),
            Some(path) => {
                let failed = |source| ConfigError::Read {
                    path: path.clone(),
                    source,
                };
                let bytes = std::fs::read(path).map_err(failed)?;
                parse(&path.to_string_lossy(), &bytes).map_err(ConfigError::Mistakes)?
            }
        };
        config.accept_partial |= self.accept_partial;
        if let Some(name) = &self.node_name {
            name.clone_into(&mut config.node.name);
        }
        Ok(config)
    }
}
