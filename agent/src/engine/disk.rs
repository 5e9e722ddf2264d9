//! Whether there is room on disk, and what images are needed for.

use stower_controllers::{DiskPressure, FailureReason, ImageState, PullFailure, References, references};
use stower_crds::Uid;

use super::Engine;
use crate::effects::chain;

impl Engine {
    /// The disk takes new work again, or no longer: everybody is planned anew. What failed for lack of room is not waited for.
    pub(super) fn disk_changed(&mut self, pressure: DiskPressure) {
        self.mend_journals();
        let has_room = !pressure.is_on();
        let same = self.observed.pressure.is_on() && pressure.is_on();
        self.observed.pressure = pressure;
        let uids: Vec<Uid> = self.desired.uids().cloned().collect();
        for uid in &uids {
            if has_room {
                self.forget_lack_of_room(uid);
            }
        }
        if same {
            // Only the words are others.
            let now = crate::time::now(&self.boot_id);
            self.publish(&uids, &now);
        } else {
            self.dirty.extend(uids);
        }
    }

    fn forget_lack_of_room(&mut self, uid: &Uid) {
        if let Some(image) = self.seen_image(uid)
            && matches!(image.state, ImageState::Failed { reason: PullFailure::DiskPressure, .. })
        {
            image.state = ImageState::Absent;
            self.pull_attempts.remove(uid);
            self.observe_image(uid);
        }
        if let Some(seen) = self.observed.containers.get_mut(uid)
            && seen.failure.as_ref().is_some_and(|failure| failure.reason == FailureReason::DiskPressure)
        {
            seen.failure = None;
        }
    }

    /// What was kept in memory alone while the disk was full is written.
    pub(super) fn mend_journals(&mut self) {
        let mended = [self.journal.mend()].into_iter().chain(self.sources.mend());
        for error in mended.filter_map(Result::err) {
            tracing::error!(error = %chain(&error), "a journal cannot be written yet");
        }
    }

    /// What declared objects and records need of images. Unknown as long as not everything could be looked at.
    pub(super) fn references(&self) -> References {
        let mut found = references(&self.desired, &self.records);
        if let Some(why) = self.blind() {
            found.unknown = Some(why.to_owned());
        } else if !self.sources.seen {
            found.unknown = Some("the manifests directory has not been read yet".to_owned());
        }
        found
    }
}
