use std::fs;

use super::*;

fn error(names: &[&str], recursive: bool) -> String {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    read(&names, recursive).and_then(|manifests| documents(&manifests)).unwrap_err().to_string()
}

#[test]
fn a_directory_gives_its_manifests_in_order_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    for name in ["b.yaml", "a.yml", "c.json", "notes.txt", ".hidden.yaml", "sub/d.yaml"] {
        fs::write(dir.path().join(name), "{\"kind\": \"Container\"}").unwrap();
    }
    let names = |recursive| -> Vec<String> {
        let root = dir.path().display().to_string();
        let manifests = read(std::slice::from_ref(&root), recursive).unwrap();
        manifests.iter().map(|m| m.name.strip_prefix(&format!("{root}/")).unwrap().to_owned()).collect()
    };
    assert_eq!(names(false), ["a.yml", "b.yaml", "c.json"]);
    assert_eq!(names(true), ["a.yml", "b.yaml", "c.json", "sub/d.yaml"]);
}

#[test]
fn what_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    assert_eq!(
        error(&[&path("none.yaml")], false),
        format!("the path {:?} does not exist", path("none.yaml"))
    );
    let empty = dir.path().display().to_string();
    assert_eq!(
        error(&[&empty], false),
        format!("no *.yaml, *.yml or *.json in {empty}; -R looks in its folders too")
    );
    fs::write(path("bytes.yaml"), b"a\xffb").unwrap();
    assert_eq!(
        error(&[&path("bytes.yaml")], false),
        format!("{}: not text: byte 1 is no UTF-8", path("bytes.yaml"))
    );
    fs::write(path("blank.yaml"), "---\n").unwrap();
    assert_eq!(error(&[&path("blank.yaml")], false), "no objects passed");
}

#[test]
fn a_long_file_is_refused_before_it_is_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.yaml");
    fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
    let path = path.display().to_string();
    assert_eq!(
        error(&[&path], false),
        format!("{path}: longer than 8 MiB, the most that a manifest may have")
    );
}

#[test]
fn every_broken_file_is_told_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.yaml", "b.yaml"] {
        fs::write(dir.path().join(name), "kind: [\n").unwrap();
    }
    let text = error(&[&dir.path().display().to_string()], false);
    for (line, name) in text.split("\nerror: ").zip(["a.yaml:", "b.yaml:"]) {
        let place = line.split(name).nth(1).unwrap_or_else(|| panic!("{line}"));
        assert!(place.starts_with(|c: char| c.is_ascii_digit()), "{line}");
    }
}
