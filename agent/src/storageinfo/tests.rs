//! What is shown of a driver's word.

use serde_json::json;
use stower_storage::PassedOver;

use super::*;
use crate::metrics::Metrics;

fn status(pressure: Option<Pressure>) -> DriverStatus {
    DriverStatus {
        backing_filesystem: "ext4".into(),
        limits: true,
        pool: Some(PoolStatus {
            name: "p".into(),
            data: Fill { used: 91, total: 100 },
            metadata: Fill { used: 1, total: 10 },
            pressure,
        }),
        details: vec![("dm.basesize".into(), "10G".into())],
    }
}

fn low() -> Pressure {
    Pressure::DataLow { pool: "p".into(), fill: Fill { used: 91, total: 100 }, floor: 10 }
}

#[test]
fn all_of_it_is_shown() {
    let selection = Selection {
        driver: "devicemapper",
        chosen: Chosen::FirstThatWorks,
        passed_over: vec![PassedOver { driver: "overlay", why: "no such filesystem".into() }],
        unused: Vec::new(),
    };
    let view = StorageView::new(&selection, status(Some(low())), "/data".into());
    let expected = json!({
        "driver": "devicemapper", "chosen": "FirstThatWorks", "dataRoot": "/data", "backingFilesystem": "ext4",
        "limits": true,
        "pool": {
            "name": "p", "data": {"used": 91, "total": 100}, "metadata": {"used": 1, "total": 10},
            "pressure": {"reason": "DataLow", "message": low().to_string()},
        },
        "details": [{"name": "dm.basesize", "value": "10G"}],
        "passedOver": [{"driver": "overlay", "reason": "no such filesystem"}],
        "unused": [],
    });
    assert_eq!(json!(view), expected);
}

/// The series of storage, without help texts.
fn series(metrics: &Metrics) -> Vec<String> {
    let text = metrics.text();
    text.lines().filter(|line| line.starts_with("stower_storage_")).map(str::to_owned).collect()
}

#[test]
fn gauges_follow_the_pool() {
    let metrics = Metrics::new();
    metrics.storage.set(&status(Some(low())));
    assert_eq!(
        series(&metrics),
        [
            "stower_storage_pool_data_size_bytes{pool=\"p\"} 100",
            "stower_storage_pool_data_used_bytes{pool=\"p\"} 91",
            "stower_storage_pool_metadata_size_bytes{pool=\"p\"} 10",
            "stower_storage_pool_metadata_used_bytes{pool=\"p\"} 1",
            "stower_storage_pressure{reason=\"DataLow\"} 1",
            "stower_storage_pressure{reason=\"Failed\"} 0",
            "stower_storage_pressure{reason=\"MetadataLow\"} 0",
            "stower_storage_pressure{reason=\"ReadOnly\"} 0",
        ]
    );
    metrics.storage.set(&status(None));
    assert!(series(&metrics).contains(&"stower_storage_pressure{reason=\"DataLow\"} 0".to_owned()));
    // A driver without a pool is never under pressure; one that does not answer may be.
    metrics.storage.set(&DriverStatus::default());
    assert_eq!(series(&metrics).len(), Pressure::REASONS.len());
    metrics.storage.clear();
    assert_eq!(series(&metrics), Vec::<String>::new());
}
