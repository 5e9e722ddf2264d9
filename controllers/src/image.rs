//! Which image a container runs, and when a registry is asked for it.

use stower_crds::{ContainerSpec, Generation, PullPolicy};

use crate::{
    action::Why,
    desired::Declared,
    observed::{ImageDigest, ImageState, ObservedImage, PullFailure},
    record::{Record, ResolvedImage},
    restart::pull_delay,
    time::{Mono, Now},
};

/// What the image store is to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedImage<'a> {
    /// As the spec has it; to be put in [`ObservedImage::reference`].
    pub reference: &'a str,
    /// The image that the accepted spec resolved to. When it is there, the question is whether *that* image is
    /// here, whatever the reference stands for by now.
    pub digest: Option<&'a ImageDigest>,
}

/// What to ask the image store for, so that [`ObservedImage`] answers what the plan needs to know.
pub fn wanted_image<'a>(declared: &'a Declared, record: Option<&'a Record>) -> WantedImage<'a> {
    let reference = declared.spec.image.as_str();
    let resolved = record.and_then(|record| resolved(&declared.spec, record));
    // A registry is about to be asked anew, so what the reference stands for is the question.
    let asks = pull_policy(&declared.spec) == PullPolicy::Always
        && resolved.is_some_and(|image| image.generation < declared.generation)
        && record.is_some_and(|record| crate::container::needs_process(declared, record));
    WantedImage { reference, digest: resolved.filter(|_| !asks).map(|image| &image.digest) }
}

/// The policy that a spec stands for: `Always` for the tag `latest` or none, else `IfNotPresent`, as in a Pod.
pub fn pull_policy(spec: &ContainerSpec) -> PullPolicy {
    spec.image_pull_policy.unwrap_or_else(|| {
        if spec.image.contains('@') {
            return PullPolicy::IfNotPresent;
        }
        let name = spec.image.rsplit('/').next().unwrap_or_default();
        match name.split_once(':') {
            None | Some((_, "latest")) => PullPolicy::Always,
            Some(_) => PullPolicy::IfNotPresent,
        }
    })
}

fn resolved<'a>(spec: &ContainerSpec, record: &'a Record) -> Option<&'a ResolvedImage> {
    record.image.as_ref().filter(|image| image.reference == spec.image)
}

/// What stands between a container and its image.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ImageNeed {
    /// Nothing. The record is to remember it, where it does not yet.
    Ready(ResolvedImage),
    /// It is to be fetched.
    Pull { digest: Option<ImageDigest>, why: Why },
    /// It is on its way.
    Pulling,
    /// The last attempt failed and the next one is due then; never, without a moment.
    Failed { retry_at: Option<Mono> },
    /// It is not here and may not be fetched.
    NeverPull,
    /// The store has not answered.
    Unknown,
}

/// `new_process`: the start is one for which a registry may be asked.
pub(crate) fn image_need(
    spec: &ContainerSpec,
    generation: Generation,
    new_process: bool,
    record: &Record,
    observed: &ObservedImage,
    now: &Now,
) -> ImageNeed {
    let policy = pull_policy(spec);
    let resolved = resolved(spec, record);
    let must_ask = policy == PullPolicy::Always
        && resolved.is_none_or(|image| new_process && image.generation < generation);
    if observed.reference != spec.image {
        return ImageNeed::Unknown;
    }
    let known = resolved.filter(|_| !must_ask);
    let pull = |why| ImageNeed::Pull { digest: known.map(|image| image.digest.clone()), why };
    match &observed.state {
        ImageState::Unknown => ImageNeed::Unknown,
        ImageState::Pulling => ImageNeed::Pulling,
        ImageState::Absent if policy == PullPolicy::Never => ImageNeed::NeverPull,
        ImageState::Absent => pull(Why::ImageAbsent),
        ImageState::Failed { .. } if policy == PullPolicy::Never => ImageNeed::NeverPull,
        ImageState::Failed { reason: PullFailure::InvalidImageName, .. } => {
            ImageNeed::Failed { retry_at: None }
        }
        ImageState::Failed { at, attempts, .. } => {
            let retry_at = at.plus(pull_delay(*attempts));
            if now.mono < retry_at {
                ImageNeed::Failed { retry_at: Some(retry_at) }
            } else {
                pull(Why::Retry { attempts: *attempts })
            }
        }
        ImageState::Present { digest, asked } => match known {
            Some(image) if image.digest == *digest => ImageNeed::Ready(image.clone()),
            // The store has answered for another image than was asked for.
            Some(_) => ImageNeed::Unknown,
            None if must_ask && asked.is_none_or(|asked| asked < generation) => pull(Why::ImagePolicyAlways),
            None => ImageNeed::Ready(ResolvedImage {
                reference: spec.image.clone(),
                digest: digest.clone(),
                generation,
            }),
        },
    }
}

#[cfg(test)]
mod tests;
