use super::*;

#[test]
fn either_file_will_do_and_without_both_it_is_said_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    assert_eq!(Config::read(root).unwrap(), None);
    let config = Config::new(&Options::parse(&[]).unwrap()).unwrap();
    config.write(root).unwrap();
    for (name, other) in [(NAME, COPY), (COPY, NAME)] {
        std::fs::write(root.join(name), b"{").unwrap();
        assert_eq!(Config::read(root).unwrap().as_ref(), Some(&config), "without {name}");
        assert_eq!(Config::read_one(root, name).unwrap().as_ref(), Some(&config), "{name} is written anew");
        std::fs::remove_file(root.join(name)).unwrap();
        assert_eq!(Config::read(root).unwrap().as_ref(), Some(&config), "without {name}");

        // Nothing that is there, though it cannot be read, means that there is no pool.
        std::fs::remove_file(root.join(name)).unwrap();
        std::fs::write(root.join(other), b"{").unwrap();
        let refused = Config::read(root).unwrap_err().to_string();
        for part in [NAME, COPY, "from a backup", &format!("move {} away", root.display())] {
            assert!(refused.contains(part), "{part} in {refused}");
        }
        config.write(root).unwrap();
    }
}
