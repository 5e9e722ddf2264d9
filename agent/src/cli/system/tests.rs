use super::*;

fn usage() -> Value {
    json!({
        "images": {
            "total": 2, "active": 1, "bytes": 3_000_000, "reclaimableBytes": 1_000_000,
            "items": [
                {"name": "a:1, b:1", "digest": "sha256:0123456789abcdef", "bytes": 2_500_000, "uniqueBytes": 2_000_000,
                 "inodes": 12, "active": true, "lastUsed": "2000-01-01T00:00:00Z"},
            ],
        },
        "containers": {"total": 1, "active": 1, "bytes": 0, "reclaimableBytes": 0,
                       "items": [{"name": "default/web", "bytes": 0, "uniqueBytes": 0, "inodes": 1, "active": true}]},
        "volumes": {"total": 0, "active": 0, "bytes": 0, "reclaimableBytes": 0, "items": []},
        "leftovers": {"total": 1, "active": 0, "bytes": 10, "reclaimableBytes": 10, "items": []},
    })
}

#[test]
fn the_summary_reads_like_dockers() {
    let lines: Vec<String> = summary(&usage()).lines().map(|line| line.trim_end().to_owned()).collect();
    assert_eq!(
        lines,
        [
            "TYPE            TOTAL   ACTIVE   SIZE   RECLAIMABLE",
            "Images          2       1        3MB    1MB (33%)",
            "Containers      1       1        0B     0B",
            "Local Volumes   0       0        0B     0B",
            "Leftovers       1       0        10B    10B (100%)",
        ]
    );
}

#[test]
fn every_thing_has_its_line() {
    let text = verbose(&usage());
    for part in
        ["Images: 3MB\n", "a:1, b:1", "0123456789ab", "2.5MB", "2MB", "Containers: 0B\n", "default/web"]
    {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    assert!(!text.contains("Local Volumes"), "{text}");
}

#[test]
fn what_goes_is_told_without_control_characters() {
    let item = |kind: &str, name: &str| line(&json!({"kind": kind, "name": name, "bytes": 1500}));
    assert_eq!(item("Image", "a:1"), "image a:1 (1.5kB)");
    assert_eq!(item("Content", "2 unfinished or left over blobs"), "2 unfinished or left over blobs (1.5kB)");
    assert!(!item("Volume", "a\u{1b}[31m").contains('\u{1b}'));
}
