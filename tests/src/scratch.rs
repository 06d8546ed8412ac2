//! A folder for a test's files, gone when the test is.

use std::{fs::Permissions, os::unix::fs::PermissionsExt as _, path::Path};

use tempfile::{Builder, TempDir};

/// An empty folder of its own.
#[derive(Debug)]
pub struct Scratch(TempDir);

impl Scratch {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be made.
    #[expect(clippy::new_without_default, reason = "making one has an effect")]
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// Makes one within another folder.
    ///
    /// # Panics
    ///
    /// Panics if it cannot be made.
    pub fn within(folder: &Path) -> Self {
        let made = Builder::new()
            .prefix("cofferdam-test-")
            // Containers read there, of any user.
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(folder);
        Self(made.unwrap_or_else(|error| panic!("{}: {error}", folder.display())))
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}
