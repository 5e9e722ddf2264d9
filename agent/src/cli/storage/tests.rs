//! What a person reads.

use serde_json::json;

use super::*;

#[test]
fn a_pool_under_pressure() {
    let info = json!({
        "driver": "devicemapper", "chosen": "InUse", "dataRoot": "/var/lib/stower", "backingFilesystem": "xfs",
        "limits": true,
        "pool": {
            "name": "p", "data": {"used": 91_000_000_000_u64, "total": 100_000_000_000_u64},
            "metadata": {"used": 5, "total": 0}, "pressure": {"reason": "DataLow", "message": "make it larger"},
        },
        "details": [{"name": "dm.fs", "value": "ext4"}, {"name": "dm.basesize", "value": "10G"}],
        "passedOver": [{"driver": "overlay", "reason": "devicemapper has data here"}],
        "unused": ["native"],
    });
    assert_eq!(
        text(&info),
        "\
Driver:              devicemapper (has data here already)
Data Root:           /var/lib/stower
Backing Filesystem:  xfs
Container Limits:    enforced
Pool:                p
  Data:              91GB of 100GB (91 %)
  Metadata:          5B of 0B (0 %)
  Pressure:          DataLow: make it larger
Details:
  dm.fs:        ext4
  dm.basesize:  10G
Passed Over:
  overlay:  devicemapper has data here
Unused Data:         native
"
    );
}

/// An older or newer agent may say less or more.
#[test]
fn what_is_not_said_is_not_shown() {
    let info = json!({"driver": "tape", "chosen": "Drawn", "more": 1});
    assert_eq!(
        text(&info),
        "\
Driver:              tape (Drawn)
Data Root:
Backing Filesystem:
Container Limits:    not supported
"
    );
}
