use stower_controllers::File;

use super::*;

fn files(entries: &[(&str, u32, &str)]) -> Files {
    let file = |(path, mode, data): &(&str, u32, &str)| File {
        path: (*path).to_owned(),
        mode: *mode,
        data: data.as_bytes().to_vec(),
    };
    Files(entries.iter().map(file).collect())
}

fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn all_change_at_once_and_nothing_old_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("run/volumes/config");
    write(&volume, &files(&[("a", 0o644, "1"), ("deep/b", 0o400, "2")])).unwrap();
    assert_eq!(std::fs::read_to_string(volume.join("deep/b")).unwrap(), "2");
    assert_eq!(std::fs::metadata(volume.join("deep/b")).unwrap().permissions().mode() & 0o7777, 0o400);
    let before = std::fs::read_link(volume.join(DATA)).unwrap();

    // The same again changes nothing.
    write(&volume, &files(&[("a", 0o644, "1"), ("deep/b", 0o400, "2")])).unwrap();
    assert_eq!(std::fs::read_link(volume.join(DATA)).unwrap(), before);

    write(&volume, &files(&[("a", 0o644, "3"), ("c", 0o644, "")])).unwrap();
    assert_eq!(std::fs::read_to_string(volume.join("a")).unwrap(), "3");
    assert!(!volume.join("deep").exists());
    let names = listing(&volume);
    assert_eq!(names.len(), 4, "{names:?}");

    // A mode alone is a change; none at all leaves an empty volume.
    write(&volume, &files(&[("a", 0o600, "3"), ("c", 0o644, "")])).unwrap();
    assert_eq!(std::fs::metadata(volume.join("a")).unwrap().permissions().mode() & 0o7777, 0o600);
    write(&volume, &files(&[])).unwrap();
    assert_eq!(listing(&volume).len(), 2);
}

#[test]
fn what_a_write_that_was_cut_off_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("config");
    write(&volume, &files(&[("a", 0o644, "1")])).unwrap();
    std::fs::create_dir(volume.join("..half")).unwrap();
    std::fs::write(volume.join("..half/a"), "half").unwrap();
    symlink("..half", volume.join("..data_tmp")).unwrap();
    write(&volume, &files(&[("a", 0o644, "2")])).unwrap();
    assert_eq!(std::fs::read_to_string(volume.join("a")).unwrap(), "2");
    assert!(!volume.join("..half").exists() && std::fs::symlink_metadata(volume.join("..data_tmp")).is_err());
}
