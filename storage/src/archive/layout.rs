//! OCI image layouts (OCI image specification, image-layout.md), in a directory or gathered from an archive.

use std::fs::File;
use std::io::{self, Read};

use rustix::fs::{Mode, OFlags};

use super::{Import, ImportError};
use crate::content::{CopyError, Ingest, Record};
use crate::digest::Digest;
use crate::image::manifest::{self, Document};
use crate::image::{Descriptor, IndexEntry, ManifestError};
use crate::pull::choose;
use crate::reference::Reference;

/// The index of a layout directory.
pub(super) fn read_index(import: &Import<'_>) -> Result<Vec<u8>, ImportError> {
    let path = import.path.join("index.json");
    let max = import.limits.manifest_bytes;
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes));
    match read {
        Ok(length) if u64::try_from(length).is_ok_and(|length| length <= max) => Ok(bytes),
        Ok(_) => Err(import.refused(ManifestError::TooLarge { max })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(import.no_image("it has no index.json")),
        Err(source) => Err(ImportError::Read { path, source }),
    }
}

impl Import<'_> {
    /// All images of a layout that are for this machine. `directory` says that blobs are still to be copied.
    pub(super) fn layout(&mut self, index: &[u8], directory: bool) -> Result<Vec<Record>, ImportError> {
        let entries = match manifest::parse(index, None, self.limits).map_err(|error| self.refused(error))? {
            Document::Index(entries) => entries,
            Document::Manifest(_) => return Err(self.no_image("its index.json is no index")),
        };
        // One image a platform may be there side by side: those for other machines are passed over.
        let others: Vec<_> = entries.iter().filter_map(|entry| entry.platform.clone()).collect();
        let here = |entry: &&IndexEntry| {
            entry.platform.as_ref().is_none_or(|there| self.platform.fit(there).is_some())
        };
        let usable: Vec<IndexEntry> = entries.iter().filter(here).cloned().collect();
        if usable.is_empty() && !others.is_empty() {
            let reference = self.name.clone().unwrap_or_else(nameless);
            choose(&reference, self.platform, &entries).map_err(ImportError::Unpack)?;
        }
        if usable.is_empty() {
            return Err(self.no_image("it has no images"));
        }
        if usable.len() > 1 && self.name.is_some() {
            return Err(self.no_image(format!("it has {} images, which one name cannot name", usable.len())));
        }
        let mut records = Vec::new();
        for entry in usable {
            let reference = self.entry_name(&entry)?;
            records.push(self.entry(reference, entry.descriptor, directory)?);
        }
        Ok(records)
    }

    fn entry_name(&self, entry: &IndexEntry) -> Result<Reference, ImportError> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        // A word alone is a tag by the specification, and of which image is not said.
        let name = entry.names.iter().find(|name| name.contains([':', '/']));
        let name = name.ok_or_else(|| match entry.names.first() {
            Some(tag) => self.no_image(format!(
                "its image is called {:?}, which is only a tag: give it a name",
                manifest::clip(tag)
            )),
            None => self.no_image("its image has no name: give it one"),
        })?;
        self.parse_name(name)
    }

    fn entry(
        &mut self,
        reference: Reference,
        target: Descriptor,
        directory: bool,
    ) -> Result<Record, ImportError> {
        let mut chosen = target.clone();
        // A layout's entry is an index of platforms, or an image.
        for _ in 0..2 {
            let bytes = self.document(&chosen, directory)?;
            let media_type = Some(chosen.media_type.as_str()).filter(|text| !text.is_empty());
            match manifest::parse(&bytes, media_type, self.limits).map_err(|error| self.refused(error))? {
                Document::Index(entries) => {
                    chosen =
                        choose(&reference, self.platform, &entries).map_err(ImportError::Unpack)?.clone();
                }
                Document::Manifest(manifest) => {
                    self.blob(&manifest.config, directory)?;
                    for (layer, _) in &manifest.layers {
                        self.blob(layer, directory)?;
                    }
                    let record = Record { reference: Some(reference), manifest: chosen.digest, target };
                    return self.for_this_machine(record);
                }
            }
        }
        Err(self.refused(ManifestError::Malformed("it is an index within an index".into())))
    }

    /// The image's configuration has the last word on which machine it is for.
    pub(super) fn for_this_machine(&self, record: Record) -> Result<Record, ImportError> {
        let image = crate::image::load(self.store, &record, self.limits).map_err(ImportError::Load)?;
        if image.platform.architecture.is_empty() || self.platform.fit(&image.platform).is_some() {
            return Ok(record);
        }
        let reference = record.reference.unwrap_or_else(nameless);
        let (wanted, available) = (self.platform.clone(), vec![image.platform]);
        Err(ImportError::Unpack(crate::pull::PullError::Platform { reference, wanted, available }))
    }

    fn document(&mut self, what: &Descriptor, directory: bool) -> Result<Vec<u8>, ImportError> {
        let max = self.limits.manifest_bytes;
        if what.size > max {
            return Err(self.refused(ManifestError::TooLarge { max }));
        }
        self.blob(what, directory)?;
        self.store.read(&what.digest, max).map_err(ImportError::Content)
    }

    /// Has a blob in the store.
    fn blob(&mut self, what: &Descriptor, directory: bool) -> Result<(), ImportError> {
        self.lease.hold(what.digest);
        if self.store.has(&what.digest, what.size).map_err(ImportError::Content)? {
            return Ok(());
        }
        if !directory {
            return Err(self.no_image(format!("blob {} is missing in it, or has another size", what.digest)));
        }
        let mut file = self.open_blob(&what.digest)?;
        let mut ingest = Ingest::exact(self.store, what.digest, what.size).map_err(ImportError::Content)?;
        ingest.copy(&mut file).map_err(|error| match error {
            CopyError::Read(source) => self.unreadable(source),
            CopyError::Write(error) => ImportError::Content(error),
        })?;
        ingest.verify().and_then(crate::content::Verified::commit).map_err(ImportError::Content)
    }

    fn open_blob(&self, digest: &Digest) -> Result<File, ImportError> {
        let path = self.path.join("blobs/sha256").join(digest.hex());
        // Not through a link, and not waiting for a pipe.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(descriptor) => Ok(File::from(descriptor)),
            Err(rustix::io::Errno::NOENT) => Err(self.no_image(format!("blob {digest} is missing in it"))),
            Err(error) => Err(ImportError::Read { path, source: error.into() }),
        }
    }
}

/// Only for messages.
fn nameless() -> Reference {
    "localhost/unnamed:latest".parse().expect("a fixed name is a reference")
}
