//! A container image in the OCI layout, made of a folder.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Writes an archive with an image of this name, and returns its path. Its one layer is the
/// folder `root`; its containers run `program`.
pub(super) fn archive(root: &Path, name: &str, program: &[&str], folder: &Path) -> PathBuf {
    let layout = folder.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a folder");
    let layer = folder.join("layer.tar");
    pack(root, &layer);
    let layer = blob(&blobs, LAYER, &layer);
    let document = |media_type: &str, document: &Value| {
        let file = folder.join("document");
        fs::write(&file, document.to_string()).expect("a file");
        blob(&blobs, media_type, &file)
    };
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Entrypoint": program},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": document(CONFIG, &config),
        "layers": [layer],
    });
    let mut manifest = document(MANIFEST, &manifest);
    manifest["annotations"] = json!({"io.containerd.image.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    let version = json!({"imageLayoutVersion": "1.0.0"});
    for (name, document) in [("index.json", index), ("oci-layout", version)] {
        fs::write(layout.join(name), document.to_string()).expect("a file");
    }
    let archive = folder.join("image.tar");
    pack(&layout, &archive);
    archive
}

/// Moves a file to where its digest says, and returns its descriptor.
fn blob(blobs: &Path, media_type: &str, file: &Path) -> Value {
    let size = fs::metadata(file).expect("a file").len();
    let sum = Command::new("sha256sum")
        .arg(file)
        .process_group(0)
        .output();
    let sum = String::from_utf8(sum.expect("it can be run").stdout).expect("text");
    let digest = sum.split_whitespace().next().expect("a digest");
    fs::rename(file, blobs.join(digest)).expect("one file system");
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size})
}

fn pack(folder: &Path, archive: &Path) {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--owner=0", "--group=0", "--file"]);
    tar.arg(archive).arg("--directory").arg(folder).arg(".");
    tar.process_group(0);
    assert!(tar.status().expect("it can be run").success(), "{tar:?}");
}

/// Returns the processor's name as Go has it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
