//! Having an image on this machine, unpacked.

use stower_controllers::{ImageDigest, PullFailure};
use stower_storage::{PullError, PullRequest, RegistryError};

use super::{Done, Effects, chain};

pub(super) async fn pull(effects: &Effects, text: &str, digest: Option<&ImageDigest>) -> Done {
    let failed = |reason, message| Done::PullFailed { reason, message };
    let reference = match effects.reference(text) {
        Ok(reference) => reference,
        Err(message) => return failed(PullFailure::InvalidImageName, message),
    };
    // The digest that the accepted spec resolved to is what runs, whatever the tag means by now.
    let reference = match digest.map(|digest| digest.as_str().parse()) {
        Some(Ok(digest)) => reference.with_digest(digest),
        Some(Err(error)) => return failed(PullFailure::InvalidImageName, chain(&error)),
        None => reference,
    };
    match effects.storage.pull(&reference, PullRequest::default()).await {
        Ok(image) => {
            effects.metrics.pulls.with_label_values(&["success"]).inc();
            Done::Pulled {
                digest: ImageDigest::new(&image.digest.to_string()),
                volumes: image.config.volumes.clone(),
            }
        }
        Err(error) => {
            effects.metrics.pulls.with_label_values(&["failure"]).inc();
            failed(reason(&error), chain(&error))
        }
    }
}

fn reason(error: &PullError) -> PullFailure {
    match error {
        PullError::Registry(RegistryError::Unreachable { .. }) => PullFailure::RegistryUnavailable,
        _ => PullFailure::ErrImagePull,
    }
}
