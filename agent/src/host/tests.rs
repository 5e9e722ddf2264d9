use std::{
    ffi::OsStr,
    io::Read,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use super::{Carried, HostError, kubeconfig};

fn carried() -> (tempfile::TempDir, Carried, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "carried").unwrap();
    let mut carried = Carried::default();
    carried.add(folder.path()).unwrap();
    let fd = format!("/proc/self/fd/{}", carried.0[0].1.as_raw_fd());
    (folder, carried, fd)
}

#[test]
fn paths_in_carried_directories_lead_there_by_descriptor() {
    let (folder, carried, fd) = carried();
    let directory = folder.path().display();
    for (given, expected) in [
        (format!("{directory}/file"), format!("{fd}/file")),
        (format!("--config={directory}/file"), format!("--config={fd}/file")),
        (format!("{directory}"), fd.clone()),
        (format!("{directory}er/file"), format!("{directory}er/file")),
        (format!("x{directory}/file"), format!("x{directory}/file")),
        ("--manifests=/etc/stower".to_owned(), "--manifests=/etc/stower".to_owned()),
        ("agent".to_owned(), "agent".to_owned()),
        (String::new(), String::new()),
    ] {
        assert_eq!(carried.translate(OsStr::new(&given)), OsStr::new(&expected), "{given}");
    }
    let mut text = String::new();
    let path = carried.translate(folder.path().join("file").as_os_str());
    std::fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "carried");
}

#[test]
fn what_replaces_a_file_of_a_carried_directory_is_seen() {
    let (folder, carried, _) = carried();
    let path = PathBuf::from(carried.translate(folder.path().join("file").as_os_str()));
    let new = folder.path().join("new");
    std::fs::write(&new, "renewed").unwrap();
    std::fs::rename(&new, folder.path().join("file")).unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "renewed");
}

#[test]
fn a_directory_that_is_not_there_is_told() {
    let error = Carried::default().add(Path::new("/nowhere/at/all")).unwrap_err();
    assert!(matches!(error, HostError::Carry { .. }), "{error}");
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}

#[test]
fn an_address_of_version_6_is_in_brackets() {
    for (host, server) in [("10.0.0.1", "https://10.0.0.1:443"), ("fd00::1", "https://[fd00::1]:443")] {
        let text = kubeconfig(host, "443", "/ca", "/token");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["clusters"][0]["cluster"]["server"], server);
        assert_eq!(value["users"][0]["user"]["tokenFile"], "/token");
    }
}
