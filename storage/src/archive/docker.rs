//! Archives as `docker save` wrote them before it wrote layouts, and as many tools still do.

use std::collections::HashMap;
use std::io::Read;

use serde::Deserialize;

use super::tarball::Member;
use super::{Import, ImportError};
use crate::content::Record;
use crate::image::manifest::{clip, render};
use crate::image::{Descriptor, ManifestError, media};

/// One image of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Import<'_> {
    /// All images of an archive, given an OCI manifest each.
    pub(super) fn docker(
        &mut self,
        list: &[u8],
        members: &HashMap<String, Member>,
    ) -> Result<Vec<Record>, ImportError> {
        let malformed = |error: serde_json::Error| ManifestError::Malformed(clip(&error.to_string()));
        let entries: Vec<Entry> =
            serde_json::from_slice(list).map_err(|error| self.refused(malformed(error)))?;
        if entries.is_empty() {
            return Err(self.no_image("it has no images"));
        }
        if entries.len() > self.limits.index_entries {
            return Err(self.no_image("it has too many images"));
        }
        if entries.len() > 1 && self.name.is_some() {
            return Err(self.no_image(format!("it has {} images, which one name cannot name", entries.len())));
        }
        let mut records = Vec::new();
        for entry in entries {
            let target = self.docker_manifest(&entry, members)?;
            let mut names = Vec::new();
            match &self.name {
                Some(name) => names.push(name.clone()),
                None => {
                    for tag in entry.repo_tags.iter().flatten().take(self.limits.index_entries) {
                        names.push(self.parse_name(tag)?);
                    }
                }
            }
            if names.is_empty() {
                return Err(self.no_image("its image has no name: give it one"));
            }
            for name in names {
                let record =
                    Record { reference: Some(name), manifest: target.digest, target: target.clone() };
                records.push(self.for_this_machine(record)?);
            }
        }
        Ok(records)
    }

    fn docker_manifest(
        &mut self,
        entry: &Entry,
        members: &HashMap<String, Member>,
    ) -> Result<Descriptor, ImportError> {
        let (digest, size) = self.member(&entry.config, members)?;
        let config = Descriptor { media_type: media::OCI_CONFIG.to_owned(), digest, size };
        let names = entry.layers.as_deref().unwrap_or_default();
        if names.len() > self.limits.layers {
            return Err(self.no_image("its image has too many layers"));
        }
        let mut layers = Vec::new();
        for name in names {
            let (digest, size) = self.member(name, members)?;
            let mut magic = Vec::new();
            let reader = self.store.reader(&digest).map_err(ImportError::Content)?;
            reader.take(4).read_to_end(&mut magic).map_err(|source| self.unreadable(source))?;
            let media_type = match magic.as_slice() {
                [0x1f, 0x8b, ..] => media::OCI_LAYER_GZIP,
                [0x28, 0xb5, 0x2f, 0xfd] => media::OCI_LAYER_ZSTD,
                _ => media::OCI_LAYER,
            };
            layers.push(Descriptor { media_type: media_type.to_owned(), digest, size });
        }
        let bytes = render(&config, &layers);
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if size > self.limits.manifest_bytes {
            return Err(self.refused(ManifestError::TooLarge { max: self.limits.manifest_bytes }));
        }
        self.lease.hold(crate::digest::Digest::of(&bytes));
        let digest = self.store.put(&bytes).map_err(ImportError::Content)?;
        Ok(Descriptor { media_type: media::OCI_MANIFEST.to_owned(), digest, size })
    }

    /// A member by its very name. A link is followed once, as `docker save` made them for equal layers.
    fn member(
        &self,
        name: &str,
        members: &HashMap<String, Member>,
    ) -> Result<(crate::digest::Digest, u64), ImportError> {
        let missing = || self.no_image(format!("it has no member {:?}", clip(name)));
        match members.get(name).ok_or_else(missing)? {
            Member::File(digest, size) => Ok((*digest, *size)),
            Member::Link(to) => match members.get(to) {
                Some(Member::File(digest, size)) => Ok((*digest, *size)),
                _ => Err(missing()),
            },
        }
    }
}
