//! Hears that a file may have changed, however it is replaced: written in place, renamed over, or by the links of a mounted
//! ConfigMap. What it says is looked at by whoever is told, so a word too many costs a read and nothing else.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    EventKind, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{sync::mpsc, time::Instant};

/// How long a file must be left alone before it is looked at.
const SETTLE: Duration = Duration::from_millis(250);
/// The same while somebody may hold it open for writing.
const OPEN: Duration = Duration::from_secs(2);
/// How often it is looked at when nothing is heard.
const LOOK: Duration = Duration::from_secs(60);
/// How many links lead to a file at most.
const HOPS: usize = 8;
/// The link that a mounted ConfigMap is switched by.
const SWITCH: &str = "..data";

/// A file that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    file: PathBuf,
    tell: mpsc::UnboundedSender<notify::Result<notify::Event>>,
    heard: mpsc::UnboundedReceiver<notify::Result<notify::Event>>,
    watcher: Option<notify::RecommendedWatcher>,
    /// Names that matter.
    names: BTreeSet<OsString>,
    due: Instant,
}

impl Watch {
    /// A watch that is due for a first look.
    pub(super) fn new(file: PathBuf) -> Self {
        let (tell, heard) = mpsc::unbounded_channel();
        let file = std::path::absolute(&file).unwrap_or(file);
        Self { file, tell, heard, watcher: None, names: BTreeSet::new(), due: Instant::now() }
    }

    /// Waits until the file is to be looked at. Nothing is lost when the future is dropped.
    pub(super) async fn changed(&mut self) {
        while let Ok(Some(event)) = tokio::time::timeout_at(self.due, self.heard.recv()).await {
            if let Some(wait) = patience(&event, &self.names) {
                self.due = Instant::now() + wait;
            }
        }
        self.due = Instant::now() + LOOK;
        // Before the look, so that nothing is missed after it.
        self.follow();
    }

    /// Watches all places that the name leads through by now.
    fn follow(&mut self) {
        let (dirs, names) = places(&self.file);
        self.names = names;
        let tell = self.tell.clone();
        let made = notify::recommended_watcher(move |event| {
            let _ = tell.send(event);
        });
        let mut watcher = match made {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::warn!(%error, file = %self.file.display(), "cannot watch the configuration; SIGHUP reloads it");
                return;
            }
        };
        for dir in dirs {
            if let Err(error) = watcher.watch(&dir, RecursiveMode::NonRecursive) {
                tracing::debug!(%error, dir = %dir.display(), "cannot watch a directory of the configuration");
            }
        }
        self.watcher = Some(watcher);
    }
}

/// How long to wait for more after this event; `None` when it means nothing.
fn patience(event: &notify::Result<notify::Event>, names: &BTreeSet<OsString>) -> Option<Duration> {
    let Ok(event) = event else { return Some(SETTLE) };
    let matters = |path: &PathBuf| path.file_name().is_some_and(|name| names.contains(name));
    if !event.need_rescan() && !event.paths.iter().any(matters) {
        return None;
    }
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(SETTLE),
        EventKind::Access(_) => None,
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_)) | EventKind::Remove(_) => Some(OPEN),
        _ => Some(SETTLE),
    }
}

/// The directories to watch and the names in them that matter: those of the file, and of every link on the way.
fn places(file: &Path) -> (BTreeSet<PathBuf>, BTreeSet<OsString>) {
    let mut dirs = BTreeSet::new();
    let mut names = BTreeSet::from([OsString::from(SWITCH)]);
    let mut at = file.to_owned();
    for _ in 0..HOPS {
        let (Some(dir), Some(name)) = (at.parent(), at.file_name()) else { break };
        dirs.insert(dir.to_owned());
        names.insert(OsStr::to_owned(name));
        match std::fs::read_link(&at) {
            Ok(target) => at = dir.join(target),
            Err(_) => break,
        }
    }
    (dirs, names)
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, RemoveKind, RenameMode};

    use super::*;

    #[test]
    fn a_file_that_may_be_half_written_is_waited_for_longer() {
        let names = BTreeSet::from(["c.yaml".into(), SWITCH.into()]);
        let heard = |kind, path: &str| patience(&Ok(notify::Event::new(kind).add_path(path.into())), &names);
        for (kind, wait) in [
            (EventKind::Create(CreateKind::File), Some(OPEN)),
            (EventKind::Modify(ModifyKind::Data(DataChange::Any)), Some(OPEN)),
            (EventKind::Remove(RemoveKind::File), Some(OPEN)),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), Some(SETTLE)),
            (EventKind::Modify(ModifyKind::Name(RenameMode::To)), Some(SETTLE)),
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), None),
        ] {
            assert_eq!(heard(kind, "/etc/c.yaml"), wait, "{kind:?}");
            assert_eq!(heard(kind, "/etc/d.yaml"), None, "{kind:?} of another file");
        }
        let switched = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert_eq!(heard(switched, "/etc/..data"), Some(SETTLE));
        let lost = notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        assert_eq!(patience(&Ok(lost), &names), Some(SETTLE));
    }

    #[test]
    fn every_link_on_the_way_is_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("map/..1")).unwrap();
        std::fs::write(at("map/..1/c.yaml"), "").unwrap();
        std::os::unix::fs::symlink("..1", at("map/..data")).unwrap();
        std::os::unix::fs::symlink("..data/c.yaml", at("map/c.yaml")).unwrap();
        std::os::unix::fs::symlink("map/c.yaml", at("config.yaml")).unwrap();
        let (dirs, names) = places(&at("config.yaml"));
        assert_eq!(dirs, [at(""), at("map"), at("map/..data")].map(|dir| dir.components().collect()).into());
        assert_eq!(names, ["c.yaml", "config.yaml", "..data"].map(OsString::from).into());
    }

    #[test]
    fn links_that_lead_in_a_circle_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yaml");
        std::os::unix::fs::symlink("c.yaml", &file).unwrap();
        assert_eq!(places(&file).0.len(), 1);
    }
}
