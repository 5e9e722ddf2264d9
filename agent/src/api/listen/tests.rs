use std::os::unix::fs::PermissionsExt;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn the_socket_is_for_root_and_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = Listener::bind(&path).unwrap();
    assert_eq!(mode(&path), 0o660);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left there");
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_that_answers_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let first = Listener::bind(&path).unwrap();
    assert!(matches!(Listener::bind(&path), Err(BindError::InUse { .. })));
    assert!(UnixStream::connect(&path).is_ok(), "the first still answers");
    drop(first);
}

#[tokio::test]
async fn a_socket_that_nobody_answers_on_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _listener = Listener::bind(&path).unwrap();
    assert!(UnixStream::connect(&path).is_ok());
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    fs::write(&path, "precious").unwrap();
    assert!(matches!(Listener::bind(&path), Err(BindError::NotASocket { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    let link = dir.path().join("l");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(Listener::bind(&link), Err(BindError::NotASocket { .. })));
}

#[tokio::test]
async fn only_ones_own_socket_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let first = Listener::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _second = Listener::bind(&path).unwrap();
    drop(first);
    assert!(UnixStream::connect(&path).is_ok());
}

#[tokio::test]
async fn a_path_longer_than_an_address_works() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("d".repeat(120));
    fs::create_dir(&long).unwrap();
    let path = long.join("s");
    let listener = Listener::bind(&path).unwrap();
    let accepting = tokio::spawn(async move { listener.socket.accept().await.map(|_| ()) });
    // Reached, though what answers does not speak.
    let error = crate::client::Client::new(&path).get("/ping").await.unwrap_err().to_string();
    assert!(error.contains("broke off"), "{error}");
    accepting.await.unwrap().unwrap();
}
