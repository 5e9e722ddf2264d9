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
    let measured = effects.disk.measure_aside().await;
    if measured.pressure.is_on() {
        return failed(PullFailure::DiskPressure, measured.pressure.message.clone());
    }
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
        _ if is_full(error) => PullFailure::DiskPressure,
        PullError::Registry(RegistryError::Unreachable { .. }) => PullFailure::RegistryUnavailable,
        _ => PullFailure::ErrImagePull,
    }
}

/// Whether the disk became full meanwhile.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.into_iter().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| {
            matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
        }) || matches!(cause.downcast_ref(), Some(stower_storage::ContentError::NoSpace { .. }))
    })
}
