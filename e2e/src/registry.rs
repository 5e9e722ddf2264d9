//! A real registry, Debian's `docker-registry`, on a free port of the loopback interface.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::debian::Tree;
use crate::image::Image;
use crate::{http, process, wait_for};

/// A running registry. It ends with this value, and with this process.
#[derive(Debug)]
pub struct Registry {
    /// `127.0.0.1:PORT`.
    pub address: String,
    /// Where it keeps its data.
    pub storage: PathBuf,
    child: Mutex<Option<Child>>,
    program: Tree,
    log: PathBuf,
}

impl Registry {
    /// Starts a registry on `storage`. What is in there is served again.
    pub fn start(program: &Tree, storage: &Path) -> Result<Self> {
        fs::create_dir_all(storage).with_context(|| format!("make {}", storage.display()))?;
        let registry = Self {
            address: format!("127.0.0.1:{}", free_port()?),
            storage: storage.to_owned(),
            child: Mutex::new(None),
            program: program.clone(),
            log: storage.with_extension("log"),
        };
        registry.resume()?;
        Ok(registry)
    }

    /// Starts it again on the same port after [`Registry::stop`].
    pub fn resume(&self) -> Result<()> {
        let config = json!({
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": self.storage}, "delete": {"enabled": true}},
            "http": {"addr": self.address},
        });
        let file = self.storage.with_extension(format!("{}.yml", self.address.replace(':', "-")));
        // JSON is YAML.
        fs::write(&file, serde_json::to_vec(&config)?)?;
        let log = fs::File::create(&self.log)?;
        let mut command = process::dies_with_us(&self.program.command("usr/bin/docker-registry")?);
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = process::spawn_from_lasting_thread(command)?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        wait_for(format!("the registry on {} (log: {})", self.address, self.log.display()), || {
            Ok((http::tcp(&self.address, "GET", "/v2/", &[], &[])?.status == 200).then_some(()))
        })?;
        fs::remove_file(file)?;
        Ok(())
    }

    /// Ends the process; the data stay.
    pub fn stop(&self) {
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Pushes an image as `NAME:tag`, unless the registry has it, and gives the full reference.
    pub fn push(&self, image: &Image, tag: &str) -> Result<String> {
        let name = &image.name;
        let at = format!("/v2/{name}/manifests/{tag}");
        let accept = [(
            "Accept",
            "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json",
        )];
        let there = http::tcp(&self.address, "HEAD", &at, &accept, &[])?;
        if there.header("docker-content-digest") != Some(image.digest.as_str()) {
            for part in image.parts()? {
                self.push_blob(name, image, part["digest"].as_str().context("a descriptor without digest")?)?;
            }
            self.put_manifest(name, tag, &fs::read(image.blob(&image.digest)?)?)?;
        }
        Ok(format!("{}/{name}:{tag}", self.address))
    }

    /// Pushes an image index of several images, under the first one's name, and gives the full reference.
    pub fn push_index(&self, images: &[&Image], tag: &str) -> Result<String> {
        let name = &images.first().context("an index of no images")?.name;
        let mut manifests = Vec::new();
        for image in images {
            for part in image.parts()? {
                self.push_blob(name, image, part["digest"].as_str().context("a descriptor without digest")?)?;
            }
            self.put_manifest(name, &image.digest, &fs::read(image.blob(&image.digest)?)?)?;
            let index: Value = serde_json::from_slice(&fs::read(image.layout.join("index.json"))?)?;
            let mut descriptor = index["manifests"][0].clone();
            descriptor.as_object_mut().context("an odd descriptor")?.remove("annotations");
            manifests.push(descriptor);
        }
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
        self.put_manifest(name, tag, &serde_json::to_vec(&index)?)?;
        Ok(format!("{}/{name}:{tag}", self.address))
    }

    /// Where the registry keeps a blob's bytes.
    pub fn blob_file(&self, digest: &str) -> Result<PathBuf> {
        let hex = digest.strip_prefix("sha256:").context("not a sha256 digest")?;
        Ok(self.storage.join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2])))
    }

    fn push_blob(&self, name: &str, image: &Image, digest: &str) -> Result<()> {
        let at = format!("/v2/{name}/blobs/{digest}");
        if http::tcp(&self.address, "HEAD", &at, &[], &[])?.status == 200 {
            return Ok(());
        }
        let start = http::tcp(&self.address, "POST", &format!("/v2/{name}/blobs/uploads/"), &[], &[])?;
        let location = start.header("location").with_context(|| format!("no upload: {}", start.text()))?;
        let path = location.split_once(&self.address).map_or(location, |(_, path)| path);
        let join = if path.contains('?') { '&' } else { '?' };
        let headers = [("Content-Type", "application/octet-stream")];
        let blob = fs::read(image.blob(digest)?)?;
        let done = http::tcp(&self.address, "PUT", &format!("{path}{join}digest={digest}"), &headers, &blob)?;
        if done.status != 201 {
            bail!("pushing {digest} to {name}: {} {}", done.status, done.text());
        }
        Ok(())
    }

    fn put_manifest(&self, name: &str, reference: &str, bytes: &[u8]) -> Result<()> {
        let manifest: Value = serde_json::from_slice(bytes)?;
        let media_type = manifest["mediaType"].as_str().context("a manifest without mediaType")?;
        let at = format!("/v2/{name}/manifests/{reference}");
        let done = http::tcp(&self.address, "PUT", &at, &[("Content-Type", media_type)], bytes)?;
        if done.status != 201 {
            bail!("pushing the manifest {name}:{reference}: {} {}", done.status, done.text());
        }
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A loopback port that nobody listens on, and that this process has not given out before.
pub fn free_port() -> Result<u16> {
    static GIVEN: LazyLock<Mutex<BTreeSet<u16>>> = LazyLock::new(Mutex::default);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..100 {
        let port = TcpListener::bind("127.0.0.1:0").context("find a free port")?.local_addr()?.port();
        if given.insert(port) {
            return Ok(port);
        }
    }
    bail!("found no free port that was not given out before")
}
