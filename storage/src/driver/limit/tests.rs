use super::{LimitChange, SnapshotLimit};

#[test]
fn what_can_become_of_a_limit() {
    use LimitChange::{Any, Fresh, Grow, Never};
    let limit = |bytes, change| SnapshotLimit { bytes, without: None, block: 4096, change };
    let rows = [
        (limit(Some(8192), Grow), Some(8192), true),
        // Rounded, up or down.
        (limit(Some(8192), Never), Some(4097), true),
        (limit(Some(8192), Never), Some(12287), true),
        (limit(Some(8192), Grow), Some(4096), false),
        (limit(Some(8192), Grow), Some(16384), true),
        (limit(Some(8192), Fresh), Some(16384), false),
        (limit(Some(8192), Any), Some(4096), true),
        (limit(Some(8192), Any), None, true),
        (limit(Some(8192), Grow), None, false),
        (limit(None, Grow), Some(8192), false),
        (limit(None, Any), Some(8192), true),
        (SnapshotLimit::NONE, None, true),
        (SnapshotLimit::NONE, Some(8192), false),
        // A device has a size in any case.
        (SnapshotLimit { without: Some(8192), ..limit(Some(8192), Grow) }, None, true),
        (SnapshotLimit { without: Some(8192), ..limit(Some(16384), Grow) }, None, false),
    ];
    for (have, want, can) in rows {
        assert_eq!(have.can_become(want), can, "{have:?} {want:?}");
    }
}
