use super::*;

#[test]
fn what_is_left_behind_is_told_from_what_is_used() {
    for (item, word, retained) in [
        (json!({"kind": "Volume", "declared": true, "users": []}), "Unused", false),
        (json!({"kind": "Volume", "declared": true, "users": ["Container default/web"]}), "InUse", false),
        (json!({"kind": "Volume", "declared": false, "users": []}), "Retained", true),
        (json!({"kind": "DataContainer", "declared": false}), "Retained", true),
        // Never pruned: it goes with its container, which is only not known now.
        (json!({"kind": "Container", "declared": false}), "Leaving", false),
        (json!({"kind": "Volume", "declared": true, "problem": "damaged"}), "Broken", false),
    ] {
        assert_eq!((state(&item), is_retained(&item)), (word, retained), "{item}");
    }
    let part = json!({"kind": "DataContainer", "name": "d", "mountPath": "/foo"});
    assert_eq!(title(&part), "datacontainer/d:/foo");
}
