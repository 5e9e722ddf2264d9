//! The agent's container image: its static program, and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::image::{Compression, Image, ImageBuilder};

/// Writes the image of the program `binary` as an OCI layout into `layout`, which must not be there yet, named `reference`.
///
/// The same program gives the same bytes, whoever builds it. There is no user database in it: the agent runs as root, the hooks of the chart
/// say by number who they are.
pub fn write(binary: &Path, version: &str, reference: &str, layout: &Path) -> Result<Image> {
    let folder = tempfile::tempdir().context("make a folder for the image's layer")?;
    let program = folder.path().join("stower");
    fs::copy(binary, &program).with_context(|| format!("copy {}", binary.display()))?;
    for path in [folder.path(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let config = json!({
        // Of the host, where the programs are that the agent calls.
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Entrypoint": ["/stower"],
        "Labels": {
            "org.opencontainers.image.title": "stower",
            "org.opencontainers.image.description": "The stower node agent",
            "org.opencontainers.image.version": version,
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    });
    let builder =
        ImageBuilder::new("stower").layer(folder.path(), Compression::Gzip).config(config).owned_by_root();
    builder.reference(reference).write(layout)?;
    Image::open("stower", layout)
}
