//! Container images as archives of the OCI image layout, one layer each.
//!
//! The source of this file is part of the tests as well, which make images for containers of
//! their own. See the OCI image specification, `image-layout.md` and `config.md`.

use std::fs::{self, File};
use std::io::{Error, Result};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const PLAIN_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image.
pub(crate) struct Image<'a> {
    /// Folder whose contents are the root of its containers.
    pub root: &'a Path,
    /// Its name, with a tag.
    pub name: &'a str,
    /// Program that its containers run.
    pub entrypoint: &'a [&'a str],
    /// The processor's name as Go has it.
    pub architecture: &'a str,
    /// Labels of the image, such as `org.opencontainers.image.version`.
    pub labels: &'a [(&'a str, &'a str)],
    /// Time of everything in it, in seconds since 1970.
    pub time: u64,
    /// Compresses the layer, as registries have them.
    pub is_compressed: bool,
}

impl Image<'_> {
    /// Writes an archive. An empty folder is filled on the way there.
    ///
    /// # Errors
    /// When a file cannot be written, or `tar`, `gzip` or `sha256sum` fail.
    pub(crate) fn write(&self, folder: &Path, archive: &Path) -> Result<()> {
        let layout = folder.join("layout");
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let layer = folder.join("layer.tar");
        self.pack(self.root, &layer)?;
        let diff_id = format!("sha256:{}", digest(&layer)?);
        let layer = match self.is_compressed {
            true => blob(&blobs, LAYER, &gzip(&layer)?)?,
            false => blob(&blobs, PLAIN_LAYER, &layer)?,
        };
        let document = |media_type: &str, document: &Value| {
            let file = folder.join("document");
            fs::write(&file, document.to_string())?;
            blob(&blobs, media_type, &file)
        };
        let labels: serde_json::Map<_, _> = (self.labels.iter())
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin"], "Entrypoint": self.entrypoint, "Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": document(CONFIG, &config)?,
            "layers": [layer],
        });
        let mut manifest = document(MANIFEST, &manifest)?;
        manifest["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        // containerd takes the whole name from the first, others from the second.
        manifest["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.name,
        });
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        let version = json!({"imageLayoutVersion": "1.0.0"});
        for (name, document) in [("index.json", index), ("oci-layout", version)] {
            fs::write(layout.join(name), document.to_string())?;
        }
        self.pack(&layout, archive)
    }

    /// Packs a folder's contents, the same bytes for the same contents.
    fn pack(&self, folder: &Path, archive: &Path) -> Result<()> {
        let mut tar = Command::new("tar");
        tar.args(["--create", "--sort=name", "--format=gnu", "--numeric-owner"])
            .args(["--owner=0", "--group=0", &format!("--mtime=@{}", self.time)])
            .arg("--file")
            .arg(archive)
            .arg("--directory")
            .arg(folder)
            .arg(".");
        run(&mut tar).map(drop)
    }
}

fn gzip(file: &Path) -> Result<PathBuf> {
    let packed = file.with_extension("tar.gz");
    let mut gzip = Command::new("gzip");
    gzip.args(["--no-name", "--best", "--stdout"]).arg(file);
    gzip.stdout(File::create(&packed)?);
    run(&mut gzip)?;
    Ok(packed)
}

fn digest(file: &Path) -> Result<String> {
    let mut sum = Command::new("sha256sum");
    sum.arg(file).stdout(Stdio::piped());
    let sum = String::from_utf8_lossy(&run(&mut sum)?).into_owned();
    let digest = sum.split_whitespace().next();
    Ok(digest.unwrap_or_default().to_owned())
}

/// Moves a file to where its digest says, and returns its descriptor.
fn blob(blobs: &Path, media_type: &str, file: &Path) -> Result<Value> {
    let size = fs::metadata(file)?.len();
    let digest = digest(file)?;
    fs::rename(file, blobs.join(&digest))?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size}))
}

/// Runs a program; a terminal's interrupt does not reach it.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.process_group(0).spawn()?.wait_with_output()?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(Error::other(format!("{command:?}: {}", output.status))),
    }
}
