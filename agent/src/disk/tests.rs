//! What the store holds, as decisions take it; and measuring a real filesystem.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use stower_controllers::{DiskPolicy, Floor};
use stower_storage::{ChainId, Digest, StorageOptions, StoredImage, Usage};

use super::{collect::stored, *};
use crate::metrics::Metrics;

fn config(min_free: Floor) -> crate::config::DiskConfig {
    crate::config::DiskConfig {
        collect: true,
        policy: DiskPolicy {
            high_percent: 100,
            low_percent: 99,
            min_free,
            min_free_inodes: Floor::default(),
        },
        min_age: Duration::ZERO,
        pinned: vec!["pinned".to_owned(), format!("x@{}", Digest::of(b"pinned"))],
    }
}

fn keeper(dir: &std::path::Path, min_free: Floor, metrics: &Metrics) -> Arc<Keeper> {
    let storage = Storage::open(StorageOptions::new(dir)).unwrap();
    let mut usual = crate::config::Sources::new(Default::default(), []).unwrap().with_file(b"").unwrap();
    usual.disk = config(min_free);
    let settings = Settings::new(usual);
    Keeper::new(storage, dir.to_owned(), settings, metrics.disk.clone())
}

#[test]
fn an_inventory_becomes_facts() {
    let (manifest, index, blob) = (Digest::of(b"m"), Digest::of(b"i"), Digest::of(b"b"));
    let chain = ChainId(Digest::of(b"c"));
    let part = stower_storage::PartId::Blob(blob);
    let image = StoredImage {
        manifest,
        names: vec!["a:1".parse().unwrap()],
        targets: [index].into(),
        chain: Some(chain),
        last_used: SystemTime::UNIX_EPOCH + Duration::from_secs(7),
        parts: [part].into(),
    };
    let inventory = stower_storage::Inventory {
        images: vec![image],
        parts: [(part, Usage { bytes: 5, inodes: 1 })].into(),
        bases: [chain].into(),
        ..Default::default()
    };
    let id = |digest: Digest| stower_controllers::ImageDigest::new(&digest.to_string());
    let want = stower_controllers::Stored {
        images: vec![stower_controllers::ImageFacts {
            id: id(manifest),
            names: ["docker.io/library/a:1".to_owned()].into(),
            digests: [id(manifest), id(index)].into(),
            is_base: true,
            last_used: Timestamp::from_second(7).unwrap(),
            parts: BTreeSet::from([part]),
        }],
        parts: BTreeMap::from([(part, stower_controllers::Takes { bytes: 5, inodes: 1 })]),
    };
    assert_eq!(stored(&inventory), want);
}

#[test]
fn names_are_written_out_and_pinned_images_are_spared() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path(), Floor::default(), &Metrics::new());
    let references = stower_controllers::References {
        names: ["redis:7".to_owned(), "not a name!".to_owned()].into(),
        ..Default::default()
    };
    let spared = keeper.spared(&references);
    let pinned = format!("docker.io/library/x@{}", Digest::of(b"pinned"));
    let names = ["docker.io/library/redis:7", "docker.io/library/pinned:latest", &pinned];
    assert_eq!(spared.names, names.map(str::to_owned).into());
    let digest = stower_controllers::ImageDigest::new(&Digest::of(b"pinned").to_string());
    assert_eq!(spared.digests, [digest].into());
}

#[test]
fn a_floor_above_what_is_free_is_pressure_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::new();
    let free = keeper(dir.path(), Floor::default(), &metrics);
    assert!(!free.last().pressure.is_on());
    let bytes = free.last().disk.bytes;
    assert!(bytes.available > 0 && bytes.total >= bytes.available);
    let value = |name: &str| {
        let text = metrics.text();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap()
    };
    assert!(value("stower_filesystem_size_bytes ") >= value("stower_filesystem_available_bytes "));
    assert_eq!(value("stower_disk_pressure{reason=\"bytes\"}"), 0.0);
    drop(free);
    let full = keeper(dir.path(), Floor { absolute: Some(u64::MAX), percent: None }, &metrics);
    assert!(full.last().pressure.is_on());
    assert_eq!(value("stower_disk_pressure{reason=\"bytes\"}"), 1.0);
    assert_eq!(value("stower_disk_pressure{reason=\"driver\"}"), 0.0);
}
