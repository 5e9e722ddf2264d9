//! Pulls from a real registry into real stores.

mod support;

use std::sync::atomic::Ordering;

use stower_storage::{ImageName, PullError, PullRequest, Reference, RegistryError};
use support::{Flavour, Proxy, Registry, image, index, noise, options, storage, storage_in, tar};

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn root_pull_of_every_kind_of_image() {
    let registry = Registry::start();
    let (_dir, storage) = storage(&[&registry.host]);
    let layers = [tar(&[("a", b"one"), ("hello", b"x")]), tar(&[("b", &noise(300_000, 1))])];
    for (tag, flavour) in [
        ("gzip", Flavour::OciGzip),
        ("zstd", Flavour::OciZstd),
        ("tar", Flavour::OciTar),
        ("docker", Flavour::Docker),
    ] {
        let built = image("linux/amd64", &layers, flavour);
        registry.push("test/image", tag, &built).await;
        let name = reference(&registry.name(&format!("test/image:{tag}")));
        assert_eq!(storage.image(&name).unwrap(), None);
        let pulled = storage
            .pull(&name, PullRequest::default())
            .await
            .unwrap_or_else(|e| panic!("{tag}: {}", chain_text(&e)));
        assert_eq!(pulled.digest, built.digest());
        assert_eq!(pulled.config.cmd, ["/hello"]);
        assert_eq!(pulled.config.exposed_ports, ["80/tcp"]);
        assert_eq!(storage.image(&name).unwrap().unwrap(), pulled);
        assert_eq!(storage.image_by_digest(&pulled.manifest).unwrap().unwrap().config, pulled.config);
        assert!(storage.is_unpacked(&pulled));
    }
    // All four have the same layers, uncompressed: one stack.
    assert_eq!(storage.snapshots().layers().len(), 2);
    assert_eq!(storage.images().unwrap().len(), 4);
}
