//! Which images are here.

use stower_controllers::{
    AnyDeclared, ImageDigest, ImageState, Now, ObservedImage, PullFailure, pull_policy, wanted_image,
};
use stower_crds::{ContainerSpec, PullPolicy, Signal, Uid};

use super::Engine;
use crate::effects::Effects;

/// What an image was asked for by, and what the store said.
pub(super) type Answer = ((String, Option<ImageDigest>), Result<Option<Here>, String>);

/// An image that is here.
#[derive(Debug, Clone)]
pub(super) struct Here {
    digest: ImageDigest,
    volumes: Vec<String>,
}

fn look_up(effects: &Effects, reference: &str, digest: Option<&ImageDigest>) -> Result<Option<Here>, String> {
    let found = match digest {
        Some(digest) => match digest.as_str().parse() {
            Ok(digest) => effects.storage.image_by_digest(&digest),
            Err(_) => Ok(None),
        },
        None => match effects.reference(reference) {
            Ok(reference) => effects.storage.image(&reference),
            // The pull says what is wrong with the name.
            Err(_) => Ok(None),
        },
    };
    let found = found.map_err(|error| crate::effects::chain(&error))?;
    // One that is not unpacked is not here for a start; a pull mends that without a transfer.
    let found = found.filter(|image| effects.storage.is_unpacked(image));
    Ok(found.map(|image| Here {
        digest: ImageDigest::new(&image.digest.to_string()),
        volumes: image.config.volumes.clone(),
    }))
}

impl Engine {
    /// Asks the image store what a container's image is.
    pub(super) fn observe_image(&mut self, uid: &Uid) {
        let asked = match self.desired.any_by_uid(uid) {
            Some(AnyDeclared::Container(declared)) => {
                let wanted = wanted_image(&declared, self.record(uid));
                (wanted.reference.to_owned(), wanted.digest.cloned())
            }
            Some(AnyDeclared::Data(declared)) => match &declared.spec.image {
                Some(image) => (image.clone(), None),
                None => return,
            },
            _ => return,
        };
        let found = match &self.image_answer {
            // Many containers of one image often come together.
            Some((last, answer)) if *last == asked => answer.clone(),
            _ => {
                let answer = look_up(&self.effects, &asked.0, asked.1.as_ref());
                self.image_answer = Some((asked.clone(), answer.clone()));
                answer
            }
        };
        let reference = asked.0;
        let Some(seen) = self.seen_image(uid) else { return };
        let same = seen.reference == reference;
        seen.reference = reference;
        match (found, &seen.state) {
            (_, ImageState::Pulling) => {}
            (Ok(Some(Here { digest, volumes })), old) => {
                seen.volumes = volumes.into();
                let asked = match old {
                    ImageState::Present { digest: known, asked } if same && *known == digest => *asked,
                    _ => None,
                };
                seen.state = ImageState::Present { digest, asked };
            }
            // A failure keeps its backoff as long as it is about the same image.
            (Ok(None), ImageState::Failed { .. }) if same => {}
            (Ok(None), _) => seen.state = ImageState::Absent,
            (Err(why), _) => {
                tracing::error!(%uid, why, "cannot tell whether an image is here");
                seen.state = ImageState::Unknown;
            }
        }
    }

    /// What is seen of the image of a container or a DataContainer.
    pub(super) fn seen_image(&mut self, uid: &Uid) -> Option<&mut ObservedImage> {
        if let Some(seen) = self.observed.stores.get_mut(uid) {
            return Some(&mut seen.image);
        }
        self.observed.containers.get_mut(uid).map(|seen| &mut seen.image)
    }

    /// The signal that the image of a container's process asks to be stopped with, if it names one.
    pub(super) fn image_stop_signal(&self, uid: &Uid) -> Option<Signal> {
        let digest = self.record(uid)?.launch.as_ref()?.image.as_ref()?.as_str().parse().ok()?;
        self.effects.storage.image_by_digest(&digest).ok()??.config.stop_signal.parse().ok()
    }

    /// Looks at all images again, after one came or went by another way than a container's need.
    pub(super) fn images_changed(&mut self) {
        self.image_answer = None;
        let uids: Vec<Uid> = self.desired.uids().cloned().collect();
        for uid in uids {
            self.observe_image(&uid);
            self.dirty.insert(uid);
        }
    }

    pub(super) fn pull_failed(&mut self, uid: &Uid, reason: PullFailure, message: String, now: &Now) {
        let before = self.pull_attempts.get(uid).copied().unwrap_or(0);
        let Some(seen) = self.seen_image(uid) else { return };
        let attempts = match &seen.state {
            ImageState::Failed { attempts, .. } => *attempts,
            _ => before,
        };
        let attempts = attempts.saturating_add(1);
        seen.state = ImageState::Failed { reason, message: message.clone(), at: now.mono, attempts };
        self.pull_attempts.insert(uid.clone(), attempts);
        tracing::warn!(%uid, reason = reason.as_str(), message, "a pull failed");
        // It may have come by another way meanwhile, such as an import; that settles it unless the registry's own word is wanted.
        let asks = |spec: &ContainerSpec| pull_policy(spec) == PullPolicy::Always;
        let data = self.observed.stores.contains_key(uid);
        if data || self.desired.by_uid(uid).is_some_and(|declared| !asks(&declared.spec)) {
            self.observe_image(uid);
        }
        self.failed_event(uid, "Failed", message);
    }

    pub(super) fn pulled(&mut self, uid: &Uid, took: std::time::Duration) {
        self.pull_attempts.remove(uid);
        let image = self.seen_image(uid).map(|seen| seen.reference.clone()).unwrap_or_default();
        self.normal_event(uid, "Pulled", format!("pulled image {image} in {:.1} s", took.as_secs_f64()));
        // Others may wait for the same one.
        let others: Vec<Uid> = self
            .desired
            .iter()
            .filter(|declared| declared.spec.image == image && declared.uid != *uid)
            .map(|declared| declared.uid.clone())
            .collect();
        let data = self.desired.data_containers().filter(|declared| {
            declared.spec.image.as_deref() == Some(image.as_str()) && declared.uid != *uid
        });
        let others: Vec<Uid> = others.into_iter().chain(data.map(|declared| declared.uid.clone())).collect();
        for other in others {
            self.observe_image(&other);
            self.dirty.insert(other);
        }
    }
}
