//! Making and removing the stores of Volumes and DataContainers.

use std::{collections::HashMap, path::Path};

use stower_controllers::{
    FailureReason, ImageDigest, StoreContent, StoreFacts, StoreId, StoreMedium, StoreWant,
};
use stower_crds::{Generation, Owner};
use stower_storage::{CapacityKind, VolumeDriver, VolumeError, VolumeKey, VolumeOptions, VolumeRecord};

use super::{
    Done, Effects, chain,
    volumes::{check, data_prefix, key, make_host_path},
};

impl Effects {
    /// Makes every store that is not there yet; what is there is kept.
    pub(super) fn make_stores(
        &self,
        generation: Generation,
        stores: &[StoreWant],
        image: Option<&ImageDigest>,
    ) -> Done {
        let mut trees = HashMap::new();
        let mut facts = Vec::new();
        let mut problems = Vec::new();
        let mut reason = FailureReason::ProvisioningFailed;
        // Before it is looked for: then it is not there, or stays.
        let digest = image.and_then(|image| image.as_str().parse().ok());
        let _lease = digest.map(|digest| {
            self.storage.used(&digest, std::time::SystemTime::now());
            self.storage.lease(&digest)
        });
        for want in stores {
            match self.make_store(want, image, &mut trees) {
                Ok(made) => facts.push(made),
                Err(Problem { refused, message }) => {
                    if refused {
                        reason = FailureReason::CreateContainerConfigError;
                    }
                    problems.push(format!("{}: {message}", want.id));
                }
            }
            super::failpoint("make.store");
        }
        if problems.is_empty() {
            return Done::Made { generation, stores: facts };
        }
        failed(reason, problems.join("; "))
    }

    fn make_store(
        &self,
        want: &StoreWant,
        image: Option<&ImageDigest>,
        trees: &mut HashMap<ImageDigest, stower_storage::ImageTree>,
    ) -> Result<StoreFacts, Problem> {
        let key = key(&want.id)?;
        let options = |driver, capacity, owner: &Owner, mode| VolumeOptions {
            driver,
            capacity,
            quota: self.settings.get().volume_capacity,
            uid: owner.uid,
            gid: owner.gid,
            mode,
        };
        let mut record = match &want.medium {
            StoreMedium::HostPath { path, type_ } => {
                check(Path::new(path), *type_).map_err(|problem| format!("hostPath {path}: {problem}"))?;
                make_host_path(Path::new(path), *type_)
                    .map_err(|error| format!("hostPath {path}: {error}"))?;
                return Ok(StoreFacts {
                    id: want.id.clone(),
                    path: path.clone(),
                    has_data: true,
                    filled_from: None,
                    capacity: None,
                    capacity_enforced: false,
                });
            }
            StoreMedium::Local { capacity, owner, mode } => {
                self.provision(&key, options(VolumeDriver::Local, *capacity, owner, *mode))?
            }
            StoreMedium::Tmpfs { capacity, owner, mode } => {
                self.provision(&key, options(VolumeDriver::Tmpfs, *capacity, owner, *mode))?
            }
            StoreMedium::Made => {
                let found = self.volumes.find(&key).map_err(|error| chain(&error))?;
                found.ok_or_else(|| "is not there".to_owned())?
            }
        };
        match (&want.content, image) {
            (StoreContent::Empty, _) => {
                record = self.volumes.ensure_data(&key).map_err(|error| chain(&error))?;
            }
            (StoreContent::Image { path }, Some(image)) if !record.has_data => {
                self.fill(&key, image, path, trees)?;
                let found = self.volumes.find(&key).map_err(|error| chain(&error))?;
                record = found.ok_or_else(|| "is gone".to_owned())?;
            }
            _ => {}
        }
        Ok(facts(&want.id, &record))
    }

    /// What is there stays as it is, whatever new ones are to be: what keeps its capacity, and a capacity that is larger than
    /// declared, with which it can be used. The facts tell.
    fn provision(&self, key: &VolumeKey, mut options: VolumeOptions) -> Result<VolumeRecord, VolumeError> {
        // One that cannot be looked at is refused by what follows.
        if let Ok(Some(VolumeRecord { capacity: Some(_), project, .. })) = self.volumes.find(key) {
            options.quota = if project.is_some() { CapacityKind::ProjectQuota } else { CapacityKind::Image };
        }
        match self.volumes.provision(key, &options) {
            Err(VolumeError::Shrink { have, .. }) => {
                self.volumes.provision(key, &VolumeOptions { capacity: Some(have), ..options })
            }
            done => done,
        }
    }

    /// Removes stores with their data.
    pub(super) fn remove_stores(&self, stores: &[StoreId]) -> Done {
        let mut problems = Vec::new();
        for id in stores {
            // Of a DataContainer that goes, stores of paths that it no longer has go too.
            let removed = key(id).and_then(|key| match id {
                StoreId::Data { .. } => {
                    let all = data_prefix(&key)?;
                    self.volumes.remove_all(&all).map(drop).map_err(|error| chain(&error))
                }
                _ => self.volumes.remove(&key).map_err(|error| chain(&error)),
            });
            problems.extend(removed.err().map(|problem| format!("{id}: {problem}")));
            super::failpoint("remove.store");
        }
        if problems.is_empty() {
            return Done::StoresRemoved;
        }
        failed(FailureReason::VolumeFailedDelete, problems.join("; "))
    }
}

/// Why a store is not there.
struct Problem {
    /// It is there, and is not what is declared: its data stay.
    refused: bool,
    message: String,
}

impl From<String> for Problem {
    fn from(message: String) -> Self {
        Self { refused: false, message }
    }
}

impl From<VolumeError> for Problem {
    fn from(error: VolumeError) -> Self {
        let refused = matches!(error, VolumeError::WrongDriver { .. } | VolumeError::WrongKind { .. });
        Self { refused, message: chain(&error) }
    }
}

fn failed(reason: FailureReason, message: String) -> Done {
    Done::Failed { run: None, reason, message, cgroup: stower_controllers::CgroupState::Absent }
}

fn facts(id: &StoreId, record: &VolumeRecord) -> StoreFacts {
    StoreFacts {
        id: id.clone(),
        path: record.data.display().to_string(),
        has_data: record.has_data,
        filled_from: record.filled_from.as_deref().map(ImageDigest::new),
        capacity: record.capacity,
        capacity_enforced: record.capacity_enforced,
    }
}
