//! Taking images away: what goes, what stays, and what a start that races with it sees.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::mount::{MountFlags, UnmountFlags};
use stower_storage::{
    CollectError, Digest, Image, ImageName, PartId, Reference, RemoveError, SnapshotKey, Storage, detached,
};
use support::{Built, Flavour, noise, storage, storage_in, tar};

fn key(name: &str) -> SnapshotKey {
    SnapshotKey::new(name).unwrap()
}

/// An image of one common layer and one of its own.
fn built(storage: &Storage, seed: u64, own: usize) -> Built {
    let layers = [tar(&[("common", b"common")]), tar(&[("own", &noise(own, seed))])];
    support::image(&storage.platform().to_string(), &layers, Flavour::OciGzip)
}

async fn import(storage: &Storage, name: &str, built: &Built) -> Image {
    let dir = tempfile::tempdir().unwrap();
    built.write_layout(dir.path(), "x");
    let name: Reference = name.parse().unwrap();
    storage.import(dir.path().to_owned(), Some(name)).await.unwrap().remove(0)
}

fn names(storage: &Storage) -> BTreeSet<String> {
    let images = storage.images().unwrap();
    images.into_iter().map(|image| image.reference.map_or("<none>".into(), |name| name.familiar())).collect()
}

fn blobs(root: &Path) -> usize {
    std::fs::read_dir(root.join("content/blobs/sha256")).unwrap().count()
}

#[tokio::test]
async fn an_image_goes_with_what_no_other_needs() {
    let (dir, storage) = storage(&[]);
    let a = import(&storage, "a", &built(&storage, 1, 100_000)).await;
    let b = import(&storage, "b", &built(&storage, 2, 200_000)).await;
    let inventory = storage.inventory().unwrap();
    assert_eq!((inventory.images.len(), inventory.garbage.len(), inventory.layers.len()), (2, 0, 0));
    let of = |image: &Image| inventory.images.iter().find(|it| it.manifest == image.manifest).unwrap();
    let shared: BTreeSet<&PartId> = of(&a).parts.intersection(&of(&b).parts).collect();
    let common = PartId::Layer(a.chain()[0]);
    assert_eq!(shared, [&PartId::Blob(a.layers[0].digest), &common].into());
    let own = inventory.parts[&PartId::Layer(b.chain_id)];
    assert!(own.bytes >= 200_000 && own.inodes == 2, "{own:?}");

    let went = storage.collect_image(&a.manifest).unwrap();
    assert_eq!(went.references, [a.reference.clone().unwrap()]);
    // Manifest, configuration and its own layer.
    assert_eq!((went.swept.blobs, went.layers), (3, vec![a.chain_id]));
    assert_eq!((names(&storage), blobs(dir.path())), (["b".to_owned() + ":latest"].into(), 4));
    // It takes no room any more, not only later.
    let trash = dir.path().join("snapshots").join(storage.snapshots().driver()).join("trash");
    assert_eq!(std::fs::read_dir(trash).unwrap().count(), 0);
    // What is left is whole.
    storage.snapshots().prepare(&key("b"), Some(&b.chain_id)).unwrap();
    drop(storage.snapshots().activate(&key("b")).unwrap());
    // Doing it again finds nothing and harms nothing.
    assert_eq!(storage.collect_image(&a.manifest).unwrap(), stower_storage::Collected::default());
}

#[tokio::test]
async fn who_uses_an_image_keeps_it() {
    let (_dir, storage) = storage(&[]);
    let a = import(&storage, "a", &built(&storage, 1, 1000)).await;
    let mut lease = storage.lease(&a.digest);
    assert!(matches!(storage.collect_image(&a.manifest), Err(CollectError::Leased(_))));
    lease.hold(&a);
    storage.snapshots().prepare(&key("container"), Some(&a.chain_id)).unwrap();
    drop(lease);
    match storage.collect_image(&a.manifest) {
        Err(CollectError::InUse { snapshot, .. }) => assert_eq!(snapshot, "container"),
        other => panic!("{other:?}"),
    }
    assert_eq!(storage.inventory().unwrap().bases, [a.chain_id].into());
    storage.snapshots().remove(&key("container")).unwrap();
    storage.collect_image(&a.manifest).unwrap();
    assert_eq!((names(&storage).len(), storage.snapshots().layers().len()), (0, 0));
}

#[tokio::test]
async fn the_last_use_is_remembered_by_the_store() {
    let (dir, storage) = storage(&[]);
    let before = SystemTime::now() - Duration::from_secs(2);
    let a = import(&storage, "a", &built(&storage, 1, 1000)).await;
    let used = |storage: &Storage| storage.inventory().unwrap().images[0].last_used;
    assert!(used(&storage) >= before, "a pull is a use");
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    storage.used(&a.digest, at);
    drop(storage);
    let storage = storage_in(dir.path(), &[]);
    assert_eq!(used(&storage), at);
    assert_eq!(storage.image(&"a".parse().unwrap()).unwrap().unwrap().manifest, a.manifest);
    // Taken in once more, though nothing of it is written.
    import(&storage, "a", &built(&storage, 1, 1000)).await;
    assert!(used(&storage) >= before);
}

#[tokio::test]
async fn an_image_without_a_name_and_layers_without_an_image_go_too() {
    let (_dir, storage) = storage(&[]);
    let old = import(&storage, "a", &built(&storage, 1, 1000)).await;
    let new = import(&storage, "a", &built(&storage, 2, 1000)).await;
    assert_eq!(names(&storage), ["<none>".to_owned(), "a:latest".to_owned()].into());
    storage.collect_image(&old.manifest).unwrap();
    assert_eq!(storage.images().unwrap(), std::slice::from_ref(&new));

    // Its container keeps the layers; when that is gone, nobody does.
    storage.snapshots().prepare(&key("c"), Some(&new.chain_id)).unwrap();
    storage.remove_image(ImageName::Digest(new.digest)).await.unwrap();
    assert_eq!(storage.inventory().unwrap().layers, []);
    storage.snapshots().remove(&key("c")).unwrap();
    assert_eq!(storage.inventory().unwrap().layers, new.chain());
    let went = storage.collect_garbage(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(went.layers, [new.chain_id, new.chain()[0]]);
    assert_eq!(storage.snapshots().layers(), []);
}

#[tokio::test]
async fn old_garbage_goes_and_young_stays() {
    let (dir, storage) = storage(&[]);
    let a = import(&storage, "a", &built(&storage, 1, 1000)).await;
    let content = dir.path().join("content");
    let old = SystemTime::now() - Duration::from_secs(3600);
    for (name, at) in [("old", old), ("young", SystemTime::now())] {
        for place in ["ingest", "blobs/sha256"] {
            let path = content.join(place).join(Digest::of(format!("{place}{name}").as_bytes()).hex());
            std::fs::write(&path, name).unwrap();
            std::fs::File::open(&path).unwrap().set_modified(at).unwrap();
        }
    }
    assert_eq!(storage.inventory().unwrap().garbage.len(), 4);
    let went = storage.collect_garbage(old + Duration::from_secs(60)).unwrap();
    assert_eq!((went.swept.blobs, went.swept.bytes), (2, 6));
    assert_eq!(storage.inventory().unwrap().garbage.len(), 2);
    // An image takes none of them along: another pull may go on with them.
    storage.collect_image(&a.manifest).unwrap();
    assert_eq!(storage.inventory().unwrap().garbage.len(), 2);
}

/// Starts and collections of one image at once. A start finds the image whole and keeps it, or does not find it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_a_start_and_a_collection_never_meet() {
    // In memory, where a sync costs nothing: it is the rounds that count.
    let disk = Small::new(64 << 20, 10_000);
    let storage = storage_in(disk.0.path(), &[]);
    let built = built(&storage, 1, 1000);
    let image = import(&storage, "a", &built).await;
    let (over, started, collected) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        {
            let (storage, over, started, image) = (&storage, &over, &started, &image);
            scope.spawn(move || {
                // Whoever fails ends the others.
                let _over = last(|| over.store(true, Ordering::Relaxed));
                let key = key("c");
                while !over.load(Ordering::Relaxed) {
                    let mut lease = storage.lease(&image.digest);
                    let Some(found) = storage.image_by_digest(&image.digest).unwrap() else { continue };
                    lease.hold(&found);
                    storage.snapshots().prepare(&key, Some(&found.chain_id)).unwrap();
                    let mount = &storage.snapshots().activate(&key).unwrap()[0];
                    drop(detached::open(mount).unwrap());
                    assert_eq!(storage.image_by_digest(&image.digest).unwrap().as_ref(), Some(&found));
                    drop(lease);
                    storage.snapshots().remove(&key).unwrap();
                    started.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (storage, over, started, collected, built) = (&storage, &over, &started, &collected, &built);
        scope.spawn(move || {
            let _over = last(|| over.store(true, Ordering::Relaxed));
            let rounds = || collected.load(Ordering::Relaxed).min(started.load(Ordering::Relaxed));
            while rounds() < 50 && !over.load(Ordering::Relaxed) {
                match storage.collect_image(&built.digest()) {
                    Ok(went) if went.references.is_empty() => {}
                    Ok(_) => {
                        collected.fetch_add(1, Ordering::Relaxed);
                        runtime.block_on(import(storage, "a", built));
                    }
                    Err(CollectError::Leased(_) | CollectError::InUse { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    });
    assert!(collected.into_inner() >= 50 && started.into_inner() >= 50);
}

/// Runs at every way out.
fn last<F: FnMut()>(what: F) -> impl Drop {
    struct Last<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Last<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Last(what)
}

/// A filesystem of so many bytes and inodes, gone with the value.
struct Small(tempfile::TempDir);

impl Small {
    fn new(bytes: u64, inodes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={bytes},nr_inodes={inodes}")).unwrap();
        rustix::mount::mount("none", dir.path(), "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
        Self(dir)
    }

    /// Fills it, until not one more byte or file fits.
    fn fill(&self, inodes: bool) {
        let path = |n: u64| self.0.path().join(format!("filler-{n}"));
        for n in 0.. {
            let content: &[u8] = if inodes { b"" } else { &[7; 64 << 10] };
            if std::fs::write(path(n), content).is_err() {
                break;
            }
        }
        if !inodes {
            for n in 1_000_000.. {
                if std::fs::write(path(n), [7; 1]).is_err() {
                    break;
                }
            }
        }
    }

    fn clear(&self) {
        for entry in std::fs::read_dir(self.0.path()).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("filler-") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test]
async fn root_an_image_goes_from_a_full_disk() {
    for inodes in [false, true] {
        let disk = Small::new(16 << 20, 500);
        let root = disk.0.path().join("data");
        std::fs::create_dir(&root).unwrap();
        let storage = storage_in(&root, &[]);
        let a = import(&storage, "a", &built(&storage, 1, 1 << 20)).await;
        import(&storage, "b", &built(&storage, 2, 1 << 20)).await;
        disk.fill(inodes);
        assert!(std::fs::write(root.join("x"), "x").is_err(), "the disk is not full");
        let went = storage.collect_image(&a.manifest).unwrap();
        assert_eq!(went.layers, [a.chain_id]);
        assert_eq!(names(&storage), ["b:latest".to_owned()].into());
        // Full again, and again it goes: there is ballast for the next time.
        disk.fill(inodes);
        let b = storage.images().unwrap().remove(0);
        storage.collect_image(&b.manifest).unwrap();
        drop(storage);
        assert_eq!(names(&storage_in(&root, &[])), BTreeSet::new());
    }
}

#[tokio::test]
async fn root_a_full_disk_leaves_nothing_half_done() {
    for inodes in [false, true] {
        let disk = Small::new(16 << 20, 500);
        let root = disk.0.path().join("data");
        std::fs::create_dir(&root).unwrap();
        let storage = storage_in(&root, &[]);
        let a = import(&storage, "a", &built(&storage, 1, 1000)).await;
        let big = built(&storage, 2, 2 << 20);
        let dir = tempfile::tempdir().unwrap();
        big.write_layout(dir.path(), "x");
        disk.fill(inodes);
        // Room for a part of it only: as much as one of the fillers, or two of them, has.
        for n in 0..8 {
            std::fs::remove_file(disk.0.path().join(format!("filler-{n}"))).unwrap();
            let name: Reference = "b".parse().unwrap();
            let error = storage.import(dir.path().to_owned(), Some(name)).await.unwrap_err();
            let mut text = error.to_string();
            let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
            while let Some(error) = cause {
                text.push_str(&format!(": {error}"));
                cause = error.source();
            }
            assert!(text.to_lowercase().contains("no space"), "{text}");
            assert_eq!(storage.images().unwrap(), std::slice::from_ref(&a));
            let inventory = storage.inventory().unwrap();
            assert_eq!((inventory.garbage, inventory.layers), (Vec::new(), Vec::new()));
            if inodes && n == 1 {
                break;
            }
        }
        disk.clear();
        let b = import(&storage, "b", &big).await;
        assert!(storage.is_unpacked(&b) && storage.is_unpacked(&a));
        drop(storage);
        let storage = storage_in(&root, &[]);
        assert_eq!(storage.images().unwrap(), [a, b]);
        assert!(!matches!(
            storage.remove_image(ImageName::Reference("c".parse().unwrap())).await,
            Ok(_) | Err(RemoveError::Load(_))
        ));
    }
}
