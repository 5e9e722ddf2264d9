//! Which driver is chosen.

use super::*;

fn refused(root: &Path, driver: Option<&str>, opts: &[(String, String)]) -> String {
    Snapshots::open(root, driver, opts).unwrap_err().to_string()
}

#[test]
fn root_names_that_are_not_here_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["aufs", "zfs"] {
        let text = refused(dir.path(), Some(name), &[]);
        assert!(
            text.contains("not in this version") && text.contains("overlay, devicemapper, btrfs, native"),
            "{text}"
        );
    }
    assert!(
        refused(dir.path(), Some("overlay3"), &[])
            .contains("not known; there are: overlay, devicemapper, btrfs, native")
    );
    let option = ("dm.basesize".to_owned(), "20G".to_owned());
    assert!(refused(dir.path(), Some("native"), &[option]).contains("dm.basesize"));
}

/// What was passed over, as `driver: why`.
fn passed_over(store: &Snapshots) -> Vec<String> {
    store.selection().passed_over.iter().map(ToString::to_string).collect()
}

/// All but one, for one reason.
fn others(driver: &str, why: &str) -> Vec<String> {
    DRIVERS.iter().filter(|other| **other != driver).map(|other| format!("{other}: {why}")).collect()
}

#[test]
fn root_options_are_for_the_driver_that_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let options = [("native.size".to_owned(), "1G".to_owned())];
    // Also where nobody named one: an option is never a reason to take another driver.
    for (named, driver) in [(None, "overlay"), (Some("native"), "native")] {
        let text = refused(dir.path(), named, &options);
        assert_eq!(
            text,
            format!(
                "storage option \"native.size\" is not known to the driver {driver}, which has no options"
            )
        );
    }
}

#[test]
fn root_what_is_in_use_stays() {
    let dir = tempfile::tempdir().unwrap();
    let open = |driver| Snapshots::open(dir.path(), driver, &[]).unwrap();
    let first = open(None);
    assert_eq!((first.driver(), first.selection().chosen), ("overlay", Chosen::FirstThatWorks));
    let comes_first = "overlay works here and comes first";
    assert_eq!(passed_over(&first), others("overlay", comes_first));
    // Opened once is not in use.
    let native = open(Some("native"));
    assert_eq!(passed_over(&native), others("native", "native was asked for"));
    native.prepare(&SnapshotKey::new("one").unwrap(), None).unwrap();
    let again = open(None);
    assert_eq!((again.driver(), again.selection().chosen), ("native", Chosen::InUse));
    assert_eq!(passed_over(&again), others("native", "native has data here"));
    let overlay = open(Some("overlay"));
    assert_eq!(overlay.selection().unused, ["native"]);
    let mut why = others("overlay", "overlay was asked for");
    *why.last_mut().unwrap() =
        "native: it has data here, which stays unused: overlay was asked for".to_owned();
    assert_eq!(passed_over(&overlay), why);
    overlay.prepare(&SnapshotKey::new("one").unwrap(), None).unwrap();
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
        on: None,
    })
    .unwrap();
    let at = crate::testsuite::Files::new(&overlay).path("data");
    let store = Snapshots::open(&at, None, &[]).unwrap();
    // The next one, where the kernel has it.
    let next =
        if crate::driver::devicemapper::DeviceMapper::probe(&at).is_ok() { "devicemapper" } else { "native" };
    assert_eq!((store.driver(), store.selection().chosen), (next, Chosen::FirstThatWorks));
    let why = passed_over(&store);
    assert!(why[0].starts_with("overlay: cannot mount an overlay"), "{why:?}");
    if next == "devicemapper" {
        return;
    }
    let btrfs = format!("btrfs: {} is on overlay; the driver works on btrfs only", at.display());
    assert!(why.contains(&btrfs), "{why:?}");
    assert_eq!(why.len(), DRIVERS.len() - 1);
    assert!(refused(&at, Some("overlay"), &[]).contains("does not work in this directory"));
}
