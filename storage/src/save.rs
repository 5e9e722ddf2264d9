//! Images as one archive: an OCI layout that has Docker's list of images too, so that either can read it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use serde_json::{Value, json};

use crate::content::{ContentError, Lease, Record};
use crate::digest::Digest;
use crate::image::{self, Descriptor, LoadError, media};
use crate::layer::tar::{Entry, Kind, Time};
use crate::layer::write::Writer;
use crate::storage::{ImageName, Storage};

/// Why an archive is not there, or not whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// There is none of that name.
    #[error("image {0} is not here")]
    NotFound(String),
    /// A blob of it is not here, as after a change by hand.
    #[error("image {image} lacks blob {blob}: pull it again")]
    Incomplete {
        /// The image, as it was asked for.
        image: String,
        /// What is missing.
        blob: Digest,
    },
    /// An image cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A blob cannot be read, or is damaged.
    #[error("cannot read the image's content")]
    Content(#[from] ContentError),
    /// A blob turned out to be damaged; the archive is of no use.
    #[error("cannot read blob {0}")]
    Read(Digest, #[source] io::Error),
    /// Whoever takes the bytes does not take them.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

impl Storage {
    /// Writes `images` as one archive, which `import` and `docker load` read. An image that was chosen from an index is
    /// there with the index, so that its digest stays. Blocks for as long as `out` does; nothing is written before all of
    /// them have been found.
    pub fn save(&self, images: &[ImageName], out: &mut dyn Write) -> Result<(), SaveError> {
        let mut lease = Lease::new(self.content());
        let mut plan = Plan::default();
        for name in images {
            let record = self.record(name)?.ok_or_else(|| SaveError::NotFound(name.to_string()))?;
            self.plan(name, &record, &mut lease, &mut plan)?;
        }
        let mut archive = Writer::new(out);
        member(&mut archive, "blobs/", None)?;
        member(&mut archive, "blobs/sha256/", None)?;
        let mut buffer = vec![0u8; 256 << 10];
        for (digest, size) in &plan.blobs {
            let blob = format!("blobs/sha256/{}", digest.hex());
            archive.entry(&entry(&blob, Some(*size))).map_err(SaveError::Write)?;
            let mut reader = self.content().reader(digest)?;
            loop {
                let read = reader.read(&mut buffer).map_err(|error| SaveError::Read(*digest, error))?;
                archive.data(&buffer[..read]).map_err(SaveError::Write)?;
                if read == 0 {
                    break;
                }
            }
        }
        let index = json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": plan.index });
        member(&mut archive, "index.json", Some(index.to_string().as_bytes()))?;
        let docker: Vec<Value> = plan.docker.into_values().collect();
        member(&mut archive, "manifest.json", Some(json!(docker).to_string().as_bytes()))?;
        member(&mut archive, "oci-layout", Some(b"{\"imageLayoutVersion\":\"1.0.0\"}"))?;
        archive.finish().and_then(|out| out.flush()).map_err(SaveError::Write)
    }

    fn record(&self, name: &ImageName) -> Result<Option<Record>, LoadError> {
        match name {
            ImageName::Reference(reference) if reference.digest().is_none() => {
                let records = self.content().records();
                Ok(records.into_iter().find(|record| record.reference.as_ref() == Some(reference)))
            }
            ImageName::Reference(reference) => {
                let digest = reference.digest().unwrap_or_else(|| Digest::of(b""));
                Ok(self.with_record(&digest)?.map(|(record, _)| record))
            }
            ImageName::Digest(digest) => Ok(self.with_record(digest)?.map(|(record, _)| record)),
        }
    }

    fn plan(
        &self,
        name: &ImageName,
        record: &Record,
        lease: &mut Lease,
        plan: &mut Plan,
    ) -> Result<(), SaveError> {
        lease.hold(record.target.digest);
        lease.hold(record.manifest);
        let manifest = image::load_manifest(self.content(), record, self.limits())?;
        let mut blobs = vec![manifest.config.digest];
        blobs.extend(manifest.layers.iter().map(|(layer, _)| layer.digest));
        blobs.iter().for_each(|digest| lease.hold(*digest));
        blobs.extend([record.target.digest, record.manifest]);
        for digest in blobs {
            match self.content().size(&digest)? {
                Some(size) => drop(plan.blobs.insert(digest, size)),
                None => return Err(SaveError::Incomplete { image: name.to_string(), blob: digest }),
            }
        }
        let tag = record.reference.as_ref().filter(|reference| reference.tag().is_some());
        let Descriptor { media_type, digest, size } = &record.target;
        let mut described = json!({ "mediaType": media_type, "digest": digest, "size": size });
        if let Some(reference) = tag {
            described["annotations"] = json!({
                "io.containerd.image.name": reference.to_string(),
                "org.opencontainers.image.ref.name": reference.tag(),
            });
        }
        if !plan.index.contains(&described) {
            plan.index.push(described);
        }
        let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let layers: Vec<String> = manifest.layers.iter().map(|(layer, _)| blob(&layer.digest)).collect();
        let config = manifest.config.digest;
        let docker = plan
            .docker
            .entry(record.manifest)
            .or_insert_with(|| json!({ "Config": blob(&config), "RepoTags": null, "Layers": layers }));
        let mut tags: BTreeSet<String> =
            serde_json::from_value(docker["RepoTags"].take()).unwrap_or_default();
        tags.extend(tag.map(ToString::to_string));
        docker["RepoTags"] = if tags.is_empty() { Value::Null } else { json!(tags) };
        Ok(())
    }
}

/// What goes into the archive.
#[derive(Default)]
struct Plan {
    blobs: BTreeMap<Digest, u64>,
    index: Vec<Value>,
    /// One an image, whatever names it has.
    docker: BTreeMap<Digest, Value>,
}

/// A file of this size, or a directory: the same for everybody at any time.
fn entry(name: &str, size: Option<u64>) -> Entry {
    Entry {
        path: name.as_bytes().to_vec(),
        kind: if size.is_some() { Kind::Regular } else { Kind::Directory },
        size: size.unwrap_or(0),
        mode: if size.is_some() { 0o644 } else { 0o755 },
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
        sparse: None,
    }
}

fn member(archive: &mut Writer<&mut dyn Write>, name: &str, content: Option<&[u8]>) -> Result<(), SaveError> {
    let size = content.map(|content| u64::try_from(content.len()).unwrap_or(u64::MAX));
    archive
        .entry(&entry(name, size))
        .and_then(|()| archive.data(content.unwrap_or_default()))
        .map_err(SaveError::Write)
}
