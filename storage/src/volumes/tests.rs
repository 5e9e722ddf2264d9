use super::record::Record;
use super::{VolumeDriver, VolumeKey, VolumeOptions};

#[test]
fn keys_know_what_is_above_them() {
    let key: VolumeKey = "v/ns/name".parse().unwrap();
    assert_eq!(key.above().map(|key| key.to_string()).collect::<Vec<_>>(), ["v", "v/ns"]);
    assert_eq!(key.path(), std::path::Path::new("v/ns/name"));
    assert_eq!(VolumeKey::below(Some(&key), "x").unwrap().to_string(), "v/ns/name/x");
    assert!(VolumeKey::below(None, ".new").is_none() && VolumeKey::below(Some(&key), "a/b").is_none());
}

/// What this release writes, the next one reads.
#[test]
fn records_are_read_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        VolumeOptions { capacity: Some(1 << 30), uid: Some(7), ..VolumeOptions::new(VolumeDriver::Local) };
    let record = Record::new(&options);
    record.write(dir.path()).unwrap();
    let text = std::fs::read_to_string(dir.path().join("volume.json")).unwrap();
    assert_eq!(
        text,
        "{\"version\":1,\"driver\":\"local\",\"capacity\":1073741824,\"uid\":7,\"hasData\":false}\n"
    );
    assert_eq!(Record::read(dir.path()).unwrap(), Some(record));
    // As the first release had it, with all that there can be.
    let golden = r#"{"version":1,"driver":"tmpfs","capacity":5,"uid":1,"gid":2,"mode":448,"hasData":true,"filledFrom":"sha256:0"}"#;
    std::fs::write(dir.path().join("volume.json"), golden).unwrap();
    let read = Record::read(dir.path()).unwrap().unwrap();
    assert_eq!((read.driver, read.capacity, read.has_data), (VolumeDriver::Tmpfs, Some(5), true));
    assert_eq!((read.uid, read.gid, read.mode), (Some(1), Some(2), Some(0o700)));
    assert_eq!(read.filled_from.as_deref(), Some("sha256:0"));
}
