//! A container's changes as a new image.
//!
//! ```text
//! snapshot ─► compare ─► layer ─► gzip ─► ingest ─► blob ─┐
//! base image ─► configuration + diff id + history + changes ─► blobs ─► unpack ─► name
//! ```

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};

use crate::content::{ContentError, Ingest, Lease, Record, Verified};
use crate::diff::{DiffError, compare, same_root_but_time, write_layer};
use crate::digest::{DiffId, Digest, Hasher};
use crate::driver::SnapshotKey;
use crate::image::{
    self, Applied, ConfigChange, Descriptor, Image, LoadError, ParseChangeError, manifest, media,
};
use crate::pull::PullError;
use crate::reference::Reference;
use crate::registry::blocking;
use crate::storage::Storage;

/// What becomes an image, and how it is called.
pub struct CommitRequest {
    /// The container's snapshot. It must be based on `base`.
    pub snapshot: SnapshotKey,
    /// The image that the container was started from: the digest of its index or manifest, or its id.
    pub base: Digest,
    /// The name of the new image; without one it is found by its digest.
    pub name: Option<Reference>,
    /// Who made it.
    pub author: Option<String>,
    /// What for.
    pub message: Option<String>,
    /// The command that made the changes, for the history.
    pub created_by: String,
    /// When. The same changes at the same time are the same image.
    pub created: jiff::Timestamp,
    /// Places to mount on that were made for the container; see [`Storage::changes`].
    pub stubs: Vec<PathBuf>,
    /// Changes to the configuration, in this order.
    pub changes: Vec<ConfigChange>,
    /// Dropped as soon as the snapshot has been read, on every way out: what keeps the container from running meanwhile.
    pub reading: Option<Box<dyn Send>>,
}

/// Why there is no new image. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitImageError {
    /// The snapshot cannot be read, or not become a layer.
    #[error("cannot make a layer of the container's changes")]
    Diff(#[from] DiffError),
    /// The image is not here any more.
    #[error("image {0}, which the container is based on, is not here any more: pull it again")]
    NoBase(Digest),
    /// The snapshot belongs to another image.
    #[error("snapshot {snapshot} is not based on image {base}")]
    OtherBase {
        /// The snapshot.
        snapshot: SnapshotKey,
        /// The image that was given.
        base: Digest,
    },
    /// The base was unpacked, but its blobs are gone.
    #[error("layer {layer} of image {base} is not in the content store any more: pull the image again")]
    BaseIncomplete {
        /// The image.
        base: Digest,
        /// The blob.
        layer: Digest,
    },
    /// The image has as many layers as one may have.
    #[error("image {base} has {max} layers already, and no image may have more")]
    TooManyLayers {
        /// The image.
        base: Digest,
        /// Allowed.
        max: usize,
    },
    /// A name with a digest cannot be given to what is being made.
    #[error("{0} has a digest; a new image takes a name with a tag")]
    Name(Reference),
    /// A change does not fit the image.
    #[error("cannot change the configuration")]
    Change(#[from] ParseChangeError),
    /// Blobs cannot be stored.
    #[error("cannot store the image")]
    Content(#[from] ContentError),
    /// An image cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The new layer cannot be unpacked.
    #[error("cannot unpack the new image")]
    Unpack(#[source] PullError),
    /// Whoever asked has gone.
    #[error("the commit was given up")]
    Cancelled,
}

/// A new image whose blobs are committed, to be named once it is unpacked.
struct Made {
    record: Record,
    image: Image,
    lease: Lease,
}

/// Says so when nobody waits any more.
struct GiveUp(Arc<AtomicBool>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Storage {
    /// Makes an image of what the snapshot changed, on its base image: unpacked, durable and named like one that was
    /// pulled. Where nothing changed there is no new layer. Given up when nobody waits any more; then, and where it
    /// fails, nothing is left.
    pub async fn commit_image(&self, request: CommitRequest) -> Result<Image, CommitImageError> {
        let over = GiveUp(Arc::default());
        let given_up = Arc::clone(&over.0);
        let storage = self.clone();
        let made = blocking(move || {
            let made = storage.make_image(request, &given_up);
            if made.is_err() {
                storage.sweep_quietly();
            }
            made
        })
        .await?;
        let result = self.unpack(&made.image).await;
        let storage = self.clone();
        // The lease holds until the image has its name, even if nobody waits any more.
        let done = blocking(move || {
            let Made { record, image, lease } = made;
            let store = storage.content();
            let named = result.map_err(CommitImageError::Unpack).and_then(|()| {
                store.sync().and_then(|()| store.name(record)).map_err(CommitImageError::Content)
            });
            drop(lease);
            if named.is_err() {
                storage.sweep_quietly();
            }
            named.map(|()| image)
        })
        .await;
        drop(over);
        done
    }

    fn make_image(&self, request: CommitRequest, given_up: &AtomicBool) -> Result<Made, CommitImageError> {
        let CommitRequest { snapshot, base: wanted, name, reading: frozen, .. } = request;
        if let Some(name) = name.as_ref().filter(|name| name.digest().is_some()) {
            return Err(CommitImageError::Name(name.clone()));
        }
        let store = self.content();
        let mut lease = Lease::new(store);
        let (record, base) = self.with_record(&wanted)?.ok_or(CommitImageError::NoBase(wanted))?;
        base.layers.iter().for_each(|layer| lease.hold(layer.digest));
        for layer in &base.layers {
            if !store.has(&layer.digest, layer.size)? {
                return Err(CommitImageError::BaseIncomplete { base: wanted, layer: layer.digest });
            }
        }
        let config = store.read(&base.id, self.limits().config_bytes)?;
        let layer = self.make_layer(&snapshot, &request.stubs, &base, &mut lease, given_up)?;
        drop(frozen);

        let described = Described {
            author: request.author,
            message: request.message,
            created_by: request.created_by,
            created: request.created,
            changes: &request.changes,
        };
        let config =
            described.config(&config, base.layers.len(), layer.as_ref().map(|layer| layer.diff_id))?;
        let base_manifest = image::load_manifest(store, &record, self.limits())?;
        let mut layers: Vec<Descriptor> =
            base_manifest.layers.iter().map(|(blob, encoding)| as_oci(blob, *encoding)).collect();
        if let Some(layer) = layer {
            layers.push(layer.blob);
            if layers.len() > self.limits().layers {
                return Err(CommitImageError::TooManyLayers { base: wanted, max: self.limits().layers });
            }
        }
        let mut put = |bytes: &[u8], media_type: &str| -> Result<Descriptor, ContentError> {
            lease.hold(Digest::of(bytes));
            let digest = store.put(bytes)?;
            let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            Ok(Descriptor { media_type: media_type.to_owned(), digest, size })
        };
        let config = put(&config, media::OCI_CONFIG)?;
        let target = put(&manifest::render(&config, &layers), media::OCI_MANIFEST)?;
        let record = Record { reference: name, manifest: target.digest, target };
        let image = image::load(store, &record, self.limits())?;
        image.chain().into_iter().for_each(|chain| lease.hold(chain.0));
        if given_up.load(Ordering::Relaxed) {
            return Err(CommitImageError::Cancelled);
        }
        Ok(Made { record, image, lease })
    }

    /// The layer's blob, committed; none where nothing changed.
    fn make_layer(
        &self,
        snapshot: &SnapshotKey,
        stubs: &[PathBuf],
        base: &Image,
        lease: &mut Lease,
        given_up: &AtomicBool,
    ) -> Result<Option<NewLayer>, CommitImageError> {
        let verified = {
            let reading = self.snapshots().read(snapshot).map_err(DiffError::from)?;
            if reading.parent != Some(base.chain_id) {
                let (snapshot, base) = (snapshot.clone(), base.digest);
                return Err(CommitImageError::OtherBase { snapshot, base });
            }
            let limits = self.unpack_limits();
            let items = compare(&reading.trees, stubs, &limits)?;
            // A file that came and went again leaves its mark on the root directory's time, and on nothing else.
            let only_time =
                items.iter().all(|item| item.path.is_empty()) && same_root_but_time(&reading.trees)?;
            if only_time {
                return Ok(None);
            }
            let max = self.limits().layer_bytes;
            let sink =
                Sink { ingest: Ingest::temporary(self.content(), max)?, size: 0, failed: None, given_up };
            // No name and no time in the header: the same changes give the same blob.
            let gzip = flate2::GzBuilder::new().mtime(0);
            let gzip = gzip.write(BufWriter::with_capacity(256 << 10, sink), flate2::Compression::default());
            let mut tee = Tee { out: gzip, hasher: Hasher::new() };
            let written = write_layer(&reading.trees, &items, &limits, &mut tee);
            let Tee { out, hasher } = tee;
            let sink = match out.finish().map(BufWriter::into_inner) {
                Ok(Ok(sink)) => sink,
                Ok(Err(error)) => {
                    let (error, buffer) = error.into_parts();
                    let (mut sink, _) = buffer.into_parts();
                    return Err(sink.reason(written.err().unwrap_or(DiffError::Write(error))));
                }
                Err(error) => return Err(lost(given_up, written.err().unwrap_or(DiffError::Write(error)))),
            };
            let mut sink = sink;
            if let Err(error) = written {
                return Err(sink.reason(error));
            }
            (sink.ingest.verify()?, sink.size, DiffId(hasher.finish()))
        };
        let (verified, size, diff_id): (Verified, u64, DiffId) = verified;
        let digest = verified.digest();
        lease.hold(digest);
        verified.commit()?;
        let blob = Descriptor { media_type: media::OCI_LAYER_GZIP.to_owned(), digest, size };
        Ok(Some(NewLayer { blob, diff_id }))
    }

    fn sweep_quietly(&self) {
        if let Err(error) = self.sweep(|_| false) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "content that nothing refers to is left behind");
        }
    }
}

struct NewLayer {
    blob: Descriptor,
    diff_id: DiffId,
}

/// Where the compressed bytes go.
struct Sink<'a> {
    ingest: Ingest,
    size: u64,
    failed: Option<ContentError>,
    given_up: &'a AtomicBool,
}

impl Sink<'_> {
    /// The reason behind what a writer above said.
    fn reason(&mut self, error: DiffError) -> CommitImageError {
        match self.failed.take() {
            Some(failed) => CommitImageError::Content(failed),
            None => lost(self.given_up, error),
        }
    }
}

fn lost(given_up: &AtomicBool, error: DiffError) -> CommitImageError {
    match given_up.load(Ordering::Relaxed) {
        true => CommitImageError::Cancelled,
        false => CommitImageError::Diff(error),
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.given_up.load(Ordering::Relaxed) {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        if let Err(error) = self.ingest.write(bytes) {
            let said = error.to_string();
            self.failed = Some(error);
            return Err(io::Error::other(said));
        }
        self.size += u64::try_from(bytes.len()).unwrap_or(0);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes what goes by.
struct Tee<W> {
    out: W,
    hasher: Hasher,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A layer of a base may have Docker's media type; an OCI manifest has its own.
fn as_oci(blob: &Descriptor, encoding: image::Encoding) -> Descriptor {
    let media_type = match encoding {
        image::Encoding::Tar => media::OCI_LAYER,
        image::Encoding::Gzip => media::OCI_LAYER_GZIP,
        image::Encoding::Zstd => media::OCI_LAYER_ZSTD,
    };
    Descriptor { media_type: media_type.to_owned(), digest: blob.digest, size: blob.size }
}

/// What is said of the new image.
struct Described<'a> {
    author: Option<String>,
    message: Option<String>,
    created_by: String,
    created: jiff::Timestamp,
    changes: &'a [ConfigChange],
}

impl Described<'_> {
    /// The base's configuration with one more step (OCI image specification, config.md). What is not known stays.
    fn config(
        &self,
        base: &[u8],
        layers: usize,
        diff_id: Option<DiffId>,
    ) -> Result<Vec<u8>, CommitImageError> {
        // It was read before as what it is; here every field counts.
        let mut file: Map<String, Value> = serde_json::from_slice(base).map_err(|error| {
            let source = image::ConfigError::Malformed(manifest::clip(&error.to_string()));
            LoadError::Config { digest: Digest::of(base), source }
        })?;
        // Docker's notes on the container and the engine that made the base.
        for stale in
            ["id", "parent", "parent_id", "container", "container_config", "docker_version", "throwaway"]
        {
            file.remove(stale);
        }
        let created = json!(self.created.to_string());
        file.insert("created".to_owned(), created.clone());
        if let Some(author) = &self.author {
            file.insert("author".to_owned(), json!(author));
        }
        let mut history: Vec<Value> = match file.remove("history") {
            Some(Value::Array(all)) => all,
            _ => Vec::new(),
        };
        // One entry a layer, or tools count them against each other and refuse.
        let empty = |entry: &Value| entry.get("empty_layer").and_then(Value::as_bool).unwrap_or(false);
        let told = history.iter().filter(|entry| !empty(entry)).count();
        history.extend((told..layers).map(|_| json!({ "comment": "not told by the base image" })));
        let mut step = Map::new();
        step.insert("created".to_owned(), created);
        for (key, value) in [
            ("created_by", Some(&self.created_by)),
            ("author", self.author.as_ref()),
            ("comment", self.message.as_ref()),
        ] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                step.insert(key.to_owned(), json!(value));
            }
        }
        match diff_id {
            Some(diff_id) => {
                if let Some(diffs) = file.get_mut("rootfs").and_then(|rootfs| rootfs.get_mut("diff_ids"))
                    && let Some(diffs) = diffs.as_array_mut()
                {
                    diffs.push(json!(diff_id));
                }
            }
            None => {
                step.insert("empty_layer".to_owned(), json!(true));
            }
        }
        history.push(Value::Object(step));
        file.insert("history".to_owned(), Value::Array(history));
        let mut config = match file.remove("config") {
            Some(Value::Object(config)) => config,
            _ => Map::new(),
        };
        let mut before = Applied::default();
        for change in self.changes {
            change.apply(&mut config, &mut before)?;
        }
        file.insert("config".to_owned(), Value::Object(config));
        Ok(Value::Object(file).to_string().into_bytes())
    }
}
