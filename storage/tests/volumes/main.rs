//! Volumes on the real kernel: directories, loop devices, tmpfs.

mod crash;
mod quota;
mod random;
mod support;

use std::os::unix::fs::MetadataExt;

use stower_storage::testsuite::Item;
use stower_storage::{Mount, VolumeDriver, VolumeError, VolumeKey, VolumeOptions, Volumes};
use support::*;

fn kinds() -> [(&'static str, VolumeOptions); 3] {
    [("plain", local()), ("image", sized(16)), ("tmpfs", tmpfs())]
}

#[test]
fn keys_are_safe_names() {
    for good in ["a", "@x", "v/ns/name", "c/1-2/@0/x+y_z.w"] {
        assert_eq!(key(good).to_string(), good);
    }
    let long = "x".repeat(256);
    for bad in
        ["", ".", "..", "a/..", "a//b", "/a", "a/", ".new", "-a", "+a", "a b", "a\0", "a/b/c/d/e", &long, "ä"]
    {
        assert!(bad.parse::<VolumeKey>().is_err(), "{bad:?}");
    }
    assert!(VolumeKey::new(["a/b"]).is_err());
    assert!(VolumeKey::new(Vec::<String>::new()).is_err());
    assert!(key("a/b").starts_with(&key("a")) && !key("ab").starts_with(&key("a")));
}

#[test]
fn root_a_fill_keeps_everything_and_is_done_once() {
    let image = Image::new(&rich());
    for (name, options) in kinds() {
        let place = Place::new();
        let store = place.open();
        let key = key("v/default/data");
        let made = store.provision(&key, &options).unwrap();
        assert!(!made.has_data && made.filled_from.is_none(), "{name}");
        assert!(matches!(store.activate(&key), Err(VolumeError::Unfilled(_))), "{name}");

        let filled = store.fill(&key, &image.source("/var/data")).unwrap();
        assert!(filled.has_data, "{name}");
        assert_eq!(filled.filled_from.as_deref(), Some(DIGEST), "{name}");
        let data = mounted(&store, &key);
        let mut expected = kept_by(data.fd(), image.seen("var/data"));
        if name == "image" {
            // The root of an ext4 has more than the data; the data themselves do not.
            assert!(!data.tree().contains_key("lost+found"));
        }
        assert_same(&expected, &data.tree());
        assert!(stat(&data.path("sparse")).st_blocks * 512 < 1 << 20, "{name}: holes stay");

        // Another fill, from anything, changes nothing.
        std::fs::write(data.path("mine"), "mine").unwrap();
        expected = data.tree();
        assert_eq!(store.fill(&key, &image.source("/etc")).unwrap(), filled, "{name}");
        assert_eq!(store.ensure_data(&key).unwrap(), filled, "{name}");
        assert_same(&expected, &mounted(&store, &key).tree());
        drop(data);
        store.remove(&key).unwrap();
        store.remove(&key).unwrap();
        assert!(store.find(&key).unwrap().is_none(), "{name}");
        assert_eq!(contents(place.path()), Vec::<String>::new(), "{name}");
        assert_eq!(names(&place.path().join("mounts")), Vec::<String>::new(), "{name}");
        assert_eq!(place.mounts(), Vec::<std::path::PathBuf>::new(), "{name}");
        place.assert_no_devices();
    }
}

#[test]
fn root_an_empty_volume_has_the_owner_and_mode_that_were_asked_for() {
    for (name, options) in kinds() {
        let place = Place::new();
        let store = place.open();
        let given = VolumeOptions { uid: Some(10), gid: Some(11), mode: Some(0o2770), ..options.clone() };
        for (at, options, expected) in [("a", &options, (0, 0, 0o755)), ("b", &given, (10, 11, 0o2770))] {
            store.provision(&key(at), options).unwrap();
            store.ensure_data(&key(at)).unwrap();
            let data = mounted(&store, &key(at));
            let seen = stat(&data.path("."));
            assert_eq!((seen.st_uid, seen.st_gid, seen.st_mode & 0o7777), expected, "{name} {at}");
            assert_eq!(names(&data.path(".")), Vec::<String>::new(), "{name} {at}");
        }
        // Data that are there change when other values are asked for, and only then.
        store.provision(&key("b"), &options).unwrap();
        let seen = || {
            let seen = stat(&mounted(&store, &key("b")).path("."));
            (seen.st_uid, seen.st_gid, seen.st_mode & 0o7777)
        };
        assert_eq!(seen(), (10, 11, 0o2770), "{name}");
        store.provision(&key("b"), &VolumeOptions { uid: Some(12), ..options.clone() }).unwrap();
        assert_eq!(seen(), (12, 11, 0o2770), "{name}");
        store.provision(&key("b"), &VolumeOptions { mode: Some(0o700), ..options.clone() }).unwrap();
        assert_eq!(seen(), (12, 11, 0o700), "{name}");
        store.remove_all(&key("b")).unwrap();
    }
}

#[test]
fn root_options_win_over_the_image_and_a_missing_path_is_an_empty_directory() {
    let image = Image::new(&rich());
    let place = Place::new();
    let store = place.open();
    let options = VolumeOptions { uid: Some(1), mode: Some(0o711), ..local() };
    store.provision(&key("a"), &options).unwrap();
    store.fill(&key("a"), &image.source("var/data")).unwrap();
    let seen = stat(&mounted(&store, &key("a")).path("."));
    assert_eq!((seen.st_uid, seen.st_gid, seen.st_mode & 0o7777), (1, 998, 0o711));

    store.provision(&key("b"), &local()).unwrap();
    let record = store.fill(&key("b"), &image.source("/not/there")).unwrap();
    assert!(record.has_data);
    assert_eq!(names(&record.data), Vec::<String>::new());
    assert_eq!(stat(&record.data).st_mode & 0o7777, 0o755);

    store.provision(&key("c"), &local()).unwrap();
    for path in ["/etc/passwd", "/etc/passwd/below", "/var/data/l", "var/data/null"] {
        let error = store.fill(&key("c"), &image.source(path)).unwrap_err();
        assert!(matches!(error, VolumeError::NotDirectory { .. }), "{path}: {error:?}");
        assert!(told(&error).contains(path) && told(&error).contains(DIGEST), "{}", told(&error));
        assert_eq!(names(&place.path().join("volumes/c")), ["volume.json"], "{path}");
    }
}

#[test]
fn root_a_link_in_the_image_leads_nowhere_else() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "host").unwrap();
    let host = outside.path().to_str().unwrap();
    let up = format!("{}{host}", "../".repeat(40));
    let inside = host.trim_start_matches('/');
    let image = Image::new(&[vec![
        Item::symlink("absolute", host),
        Item::symlink("up", &up),
        Item::symlink("magic", "/proc/self/root"),
        Item::symlink("loop", "loop"),
        Item::dir("d"),
        Item::symlink("d/run", "/var/run"),
        Item::dir("var/run"),
        Item::file("var/run/f", "image"),
    ]]);
    let there = Image::new(&[vec![Item::symlink("l", host), Item::file(format!("{inside}/own"), "image")]]);
    let place = Place::new();
    let store = place.open();
    let dots = format!("{}{host}", "/..".repeat(40));
    for (at, path) in ["absolute", "up", "magic", &dots, "/d/../../../../absolute"].into_iter().enumerate() {
        let key = key(&format!("v{at}"));
        store.provision(&key, &local()).unwrap();
        let record = store.fill(&key, &image.source(path)).unwrap();
        assert_eq!(names(&record.data), Vec::<String>::new(), "{path}");
    }
    store.provision(&key("loop"), &local()).unwrap();
    let error = store.fill(&key("loop"), &image.source("/loop")).unwrap_err();
    assert!(matches!(error, VolumeError::ImagePath { .. }), "{error:?}");
    // A link within the image is followed, as in a container.
    store.provision(&key("run"), &local()).unwrap();
    assert_eq!(names(&store.fill(&key("run"), &image.source("/d/run")).unwrap().data), ["f"]);
    store.provision(&key("own"), &local()).unwrap();
    assert_eq!(names(&store.fill(&key("own"), &there.source("/l")).unwrap().data), ["own"]);
}

#[test]
fn root_volumes_are_adopted_with_their_data() {
    let image = Image::new(&rich());
    for (name, options) in kinds() {
        let place = Place::new();
        let filled = {
            let store = place.open();
            store.provision(&key("v/a"), &options).unwrap();
            store.fill(&key("v/a"), &image.source("/var/data")).unwrap()
        };
        let store = place.open();
        assert_eq!(records(&store), std::slice::from_ref(&filled), "{name}");
        assert_eq!(store.provision(&key("v/a"), &options).unwrap(), filled, "{name}");
        assert_eq!(store.fill(&key("v/a"), &image.source("/etc")).unwrap(), filled, "{name}");
        let data = mounted(&store, &key("v/a"));
        assert_same(&kept_by(data.fd(), image.seen("var/data")), &data.tree());
        drop(data);

        // Any other kind is refused, and says where the data are.
        for (other, wanted) in kinds().into_iter().filter(|(other, _)| *other != name) {
            let error = store.provision(&key("v/a"), &wanted).unwrap_err();
            assert!(
                matches!(error, VolumeError::WrongDriver { .. } | VolumeError::WrongKind { .. }),
                "{name} to {other}: {error:?}"
            );
            assert!(told(&error).contains(filled.data.to_str().unwrap()), "{}", told(&error));
            assert!(filled.data.exists());
        }
        assert_eq!(records(&store), [filled], "{name}");
        store.remove_all(&key("v")).unwrap();
    }
}

#[test]
fn root_memory_is_empty_after_a_reboot() {
    let place = Place::new();
    let store = place.open();
    store.provision(&key("v/m"), &tmpfs()).unwrap();
    let record = store.ensure_data(&key("v/m")).unwrap();
    assert!(record.has_data && record.capacity_enforced);
    std::fs::write(record.data.join("data/f"), "x").unwrap();
    // A reboot ends the mount, and the run root with it.
    rustix::mount::unmount(&record.data, rustix::mount::UnmountFlags::DETACH).unwrap();
    std::fs::remove_dir_all(place.path().join("mounts")).unwrap();
    let store = place.open();
    assert!(!store.find(&key("v/m")).unwrap().unwrap().has_data);
    assert!(matches!(store.activate(&key("v/m")), Err(VolumeError::Unfilled(_))));
    assert!(!store.provision(&key("v/m"), &tmpfs()).unwrap().has_data);
    store.ensure_data(&key("v/m")).unwrap();
    assert_eq!(names(&mounted(&store, &key("v/m")).path(".")), Vec::<String>::new());
    store.remove(&key("v/m")).unwrap();
}

#[test]
fn root_a_mount_without_a_volume_goes_at_start_up() {
    let place = Place::new();
    let store = place.open();
    store.provision(&key("v/m"), &tmpfs()).unwrap();
    store.ensure_data(&key("v/m")).unwrap();
    store.provision(&key("v/kept"), &tmpfs()).unwrap();
    std::fs::remove_dir_all(place.path().join("volumes/v/m")).unwrap();
    let store = place.open();
    assert_eq!(place.mounts(), [place.path().join("mounts/v/kept")]);
    store.remove_all(&key("v")).unwrap();
    assert_eq!(place.mounts(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn root_capacity_is_enforced() {
    for (name, options) in [("image", sized(16)), ("tmpfs", tmpfs())] {
        let place = Place::new();
        let store = place.open();
        let record = store.provision(&key("a"), &options).unwrap();
        assert!(record.capacity_enforced);
        store.ensure_data(&key("a")).unwrap();
        let data = mounted(&store, &key("a"));
        let before = store.usage(&key("a")).unwrap();
        assert_eq!(before.capacity, Some(16 * MIB), "{name}");
        let available = before.available.unwrap();
        assert!((8 * MIB..=16 * MIB).contains(&available), "{name}: {before:?}");
        let error = std::fs::write(data.path("large"), vec![1; 17 << 20]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{name}");
        rustix::fs::syncfs(data.fd()).unwrap();
        let after = store.usage(&key("a")).unwrap();
        assert!(after.bytes > before.bytes + 7 * MIB, "{name}: {after:?}");
        assert_eq!(after.inodes, before.inodes + 1, "{name}");
        drop(data);
        store.remove(&key("a")).unwrap();
    }
    let place = Place::new();
    let store = place.open();
    assert!(!store.provision(&key("a"), &local()).unwrap().capacity_enforced);
    assert_eq!(store.usage(&key("a")).unwrap().inodes, 0);
    let record = store.ensure_data(&key("a")).unwrap();
    std::fs::write(record.data.join("f"), vec![1; 1 << 20]).unwrap();
    std::fs::hard_link(record.data.join("f"), record.data.join("g")).unwrap();
    let usage = store.usage(&key("a")).unwrap();
    assert!((MIB..MIB + 65536).contains(&usage.bytes), "{usage:?}");
    assert_eq!((usage.inodes, usage.capacity), (2, None));
}

#[test]
fn root_an_image_takes_no_more_of_the_disk_than_it_has_to() {
    let place = Place::new();
    let store = place.open();
    let record = store.provision(&key("a"), &sized(1024)).unwrap();
    let meta = std::fs::metadata(&record.data).unwrap();
    assert_eq!(meta.len(), 1024 * MIB);
    assert!(meta.blocks() * 512 < 80 * MIB, "{}", meta.blocks() * 512);
    // What is removed inside goes back.
    store.ensure_data(&key("a")).unwrap();
    let data = mounted(&store, &key("a"));
    std::fs::write(data.path("f"), vec![1; 64 << 20]).unwrap();
    rustix::fs::syncfs(data.fd()).unwrap();
    let full = std::fs::metadata(&record.data).unwrap().blocks();
    std::fs::remove_file(data.path("f")).unwrap();
    rustix::fs::syncfs(data.fd()).unwrap();
    rustix::fs::syncfs(data.fd()).unwrap();
    let freed = std::fs::metadata(&record.data).unwrap().blocks();
    assert!(freed * 512 + 32 * MIB < full * 512, "{full} {freed}");
}

#[test]
fn root_capacities_that_cannot_be_leave_nothing() {
    let place = Place::new();
    let store = place.open();
    for capacity in [0, 1, MIB, 8 * MIB - 1] {
        let error =
            store.provision(&key("a"), &VolumeOptions { capacity: Some(capacity), ..local() }).unwrap_err();
        assert!(matches!(error, VolumeError::TooSmall { least, .. } if least == 8 * MIB), "{error:?}");
    }
    for capacity in [1 << 50, u64::MAX, u64::MAX - 1] {
        let error =
            store.provision(&key("a"), &VolumeOptions { capacity: Some(capacity), ..local() }).unwrap_err();
        assert!(matches!(error, VolumeError::TooLarge { .. }), "{error:?}");
    }
    assert_eq!(contents(place.path()), Vec::<String>::new());
    assert!(store.find(&key("a")).unwrap().is_none());
    // More than a filesystem has, where a sparse file of that length could be.
    in_small(32 * MIB, |at| {
        let tight = open(at);
        let error = tight.provision(&key("a"), &sized(33)).unwrap_err();
        assert!(matches!(error, VolumeError::TooLarge { most, .. } if most == 32 * MIB), "{error:?}");
        assert!(told(&error).contains("holds 33554432 at most"), "{}", told(&error));
        assert_eq!(contents(at), Vec::<String>::new());
        assert!(tight.find(&key("a")).unwrap().is_none());
        // The least there can be works, journal and all.
        tight.provision(&key("a"), &sized(8)).unwrap();
        tight.ensure_data(&key("a")).unwrap();
        std::fs::write(mounted(&tight, &key("a")).path("f"), "x").unwrap();
        // And growth is held to the same.
        let error = tight.provision(&key("a"), &sized(64)).unwrap_err();
        assert!(matches!(error, VolumeError::TooLarge { .. }), "{error:?}");
        assert_eq!(tight.find(&key("a")).unwrap().unwrap().capacity, Some(8 * MIB));
        tight.remove(&key("a")).unwrap();
    });
}

#[test]
fn root_a_full_disk_leaves_nothing_half_done() {
    let big = Image::new(&[vec![Item::file("d/a", "small"), Item::file("d/big", vec![7; 24 << 20])]]);
    let little = Image::new(&[vec![Item::file("d/a", "small")]]);
    // A store whose own filesystem is full, for a directory and for an image; volumes that are full themselves.
    for (name, options, size) in [
        ("plain", local(), 16),
        ("image", sized(48), 64),
        ("small image", sized(16), 64),
        ("tmpfs", tmpfs(), 64),
    ] {
        in_small(size * MIB, |at| {
            let place = Place::new();
            let store = Volumes::open(at.join("volumes"), place.path().join("mounts")).unwrap();
            store.provision(&key("a"), &options).unwrap();
            if name == "image" {
                std::fs::write(at.join("other"), vec![1; 48 << 20]).unwrap();
            }
            let error = store.fill(&key("a"), &big.source("/d")).unwrap_err();
            let VolumeError::Full { needed, available, .. } = &error else { panic!("{name}: {error:?}") };
            assert!(*needed >= 24 * MIB && available < needed, "{name}: {}", told(&error));
            assert!(told(&error).contains("is full: "), "{}", told(&error));
            let record = store.find(&key("a")).unwrap().unwrap();
            assert!(!record.has_data && record.filled_from.is_none(), "{name}");
            // And what fits goes in still: nothing was left that takes room.
            store.fill(&key("a"), &little.source("/d")).unwrap();
            let data = mounted(&store, &key("a"));
            assert_same(&little.seen("d"), &data.tree());
            if name == "plain" {
                assert_eq!(names(&record.path), ["data", "volume.json"]);
            }
            drop(data);
            store.remove(&key("a")).unwrap();
            assert_eq!(names(&at.join("volumes")), [".new", ".trash"], "{name}");
        });
    }
}

#[test]
fn root_volumes_grow_in_place_and_never_shrink() {
    let place = Place::new();
    let store = place.open();
    store.provision(&key("a"), &sized(16)).unwrap();
    store.ensure_data(&key("a")).unwrap();
    let data = mounted(&store, &key("a"));
    std::fs::write(data.path("f"), vec![3; 4 << 20]).unwrap();
    rustix::fs::syncfs(data.fd()).unwrap();
    let before = store.usage(&key("a")).unwrap();
    if can_grow_mounted() {
        let grown = store.provision(&key("a"), &sized(64)).unwrap();
        assert_eq!(grown.capacity, Some(64 * MIB));
        // Through the mount that was there before.
        std::fs::write(data.path("g"), vec![4; 40 << 20]).unwrap();
        assert_eq!(std::fs::read(data.path("f")).unwrap(), vec![3; 4 << 20]);
        drop(data);
    } else {
        let error = store.provision(&key("a"), &sized(64)).unwrap_err();
        assert!(matches!(error, VolumeError::CannotGrowInUse(_)), "{error:?}");
        // All is as it was, for who uses it and for who asks.
        assert_eq!(store.find(&key("a")).unwrap().unwrap().capacity, Some(16 * MIB));
        assert_eq!(store.usage(&key("a")).unwrap().available, before.available);
        std::fs::write(data.path("more"), "x").unwrap();
        std::fs::remove_file(data.path("more")).unwrap();
        rustix::fs::syncfs(data.fd()).unwrap();
        drop(data);
        // The mount may last a moment longer than its descriptor.
        place.assert_no_devices();
        assert_eq!(store.provision(&key("a"), &sized(64)).unwrap().capacity, Some(64 * MIB));
    }
    let data = mounted(&store, &key("a"));
    assert_eq!(std::fs::read(data.path("f")).unwrap(), vec![3; 4 << 20]);
    std::fs::write(data.path("g"), vec![4; 40 << 20]).unwrap();
    let error = store.provision(&key("a"), &sized(63)).unwrap_err();
    assert!(matches!(error, VolumeError::Shrink { .. }), "{error:?}");
    assert!(told(&error).contains("cannot shrink"), "{}", told(&error));
    assert_eq!(store.provision(&key("a"), &sized(64)).unwrap().capacity, Some(64 * MIB));
    drop(data);

    // Memory, while it is in use.
    store.provision(&key("m"), &tmpfs()).unwrap();
    store.ensure_data(&key("m")).unwrap();
    let data = mounted(&store, &key("m"));
    std::fs::write(data.path("f"), "kept").unwrap();
    let wanted = VolumeOptions { capacity: Some(32 * MIB), ..tmpfs() };
    store.provision(&key("m"), &wanted).unwrap();
    std::fs::write(data.path("g"), vec![4; 24 << 20]).unwrap();
    assert_eq!(std::fs::read(data.path("f")).unwrap(), b"kept");
    assert!(matches!(store.provision(&key("m"), &tmpfs()), Err(VolumeError::Shrink { .. })));
    let unlimited = VolumeOptions::new(VolumeDriver::Tmpfs);
    assert!(!store.provision(&key("m"), &unlimited).unwrap().capacity_enforced);
    assert!(matches!(store.provision(&key("m"), &tmpfs()), Err(VolumeError::Shrink { .. })));
    drop(data);
    store.remove(&key("m")).unwrap();
    store.remove(&key("a")).unwrap();
    place.assert_no_devices();
}

#[test]
fn root_an_image_has_one_device_whoever_asks() {
    let place = Place::new();
    let store = place.open();
    store.provision(&key("a"), &sized(16)).unwrap();
    store.provision(&key("b"), &sized(16)).unwrap();
    store.ensure_data(&key("a")).unwrap();
    store.ensure_data(&key("b")).unwrap();
    place.assert_no_devices();
    let active: Vec<_> = std::thread::scope(|scope| {
        let ask = || {
            let active = store.activate(&key("a")).unwrap();
            store.usage(&key("a")).unwrap();
            active
        };
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    assert_eq!(place.devices().len(), 1);
    let Mount::Block { device, fstype, .. } = &active[0].mount else { panic!("{:?}", active[0].mount) };
    assert!(active.iter().all(|other| other.mount == active[0].mount));
    assert_eq!(fstype, "ext4");
    assert_eq!(device.file_name().unwrap().to_str().unwrap(), place.devices()[0]);
    // Two mounts of it are one filesystem; another process finds the device too.
    let mounts: Vec<_> = active.iter().map(Mounted::new).collect();
    std::fs::write(mounts[0].path("f"), "x").unwrap();
    assert_eq!(std::fs::read(mounts[7].path("f")).unwrap(), b"x");
    let other = place.open();
    assert_eq!(other.activate(&key("a")).unwrap().mount, store.activate(&key("a")).unwrap().mount);
    assert_eq!(place.devices().len(), 1);
    let second = mounted(&other, &key("b"));
    assert_eq!(place.devices().len(), 2);
    drop((active, mounts, second));
    place.assert_no_devices();
    // What removed images leave mounted stays with who has it.
    let last = mounted(&store, &key("a"));
    store.remove(&key("a")).unwrap();
    assert_eq!(std::fs::read(last.path("f")).unwrap(), b"x");
    store.provision(&key("a"), &sized(16)).unwrap();
    store.ensure_data(&key("a")).unwrap();
    assert_eq!(names(&mounted(&store, &key("a")).path(".")), Vec::<String>::new());
    drop(last);
    place.assert_no_devices();
}

#[test]
fn root_a_damaged_record_costs_its_volume_only() {
    let place = Place::new();
    let store = place.open();
    for name in ["v/a", "v/b", "v/c", "v/d"] {
        store.provision(&key(name), &local()).unwrap();
        store.ensure_data(&key(name)).unwrap();
    }
    let json = |name: &str| place.path().join("volumes/v").join(name).join("volume.json");
    std::fs::write(json("a"), "{").unwrap();
    std::fs::write(json("b"), r#"{"version":2,"anything":"else"}"#).unwrap();
    std::fs::write(json("c"), "").unwrap();
    std::fs::write(json("d"), r#"{"version":1,"driver":"local","capacity":null,"later":[1]}"#).unwrap();
    let store = place.open();
    let list = store.list().unwrap();
    assert_eq!(list.volumes.iter().map(|it| it.key.to_string()).collect::<Vec<_>>(), ["v/d"]);
    let broken: Vec<_> = list.broken.iter().map(|(key, error)| (key.to_string(), told(error))).collect();
    assert_eq!(broken.len(), 3);
    for ((key, told), (name, text)) in
        broken.iter().zip([("a", "is damaged"), ("b", "has version 2"), ("c", "is damaged")])
    {
        assert_eq!(*key, format!("v/{name}"));
        assert!(told.contains(json(name).to_str().unwrap()) && told.contains(text), "{told}");
    }
    for name in ["v/a", "v/b", "v/c"] {
        // Nothing is done to what is not understood, but to remove it when told so.
        assert!(store.provision(&key(name), &local()).is_err());
        assert!(store.ensure_data(&key(name)).is_err());
        assert!(store.activate(&key(name)).is_err());
        assert!(place.path().join("volumes").join(name).join("data").is_dir());
    }
    store.remove(&key("v/b")).unwrap();
    store.provision(&key("v/b"), &local()).unwrap();
    // Fields of others are kept.
    store.provision(&key("v/d"), &VolumeOptions { mode: Some(0o700), ..local() }).unwrap();
    assert!(std::fs::read_to_string(json("d")).unwrap().contains(r#""later":[1]"#));
    // A directory without a record is not taken over.
    std::fs::remove_file(json("d")).unwrap();
    let error = store.provision(&key("v/d"), &local()).unwrap_err();
    assert!(matches!(error, VolumeError::NoRecord { .. }), "{error:?}");
    assert_eq!(names(&place.path().join("volumes/.new")), Vec::<String>::new());
}

#[test]
fn root_volumes_are_removed_by_prefix_and_not_nested() {
    let place = Place::new();
    let store = place.open();
    for name in ["c/one/@0", "c/one/@1", "c/two/@0", "c/ones"] {
        store.provision(&key(name), &local()).unwrap();
    }
    store.provision(&key("c/one/m"), &tmpfs()).unwrap();
    for (inner, other) in [("c/ones/x", "c/ones"), ("c/one", "c/one/@0"), ("c", "c/one/@0")] {
        let error = store.provision(&key(inner), &local()).unwrap_err();
        assert!(matches!(&error, VolumeError::Nested { other: at, .. } if *at == key(other)), "{error:?}");
    }
    let keys = |store: &Volumes| records(store).iter().map(|it| it.key.to_string()).collect::<Vec<_>>();
    // A directory above volumes is none.
    store.remove(&key("c/one")).unwrap();
    assert_eq!(keys(&store).len(), 5);
    assert_eq!(store.remove_all(&key("c/one")).unwrap(), [key("c/one/@0"), key("c/one/@1"), key("c/one/m")]);
    assert_eq!(keys(&store), ["c/ones", "c/two/@0"]);
    assert_eq!(names(&place.path().join("volumes/c")), ["ones", "two"]);
    assert_eq!(store.remove_all(&key("c/one")).unwrap(), []);
    assert_eq!(store.remove_all(&key("c/ones")).unwrap(), [key("c/ones")]);
    store.provision(&key("c/ones/x"), &local()).unwrap();
    assert_eq!(keys(&store), ["c/ones/x", "c/two/@0"]);
}

#[test]
fn root_one_volume_waits_for_no_other() {
    // Held up in the middle of a copy: a pipe as the image's file would be one, but pipes are not read. So: many at once, which
    // ends at all only when each is by itself.
    let image = Image::new(&rich());
    let place = Place::new();
    let store = place.open();
    std::thread::scope(|scope| {
        for at in 0..6 {
            let (store, image) = (&store, &image);
            scope.spawn(move || {
                let key = key(&format!("v/{at}"));
                let options = if at % 2 == 0 { sized(16) } else { local() };
                for _ in 0..3 {
                    store.provision(&key, &options).unwrap();
                    store.fill(&key, &image.source("/var/data")).unwrap();
                    assert_same(&image.seen("var/data"), &mounted(store, &key).tree());
                    store.remove(&key).unwrap();
                }
            });
        }
    });
    assert_eq!(contents(place.path()), Vec::<String>::new());
    place.assert_no_devices();
}

#[test]
fn root_directories_are_private() {
    let place = Place::new();
    let store = place.open();
    let record = store.provision(&key("v/a"), &sized(16)).unwrap();
    for at in [record.path.as_path(), record.path.parent().unwrap(), &place.path().join("volumes")] {
        assert_eq!(std::fs::metadata(at).unwrap().mode() & 0o777, 0o700, "{}", at.display());
    }
}

#[tokio::test]
async fn root_an_image_is_seen_through_a_view_that_leaves_nothing() {
    use stower_storage::{Storage, StorageOptions};
    let dir = tempfile::tempdir().unwrap();
    let open = || Storage::open(StorageOptions::new(dir.path())).unwrap();
    let store = open();
    let blobs = rich()
        .iter()
        .map(|items| {
            let bytes = stower_storage::testsuite::tar::archive(items);
            stower_storage::testsuite::blob(bytes, stower_storage::Compression::None)
        })
        .collect();
    let chain = store.snapshots().unpack_image(blobs, &stower_storage::UnpackLimits::default()).unwrap();
    let (one, two) = (store.open_tree(&chain, "fill").unwrap(), store.open_tree(&chain, "fill").unwrap());
    assert_same(&tree_of(&one), &tree_of(&two));
    let wrote = rustix::fs::mkdirat(&one, "x", rustix::fs::Mode::RWXU);
    assert_eq!(wrote, Err(rustix::io::Errno::ROFS));
    assert_eq!(store.snapshots().list().len(), 2);
    drop(one);
    drop(two);
    assert_eq!(store.snapshots().list().len(), 0);
    // One that a dead process left goes at start-up; what containers have stays.
    let name = |name: &str| stower_storage::SnapshotKey::new(name).unwrap();
    store.snapshots().view(&name("view-fill-7"), Some(&chain)).unwrap();
    store.snapshots().prepare(&name("container"), Some(&chain)).unwrap();
    drop(store);
    let store = open();
    assert_eq!(
        store.snapshots().list().iter().map(|it| it.key.to_string()).collect::<Vec<_>>(),
        ["container"]
    );
    let missing = stower_storage::ChainId(stower_storage::Digest::of(b"none"));
    assert!(store.open_tree(&missing, "fill").is_err());
}
