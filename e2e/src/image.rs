//! OCI images made from folders, kept as OCI layouts in the cache.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{cache, process};

/// Raise it when the way images are written changes, so that older ones are not used.
const FORMAT: &str = "3";

/// The architecture that images say they are for, in the words of the OCI specification.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// gzip, as nearly all images.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// An image in an OCI layout folder.
#[derive(Clone, Debug)]
pub struct Image {
    /// The repository it is pushed to, for example `redis`.
    pub name: String,
    /// The OCI layout folder.
    pub layout: PathBuf,
    /// The manifest's digest, with `sha256:`.
    pub digest: String,
}

impl Image {
    /// The one image of a layout.
    pub fn open(name: &str, layout: &Path) -> Result<Self> {
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
        let digest = index["manifests"][0]["digest"].as_str().context("an index without a manifest")?;
        Ok(Self { name: name.to_owned(), layout: layout.to_owned(), digest: digest.to_owned() })
    }

    /// The manifest as JSON.
    pub fn manifest(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.blob(&self.digest)?)?)?)
    }

    /// The path of a blob.
    pub fn blob(&self, digest: &str) -> Result<PathBuf> {
        let hex = digest.strip_prefix("sha256:").with_context(|| format!("{digest} is no sha256 digest"))?;
        Ok(self.layout.join("blobs/sha256").join(hex))
    }

    /// Descriptors of the configuration and of all layers.
    pub fn parts(&self) -> Result<Vec<Value>> {
        let manifest = self.manifest()?;
        let mut parts = vec![manifest["config"].clone()];
        parts.extend(manifest["layers"].as_array().context("a manifest without layers")?.iter().cloned());
        Ok(parts)
    }

    /// Writes the layout as one tar file, an OCI archive.
    pub fn write_oci_archive(&self, to: &Path) -> Result<()> {
        tar(&self.layout, to, true)
    }

    /// Writes it as `docker save` does.
    pub fn write_docker_archive(&self, tag: &str, to: &Path) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let manifest = self.manifest()?;
        let mut layers = Vec::new();
        for (number, layer) in manifest["layers"].as_array().context("no layers")?.iter().enumerate() {
            let name = format!("layer{number}.tar");
            let blob = self.blob(layer["digest"].as_str().context("a layer without digest")?)?;
            let zstd = layer["mediaType"].as_str().is_some_and(|kind| kind.ends_with("zstd"));
            let script = format!("{} -dc \"$1\" > \"$2\"", if zstd { "zstd" } else { "gzip" });
            let target = folder.path().join(&name);
            process::run(
                "sh",
                [OsString::from("-c"), script.into(), "sh".into(), blob.into(), target.into()],
            )?;
            layers.push(name);
        }
        let config = self.blob(manifest["config"]["digest"].as_str().context("no configuration")?)?;
        fs::copy(config, folder.path().join("config.json"))?;
        let index = json!([{"Config": "config.json", "RepoTags": [tag], "Layers": layers}]);
        fs::write(folder.path().join("manifest.json"), serde_json::to_vec(&index)?)?;
        tar(folder.path(), to, true)
    }
}

/// Collects what an image is made of.
#[derive(Debug)]
pub struct ImageBuilder {
    name: String,
    layers: Vec<(PathBuf, Compression)>,
    config: Value,
    architecture: String,
    docker: bool,
    reference: Option<String>,
    owned_by_root: bool,
}

impl ImageBuilder {
    /// An image without layers for this machine's architecture.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            layers: Vec::new(),
            config: json!({}),
            architecture: ARCHITECTURE.to_owned(),
            docker: false,
            reference: None,
            owned_by_root: false,
        }
    }

    /// How the index names it, in place of `localhost/NAME:latest`: for who imports the layout.
    pub fn reference(mut self, reference: &str) -> Self {
        self.reference = Some(reference.to_owned());
        self
    }

    /// Everything in it is root's, whoever builds it.
    pub fn owned_by_root(mut self) -> Self {
        self.owned_by_root = true;
        self
    }

    /// Adds a folder's content, with its owners and modes, as the next layer.
    pub fn layer(mut self, folder: &Path, compression: Compression) -> Self {
        self.layers.push((folder.to_owned(), compression));
        self
    }

    /// The `config` of the image's configuration: `Env`, `Entrypoint`, `User` and so on.
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// Says that it is for another architecture.
    pub fn architecture(mut self, name: &str) -> Self {
        self.architecture = name.to_owned();
        self
    }

    /// Uses Docker's media types (image manifest version 2, schema 2) in place of OCI's.
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// Writes the image into the cache, unless it is there already. `key` names the content of the folders.
    /// The caller holds the cache's lock.
    pub fn build(&self, key: &str) -> Result<Image> {
        let described = format!(
            "{FORMAT}\n{key}\n{:?}\n{}{}{}{}",
            self.config,
            self.architecture,
            self.docker,
            self.layers.len(),
            self.reference.as_deref().unwrap_or_default()
        );
        let key = format!("{}-{}", self.name, &cache::sha256(described.as_bytes())[..16]);
        let layout = cache::once("images", &key, |staging| self.write(staging))
            .with_context(|| format!("build the image {}", self.name))?;
        Image::open(&self.name, &layout)
    }

    /// Writes the image as an OCI layout into an empty folder; `index.json` names it `localhost/NAME:latest`, or as it was told.
    pub fn write(&self, layout: &Path) -> Result<()> {
        fs::create_dir_all(layout.join("blobs/sha256"))?;
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for (folder, compression) in &self.layers {
            let (descriptor, diff_id) = self.write_layer(layout, folder, *compression)?;
            layers.push(descriptor);
            diff_ids.push(diff_id);
        }
        let config = json!({
            "architecture": self.architecture, "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": self.config, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let media_type = self.media(
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.docker.container.image.v1+json",
        );
        let config = put(layout, media_type, &serde_json::to_vec(&config)?)?;
        let media_type = self.media(
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.docker.distribution.manifest.v2+json",
        );
        let manifest =
            json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
        let mut descriptor = put(layout, media_type, &serde_json::to_vec(&manifest)?)?;
        descriptor["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        let name = self.reference.clone().unwrap_or_else(|| format!("localhost/{}:latest", self.name));
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        if self.reference.is_some() {
            // What containerd's `ctr images import` goes by.
            descriptor["annotations"]["io.containerd.image.name"] = name.into();
        }
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [descriptor],
        });
        fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(())
    }

    fn media(&self, oci: &'static str, docker: &'static str) -> &'static str {
        if self.docker { docker } else { oci }
    }

    fn write_layer(&self, layout: &Path, folder: &Path, compression: Compression) -> Result<(Value, String)> {
        let plain = layout.join("layer.tar");
        tar(folder, &plain, self.owned_by_root)?;
        let diff_id = format!("sha256:{}", cache::sha256_file(&plain)?);
        let (program, media_type) = match compression {
            Compression::Gzip => (
                "gzip -1 -n -c",
                self.media(
                    "application/vnd.oci.image.layer.v1.tar+gzip",
                    "application/vnd.docker.image.rootfs.diff.tar.gzip",
                ),
            ),
            Compression::Zstd => ("zstd -1 -q -c", "application/vnd.oci.image.layer.v1.tar+zstd"),
        };
        let packed = layout.join("layer.packed");
        let script = format!("{program} \"$1\" > \"$2\"");
        let args: [OsString; 5] =
            ["-c".into(), script.into(), "sh".into(), plain.clone().into(), packed.clone().into()];
        process::run("sh", args)?;
        fs::remove_file(&plain)?;
        let hex = cache::sha256_file(&packed)?;
        let size = fs::metadata(&packed)?.len();
        fs::rename(&packed, layout.join("blobs/sha256").join(&hex))?;
        Ok((json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": size}), diff_id))
    }
}

/// Stores a blob and gives its descriptor.
fn put(layout: &Path, media_type: &str, bytes: &[u8]) -> Result<Value> {
    let hex = cache::sha256(bytes);
    fs::write(layout.join("blobs/sha256").join(&hex), bytes)?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()}))
}

/// Packs a folder the same way every time: sorted names, numeric owners, one modification time.
fn tar(folder: &Path, to: &Path, owned_by_root: bool) -> Result<()> {
    let mut args: Vec<OsString> = vec![
        "--sort=name".into(),
        "--numeric-owner".into(),
        "--format=pax".into(),
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime".into(),
        "--mtime=@1767225600".into(),
        // The user's own; those of the system are the host's and would go into images.
        "--xattrs-include=user.*".into(),
    ];
    if owned_by_root {
        // Nor does the umask of who builds it matter.
        args.extend(["--owner=0".into(), "--group=0".into(), "--mode=u=rwX,go=rX".into()]);
    }
    args.extend(["-C".into(), folder.into(), "-cf".into(), to.into(), ".".into()]);
    process::run("tar", args).map(drop).with_context(|| format!("pack {}", folder.display()))
}
