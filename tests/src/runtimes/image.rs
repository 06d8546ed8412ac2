//! Container images of a folder, as the package has them.

use std::path::{Path, PathBuf};

#[path = "../../../xtask/src/package/oci.rs"]
mod oci;

use oci::Image;

/// Writes an archive with an image of this name, and returns its path. Its one layer is the
/// folder `root`; its containers run `program`.
///
/// # Panics
///
/// Panics if it cannot be written.
pub(super) fn archive(root: &Path, name: &str, program: &[&str], folder: &Path) -> PathBuf {
    let image = Image {
        root,
        name,
        entrypoint: program,
        architecture: architecture(),
        labels: &[],
        time: 0,
        is_compressed: false,
    };
    let archive = folder.join("image.tar");
    image.write(folder, &archive).expect("an image");
    archive
}

/// Returns the processor's name as Go has it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
