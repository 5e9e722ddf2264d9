//! A real store in a folder of the test; plain directories need no root's mounts.

use serde_json::{Value, json};
use stower_storage::{VolumeDriver, VolumeOptions};

use super::*;
use crate::{
    metrics::Metrics,
    node::{ObjectView, SourceRef},
};

struct Here {
    data: Arc<VolumeData>,
    _folder: tempfile::TempDir,
}

fn key(parts: &[&str]) -> VolumeKey {
    VolumeKey::new(parts).unwrap()
}

/// A store with these volumes, each with a file of so many bytes.
fn here(volumes: &[(&[&str], usize)]) -> Here {
    let folder = tempfile::tempdir().unwrap();
    let store = Volumes::open(folder.path().join("volumes"), folder.path().join("mounts")).unwrap();
    for (parts, bytes) in volumes {
        store.provision(&key(parts), &VolumeOptions::new(VolumeDriver::Local)).unwrap();
        let record = store.ensure_data(&key(parts)).unwrap();
        std::fs::write(record.data.join("file"), vec![1; *bytes]).unwrap();
    }
    Here { data: Arc::new(VolumeData::new(Arc::new(store))), _folder: folder }
}

fn view(objects: &[(Kind, &str, Value)]) -> Arc<View> {
    let mut all = rpds::RedBlackTreeMapSync::new_sync();
    for (kind, name, fields) in objects {
        let key = ObjectKey::new(*kind, Namespace::default(), Name::new(*name).unwrap());
        let mut object = json!({"metadata": {"name": name, "uid": format!("uid-{name}")}});
        object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let shown = ObjectView { key: key.clone(), source: SourceRef::Local, object, resource_version: 1 };
        all.insert_mut(key, Arc::new(shown));
    }
    Arc::new(View { resource_version: 1, objects: all, rejected: Arc::default() })
}

fn object(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, Namespace::default(), Name::new(name).unwrap())
}

#[tokio::test]
async fn data_is_told_by_whose_it_is() {
    let part = path_part("/foo");
    assert_eq!((part.len(), part.bytes().all(|b| b.is_ascii_hexdigit())), (16, true));
    let here = here(&[
        (&["v", "default", "pg"], 5000),
        (&["v", "default", "left"], 1),
        (&["d", "default", "set", &part], 1),
        (&["c", "uid-web", "cache"], 1),
        (&["c", "uid-gone", "cache"], 1),
    ]);
    let view = view(&[
        (Kind::Volume, "pg", json!({"status": {"users": ["Container default/web"]}})),
        (
            Kind::DataContainer,
            "set",
            json!({"spec": {"volumes": [{"mountPath": "/bar"}, {"mountPath": "/foo"}]}}),
        ),
        (Kind::Container, "web", json!({})),
    ]);
    let all = here.data.list(Arc::clone(&view), None).await.unwrap();
    let told: Vec<_> = all
        .iter()
        .map(|it| (it.kind, it.name.as_str(), it.declared, it.mount_path.as_deref(), it.users.join(",")))
        .collect();
    assert_eq!(
        told,
        [
            ("Container", "uid-gone", false, None, String::new()),
            ("Container", "web", true, None, "Container default/web".to_owned()),
            ("DataContainer", "set", true, Some("/foo"), String::new()),
            ("Volume", "left", false, None, String::new()),
            ("Volume", "pg", true, None, "Container default/web".to_owned()),
        ]
    );
    let pg = all.last().unwrap();
    let usage = pg.usage.unwrap();
    assert!(usage.bytes >= 5000 && usage.inodes >= 2 && usage.capacity.is_none(), "{usage:?}");
    assert!(pg.has_data && !pg.capacity_enforced && pg.driver == Some("local") && pg.problem.is_none());
    let one = here.data.list(view, Some(&object(Kind::Volume, "pg"))).await.unwrap();
    assert_eq!((one.len(), one[0].key.as_str()), (1, "v/default/pg"));
}

#[tokio::test]
async fn only_what_nobody_declares_is_removed() {
    let here = here(&[
        (&["v", "default", "a"], 1),
        (&["v", "default", "ab"], 1),
        (&["d", "default", "a", &path_part("/x")], 1),
        (&["d", "default", "a", &path_part("/y")], 1),
    ]);
    let declared = view(&[(Kind::Volume, "a", json!({}))]);
    let remove = async |view: &Arc<View>, kind: Kind, name: &str| {
        here.data.remove(Arc::clone(view), &object(kind, name)).await
    };
    let refused = remove(&declared, Kind::Volume, "a").await.unwrap_err();
    assert_eq!(refused.code, 409);
    assert_eq!(
        refused.message,
        "Volume default/a is declared: its data goes by its reclaimPolicy when it is deleted; delete it first"
    );
    assert_eq!(remove(&declared, Kind::Volume, "none").await.unwrap_err().code, 404);
    assert_eq!(remove(&declared, Kind::Container, "a").await.unwrap_err().code, 422);
    // A Volume of that name says nothing about a DataContainer's.
    assert_eq!(remove(&declared, Kind::DataContainer, "a").await.unwrap().len(), 2);
    let none = view(&[]);
    assert_eq!(remove(&none, Kind::Volume, "a").await.unwrap()[0].key, "v/default/a");
    let left = here.data.list(none, None).await.unwrap();
    assert_eq!(left.iter().map(|it| it.key.as_str()).collect::<Vec<_>>(), ["v/default/ab"]);
}

#[tokio::test]
async fn gauges_follow_the_volumes() {
    let here = here(&[
        (&["v", "default", "pg"], 5000),
        (&["d", "default", "set", &path_part("/x")], 5000),
        (&["d", "default", "set", &path_part("/y")], 5000),
        (&["c", "uid-web", "cache"], 1),
    ]);
    let metrics = Metrics::new();
    here.data.measure(&view(&[]), &metrics.volumes).await;
    let value = |name: &str, labels: &str| {
        let text = metrics.text();
        let line =
            text.lines().find_map(|line| line.strip_prefix(&format!("{name}{labels} ")).map(str::to_owned));
        line.map(|value| value.parse::<u64>().unwrap())
    };
    let pg = "{kind=\"Volume\",namespace=\"default\",volume=\"pg\"}";
    let set = "{kind=\"DataContainer\",namespace=\"default\",volume=\"set\"}";
    let used = value("stower_volume_stats_used_bytes", pg).unwrap();
    assert!(used >= 5000);
    assert_eq!(value("stower_volume_stats_used_bytes", set), Some(used * 2), "both of its volumes");
    assert!(value("stower_volume_stats_available_bytes", pg).is_some());
    assert!(value("stower_volume_stats_inodes_used", set) > value("stower_volume_stats_inodes_used", pg));
    assert_eq!(value("stower_volume_stats_capacity_bytes", pg), None, "there is no limit");
    assert!(!metrics.text().contains("cache"), "what belongs to a container is not a series");
    // What was measured is fresh for a while, and what is gone is told no more.
    let data = here.data.store.find(&key(&["v", "default", "pg"])).unwrap().unwrap().data;
    std::fs::write(data.join("more"), vec![1; 100_000]).unwrap();
    here.data.remove(view(&[]), &object(Kind::DataContainer, "set")).await.unwrap();
    here.data.measure(&view(&[]), &metrics.volumes).await;
    assert_eq!(value("stower_volume_stats_used_bytes", pg), Some(used), "not walked again yet");
    assert_eq!(value("stower_volume_stats_used_bytes", set), None);
    // Who asks for one object gets it as it is.
    let declared = view(&[(Kind::Volume, "pg", json!({}))]);
    let now = here.data.list(declared, Some(&object(Kind::Volume, "pg"))).await.unwrap();
    assert!(now[0].usage.unwrap().bytes >= used + 100_000);
}

#[test]
fn two_volumes_are_added_as_far_as_they_are_known() {
    let limited = |capacity, available| UsageView { bytes: 1, inodes: 2, capacity, available };
    let sum = add(limited(Some(10), Some(9)), limited(Some(20), Some(19)));
    assert_eq!(sum, UsageView { bytes: 2, inodes: 4, capacity: Some(30), available: Some(28) });
    let shared = add(limited(None, Some(9)), limited(None, Some(9)));
    assert_eq!((shared.capacity, shared.available), (None, Some(9)), "one filesystem, once");
}
