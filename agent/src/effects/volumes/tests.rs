use super::*;

#[test]
fn a_path_of_the_wrong_kind_is_told_and_one_that_may_be_made_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("x");
    assert!(check(&at, HostPathType::Unset).unwrap_err().contains("does not exist"));
    assert_eq!(check(&at, HostPathType::DirectoryOrCreate), Ok(()));
    make_host_path(&at, HostPathType::DirectoryOrCreate).unwrap();
    assert_eq!(check(&at, HostPathType::File), Err("is not a regular file".to_owned()));
    assert_eq!(check(&at, HostPathType::Directory), Ok(()));
}

#[test]
fn an_empty_dir_keeps_its_content_and_everybody_may_write() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("own/volumes/e");
    make_empty_dir(&at).unwrap();
    std::fs::write(at.join("kept"), "").unwrap();
    make_empty_dir(&at).unwrap();
    assert!(at.join("kept").exists());
    assert_eq!(std::fs::metadata(&at).unwrap().permissions().mode() & 0o7777, 0o777);
}

#[test]
fn stores_have_names_that_never_meet() {
    let namespace = || stower_crds::Namespace::new("default").unwrap();
    let name = || stower_crds::Name::new("db").unwrap();
    let volume = key(&StoreId::Volume { namespace: namespace(), name: name() }).unwrap();
    let data = |path: &str| {
        key(&StoreId::Data { namespace: namespace(), name: name(), path: path.to_owned() }).unwrap()
    };
    assert_eq!(volume.to_string(), "v/default/db");
    assert_ne!(data("/a"), data("/b"));
    assert_eq!(data("/a"), data("/a"));
    assert!(data("/a").to_string().starts_with("d/default/db/"));
    let owner = Uid::new("u-1").unwrap();
    let private = key(&StoreId::Private { owner: owner.clone(), name: "cache".into() }).unwrap();
    assert!(private.starts_with(&private_prefix(&owner).unwrap()));
}
