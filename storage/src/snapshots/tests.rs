//! Which driver is chosen.

use super::*;

fn refused(root: &Path, driver: Option<&str>, opts: &[(String, String)]) -> String {
    Snapshots::open(root, driver, opts).unwrap_err().to_string()
}

#[test]
fn root_names_that_are_not_here_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["aufs", "btrfs", "devicemapper", "zfs"] {
        let text = refused(dir.path(), Some(name), &[]);
        assert!(text.contains("not in this version") && text.contains("overlay, native"), "{text}");
    }
    assert!(refused(dir.path(), Some("overlay3"), &[]).contains("not known; there are: overlay, native"));
    let option = ("dm.basesize".to_owned(), "20G".to_owned());
    assert!(refused(dir.path(), Some("native"), &[option]).contains("dm.basesize"));
}

#[test]
fn root_what_is_in_use_stays() {
    let dir = tempfile::tempdir().unwrap();
    let open = |driver| Snapshots::open(dir.path(), driver, &[]).unwrap();
    assert_eq!(open(None).driver(), "overlay");
    // Opened once is not in use.
    let native = open(Some("native"));
    native.prepare(&SnapshotKey::new("one").unwrap(), None).unwrap();
    assert_eq!(open(None).driver(), "native");
    open(Some("overlay")).prepare(&SnapshotKey::new("one").unwrap(), None).unwrap();
    assert!(refused(dir.path(), None, &[]).contains("several storage drivers (overlay, native)"));
    assert_eq!(open(Some("native")).list().len(), 1);
}

/// Where overlayfs does not work, here on overlayfs itself, the next driver does.
#[test]
fn root_the_first_that_works() {
    use crate::mount::{Mount, detached};
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["lower", "lower2", "upper", "work"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    let overlay = detached::open(&Mount::Overlay {
        lower: vec![path("lower"), path("lower2")],
        upper: Some(path("upper")),
        work: Some(path("work")),
        options: Vec::new(),
    })
    .unwrap();
    let at = crate::testsuite::Files::new(&overlay).path("data");
    assert_eq!(Snapshots::open(&at, None, &[]).unwrap().driver(), "native");
    assert!(refused(&at, Some("overlay"), &[]).contains("does not work in this directory"));
}
