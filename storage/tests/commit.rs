//! Containers' changes as images, and images as archives.

mod support;

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use serde_json::Value;
use stower_storage::testsuite::{Item, Tree, difference, tar, tree};
use stower_storage::{
    CommitImageError, CommitRequest, Digest, Image, ImageName, Reference, SaveError, SnapshotKey, Storage,
    detached,
};
use support::{Flavour, storage};

fn key(name: &str) -> SnapshotKey {
    SnapshotKey::new(name).unwrap()
}

fn reference(name: &str) -> Reference {
    name.parse().unwrap()
}

/// An image whose layers are these.
async fn base(storage: &Storage, name: &str) -> Image {
    let layers = [
        tar::archive(&[Item::dir("etc"), Item::file("etc/hosts", "1"), Item::file("etc/gone", "x")]),
        tar::archive(&[Item::dir("bin"), Item::file("bin/sh", "sh").mode(0o755)]),
    ];
    let built = support::image(&storage.platform().to_string(), &layers, Flavour::Docker);
    let dir = tempfile::tempdir().unwrap();
    built.write_layout(dir.path(), name);
    storage.import(dir.path().to_owned(), None).await.unwrap().remove(0)
}

/// A snapshot with changes in it, as a container leaves it.
fn changed(storage: &Storage, name: &str, image: &Image, change: impl FnOnce(PathBuf)) {
    let snapshots = storage.snapshots();
    snapshots.prepare(&key(name), Some(&image.chain_id)).unwrap();
    let mount = detached::open(&snapshots.activate(&key(name)).unwrap()[0]).unwrap();
    change(PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), mount.as_raw_fd())));
}

fn set_time(path: PathBuf) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 5);
    std::fs::File::open(path).unwrap().set_modified(time).unwrap();
}

#[allow(clippy::needless_pass_by_value, reason = "as a closure takes it")]
fn some_changes(root: PathBuf) {
    std::fs::write(root.join("etc/new"), "n").unwrap();
    std::fs::remove_file(root.join("etc/gone")).unwrap();
    set_time(root.join("etc/new"));
    set_time(root.join("etc"));
}

fn request(snapshot: &str, image: &Image, name: Option<&str>) -> CommitRequest {
    CommitRequest {
        snapshot: key(snapshot),
        base: image.digest,
        name: name.map(reference),
        author: Some("me".into()),
        message: Some("for a test".into()),
        created_by: "sh -c x".into(),
        created: "2026-01-02T03:04:05Z".parse().unwrap(),
        changes: vec![r#"CMD ["new"]"#.parse().unwrap(), "ENV A=1".parse().unwrap()],
        stubs: Vec::new(),
        reading: None,
    }
}

fn view(storage: &Storage, image: &Image) -> Tree {
    let snapshots = storage.snapshots();
    snapshots.view(&key("view"), Some(&image.chain_id)).unwrap();
    let seen = tree(&detached::open(&snapshots.activate(&key("view")).unwrap()[0]).unwrap());
    snapshots.remove(&key("view")).unwrap();
    seen
}

fn config(storage: &Storage, image: &Image) -> Value {
    serde_json::from_slice(&storage.content().read(&image.id, 1 << 20).unwrap()).unwrap()
}

fn blobs(storage: &Storage) -> usize {
    std::fs::read_dir(storage.content().root().join("blobs/sha256")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_commit_is_an_image() {
    let (dir, storage) = storage(&[]);
    let image = base(&storage, "example.com/base:1").await;
    changed(&storage, "c", &image, some_changes);
    let made = storage.commit_image(request("c", &image, Some("example.com/new:2"))).await.unwrap();
    assert_eq!(made.layers.len(), 3);
    assert_eq!(made.layers[..2], image.layers[..]);
    assert_eq!(made.config.cmd, ["new"]);
    assert!(made.config.env.contains(&"A=1".to_owned()));
    let file = config(&storage, &made);
    assert_eq!(file["author"], "me");
    assert_eq!(file["created"], "2026-01-02T03:04:05Z");
    let history = file["history"].as_array().unwrap();
    assert_eq!(history.iter().filter(|one| one.get("empty_layer").is_none()).count(), 3);
    let last = history.last().unwrap();
    assert_eq!(
        (&last["comment"], &last["created_by"], &last["author"]),
        (&"for a test".into(), &"sh -c x".into(), &"me".into())
    );
    let seen = view(&storage, &made);
    assert!(seen.contains_key("etc/new") && !seen.contains_key("etc/gone") && seen.contains_key("bin/sh"));
    // As durable as one that was pulled: another process finds it, and all of it.
    drop(storage);
    let storage = support::storage_in(dir.path(), &[]);
    let found = storage.image(&reference("example.com/new:2")).unwrap().unwrap();
    assert_eq!((found.digest, storage.is_unpacked(&found)), (made.digest, true));
    assert_eq!(difference(&seen, &view(&storage, &found)), Vec::<String>::new());
}

/// The same changes at the same time are the same image, wherever.
#[tokio::test(flavor = "multi_thread")]
async fn root_a_commit_is_reproducible() {
    let mut made = Vec::new();
    for driver in ["overlay", "native", "overlay"] {
        let (_dir, storage) = support::storage_with(driver);
        let image = base(&storage, "example.com/base:1").await;
        changed(&storage, "c", &image, some_changes);
        let image = storage.commit_image(request("c", &image, None)).await.unwrap();
        assert_eq!(image.reference, None);
        assert!(storage.image_by_digest(&image.digest).unwrap().is_some());
        made.push((image.digest, image.layers.last().unwrap().diff_id));
    }
    assert!(made.iter().all(|one| *one == made[0]), "{made:?}");
}

/// What changes only the configuration has no layer of its own.
#[tokio::test(flavor = "multi_thread")]
async fn root_nothing_changed_is_no_layer() {
    let (_dir, storage) = storage(&[]);
    let image = base(&storage, "example.com/base:1").await;
    changed(&storage, "c", &image, |root| {
        std::fs::write(root.join("short-lived"), "1").unwrap();
        std::fs::remove_file(root.join("short-lived")).unwrap();
    });
    let made = storage.commit_image(request("c", &image, Some("example.com/new:1"))).await.unwrap();
    assert_eq!((made.layers.len(), made.chain_id), (2, image.chain_id));
    assert_eq!(made.config.cmd, ["new"]);
    assert_eq!(config(&storage, &made)["history"].as_array().unwrap().last().unwrap()["empty_layer"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_commit_that_fails_leaves_nothing() {
    let (_dir, storage) = storage(&[]);
    let image = base(&storage, "example.com/base:1").await;
    changed(&storage, "c", &image, |root| std::fs::write(root.join(".wh.x"), "").unwrap());
    let before = blobs(&storage);
    let refused = storage.commit_image(request("c", &image, None)).await.unwrap_err();
    assert!(matches!(refused, CommitImageError::Diff(_)), "{refused:?}");
    let mut bad = request("c", &image, None);
    bad.changes = vec!["USER $NOBODY".parse().unwrap()];
    changed(&storage, "d", &image, some_changes);
    bad.snapshot = key("d");
    assert!(matches!(storage.commit_image(bad).await.unwrap_err(), CommitImageError::Change(_)));
    let error = storage.commit_image(request("nothing", &image, None)).await.unwrap_err();
    assert!(matches!(error, CommitImageError::Diff(_)), "{error:?}");
    let pinned = format!("example.com/x@{}", Digest::of(b"x"));
    let error = storage.commit_image(request("d", &image, Some(&pinned))).await.unwrap_err();
    assert!(matches!(error, CommitImageError::Name(_)), "{error:?}");
    let mut wrong = request("d", &image, None);
    wrong.base = Digest::of(b"another");
    assert!(matches!(storage.commit_image(wrong).await.unwrap_err(), CommitImageError::NoBase(_)));
    assert_eq!(blobs(&storage), before);
    assert_eq!(std::fs::read_dir(storage.content().root().join("ingest")).unwrap().count(), 0);
    assert_eq!(storage.images().unwrap().len(), 1);
}

/// A container is held still for as long as it is read, and no longer, whatever happens.
#[tokio::test(flavor = "multi_thread")]
async fn root_the_guard_is_dropped_on_every_way_out() {
    struct Guard(std::sync::Arc<std::sync::atomic::AtomicUsize>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }
    let (_dir, storage) = storage(&[]);
    let image = base(&storage, "example.com/base:1").await;
    changed(&storage, "c", &image, some_changes);
    let dropped = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    for (at, snapshot) in ["c", "nothing"].into_iter().enumerate() {
        let mut request = request(snapshot, &image, None);
        request.reading = Some(Box::new(Guard(dropped.clone())));
        let _ = storage.commit_image(request).await;
        assert_eq!(dropped.load(std::sync::atomic::Ordering::SeqCst), at + 1);
    }
    let mut request = request("c", &image, None);
    request.reading = Some(Box::new(Guard(dropped.clone())));
    drop(storage.commit_image(request));
    assert_eq!(dropped.load(std::sync::atomic::Ordering::SeqCst), 3);
}

/// Who removes the base meanwhile keeps its layers, which the new image needs.
#[tokio::test(flavor = "multi_thread")]
async fn root_an_image_outlives_its_base() {
    let (_dir, storage) = storage(&[]);
    let image = base(&storage, "example.com/base:1").await;
    changed(&storage, "c", &image, some_changes);
    let made = storage.commit_image(request("c", &image, Some("example.com/new:1"))).await.unwrap();
    storage.remove_image(ImageName::Reference(reference("example.com/base:1"))).await.unwrap();
    storage.snapshots().remove(&key("c")).unwrap();
    assert!(view(&storage, &made).contains_key("bin/sh"));
    let error = {
        storage.snapshots().prepare(&key("d"), Some(&made.chain_id)).unwrap();
        storage.commit_image(request("d", &image, None)).await.unwrap_err()
    };
    assert!(matches!(error, CommitImageError::NoBase(_)), "{error:?}");
    let mut other = request("d", &made, None);
    storage.snapshots().prepare(&key("e"), Some(&image.chain_id)).unwrap();
    other.snapshot = key("e");
    assert!(matches!(storage.commit_image(other).await.unwrap_err(), CommitImageError::OtherBase { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_saved_image_is_imported_as_it_was() {
    let (_dir, storage) = storage(&[]);
    let image = base(&storage, "example.com/base:1").await;
    changed(&storage, "c", &image, some_changes);
    let made = storage.commit_image(request("c", &image, Some("example.com/new:2"))).await.unwrap();
    let names = [&image, &made].map(|image| ImageName::Reference(image.reference.clone().unwrap()));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    storage.save(&names, &mut file).unwrap();
    file.flush().unwrap();
    let (_other, second) = support::storage(&[]);
    let images = second.import(file.path().to_owned(), None).await.unwrap();
    assert_eq!(images.iter().map(|image| image.digest).collect::<Vec<_>>(), [image.digest, made.digest]);
    assert_eq!(difference(&view(&storage, &made), &view(&second, &images[1])), Vec::<String>::new());
    // Twice the same, and by digest too.
    let (mut one, mut two) = (Vec::new(), Vec::new());
    storage.save(&[ImageName::Digest(made.id)], &mut one).unwrap();
    storage.save(&[ImageName::Digest(made.digest)], &mut two).unwrap();
    assert!(one == two && !one.is_empty());
    let missing = ImageName::Reference(reference("example.com/none:1"));
    let mut out = Vec::new();
    assert!(matches!(storage.save(&[names[0].clone(), missing], &mut out), Err(SaveError::NotFound(_))));
    assert_eq!(out.len(), 0, "nothing is written before all are found");
}

/// GNU tar reads it, and who knows only Docker's list of images finds the same image.
#[tokio::test(flavor = "multi_thread")]
async fn root_other_programs_read_a_saved_image() {
    let (_dir, storage) = storage(&[]);
    let image = base(&storage, "example.com/base:1").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let name = ImageName::Reference(image.reference.clone().unwrap());
    storage.save(&[name], &mut file.reopen().unwrap()).unwrap();
    let tar = |option: &str, member: &[&str]| {
        let out = std::process::Command::new("tar")
            .args([option, "-f"])
            .arg(file.path())
            .args(member)
            .output()
            .unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(tar("--list", &[]).contains("manifest.json\n"));
    tar("--delete", &["index.json", "oci-layout"]);
    let (_other, second) = support::storage(&[]);
    let found = second.import(file.path().to_owned(), None).await.unwrap().remove(0);
    assert_eq!((found.id, found.layers, found.reference), (image.id, image.layers, image.reference));
}

/// A damaged blob is not passed on as if it were whole.
#[tokio::test(flavor = "multi_thread")]
async fn root_a_damaged_image_is_not_saved() {
    let (_dir, storage) = storage(&[]);
    let image = base(&storage, "example.com/base:1").await;
    let layer = image.layers[0].digest;
    let path = storage.content().root().join("blobs/sha256").join(layer.hex());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let name = ImageName::Digest(image.digest);
    let error = storage.save(std::slice::from_ref(&name), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, SaveError::Read(digest, _) if digest == layer), "{error:?}");
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(storage.save(&[name], &mut Vec::new()), Err(SaveError::Incomplete { .. })));
}
