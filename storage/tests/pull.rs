//! Pulls from a real registry into real stores.

mod support;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use stower_storage::{
    Credential, Credentials, ImageName, ProgressEvent, PullError, PullRequest, Reference, RegistryError,
};
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

#[tokio::test(flavor = "multi_thread")]
async fn root_index_gives_the_image_for_this_machine() {
    let registry = Registry::start();
    let (_dir, storage) = storage(&[&registry.host]);
    let here = storage.platform().architecture.clone();
    let mine = image(&format!("linux/{here}"), &[tar(&[("mine", b"1")])], Flavour::OciGzip);
    let other = image("linux/s390x", &[tar(&[("other", b"2")])], Flavour::OciGzip);
    let all = index(&[("linux/s390x", other.clone()), (&format!("linux/{here}"), mine.clone())]);
    registry.push("multi", "1", &all).await;
    let name = reference(&registry.name("multi:1"));
    let pulled = storage.pull(&name, PullRequest::default()).await.unwrap();
    assert_eq!((pulled.digest, pulled.manifest), (all.digest(), mine.digest()));
    assert_eq!(storage.image(&name).unwrap(), Some(pulled.clone()));
    // The digest of the index and that of the manifest are both good names.
    for digest in [all.digest(), mine.digest()] {
        let by_digest = reference(&registry.name(&format!("multi@{digest}")));
        assert_eq!(storage.image(&by_digest).unwrap().unwrap().manifest, mine.digest());
        assert_eq!(storage.pull(&by_digest, PullRequest::default()).await.unwrap().manifest, mine.digest());
    }
    let request = PullRequest { platform: Some("linux/s390x".parse().unwrap()), ..PullRequest::default() };
    assert_eq!(storage.pull(&name, request).await.unwrap().manifest, other.digest());

    let foreign = index(&[("linux/s390x", other.clone()), ("linux/ppc64le", other.clone())]);
    registry.push("multi", "foreign", &foreign).await;
    let error =
        storage.pull(&reference(&registry.name("multi:foreign")), PullRequest::default()).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&format!("is not for linux/{here}")) && text.contains("linux/ppc64le, linux/s390x"),
        "{text}"
    );
    registry.push("multi", "single", &other).await;
    let error =
        storage.pull(&reference(&registry.name("multi:single")), PullRequest::default()).await.unwrap_err();
    assert!(matches!(&error, PullError::Platform { available, .. } if available.len() == 1), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_cut_transfers_are_continued() {
    let registry = Registry::start();
    let layers = [tar(&[("a", &noise(3_000_000, 1))]), tar(&[("b", &noise(2_000_000, 2))])];
    registry.push("big", "1", &image("linux/amd64", &layers, Flavour::OciGzip)).await;
    let proxy = Proxy::cutting(&registry.host, 1_000_000, 4);
    let (_dir, storage) = storage(&[&proxy.host]);
    let pulled = storage.pull(&reference(&format!("{}/big:1", proxy.host)), PullRequest::default()).await;
    let pulled = pulled.unwrap_or_else(|error| panic!("{}", chain_text(&error)));
    let ranges =
        proxy.seen().iter().filter(|line| line.to_ascii_lowercase().starts_with("range: bytes=")).count();
    assert!(ranges >= 2, "{:?}", proxy.seen());
    // Nothing came twice, but for what was in flight when the connection broke.
    let bytes = storage.metrics().bytes_downloaded.load(Ordering::Relaxed);
    assert!(bytes < pulled.size + 4 * 300_000, "{bytes} of {}", pulled.size);
    assert!(storage.metrics().transfer_retries.load(Ordering::Relaxed) >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_pull_that_was_given_up_is_continued_by_the_next_process() {
    let registry = Registry::start();
    let layer = tar(&[("a", &noise(3_000_000, 1))]);
    registry.push("big", "1", &image("linux/amd64", &[layer], Flavour::OciTar)).await;
    let dir = tempfile::tempdir().unwrap();
    // Breaks each time, so the first process gives up.
    let proxy = Proxy::cutting(&registry.host, 400_000, u64::MAX);
    let mut few = options(dir.path(), &[&proxy.host]);
    few.registry.attempts = 1;
    let storage = stower_storage::Storage::open(few).unwrap();
    let error =
        storage.pull(&reference(&format!("{}/big:1", proxy.host)), PullRequest::default()).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::Unreachable { .. })), "{error}");
    drop(storage);
    let direct = Proxy::counting(&registry.host);
    let storage = storage_in(dir.path(), &[&direct.host]);
    storage.pull(&reference(&format!("{}/big:1", direct.host)), PullRequest::default()).await.unwrap();
    assert!(
        direct.seen().iter().any(|line| line.to_ascii_lowercase().starts_with("range: bytes=")),
        "{:?}",
        direct.seen()
    );
    assert!(storage.metrics().bytes_resumed.load(Ordering::Relaxed) > 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_wrong_and_truncated_blobs_are_refused() {
    let registry = Registry::start();
    let (_dir, storage) = storage(&[&registry.host]);
    let built = image("linux/amd64", &[tar(&[("a", &noise(100_000, 3))])], Flavour::OciTar);
    registry.push("bad", "1", &built).await;
    let file = registry.blob_file(&built.first_blob());
    let good = std::fs::read(&file).unwrap();
    let name = reference(&registry.name("bad:1"));

    let mut wrong = good.clone();
    wrong[50_000] ^= 1;
    std::fs::write(&file, &wrong).unwrap();
    let error = storage.pull(&name, PullRequest::default()).await.unwrap_err();
    let expected = built.first_blob();
    assert!(
        matches!(error, PullError::Registry(RegistryError::WrongDigest { expected: e, .. }) if e == expected),
        "{error}"
    );

    std::fs::write(&file, &good[..60_000]).unwrap();
    let error = storage.pull(&name, PullRequest::default()).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::WrongSize { found: 60_000, .. })), "{error}");
    assert_eq!(storage.image(&name).unwrap(), None);
    assert!(storage.snapshots().layers().is_empty());

    std::fs::write(&file, &good).unwrap();
    storage.pull(&name, PullRequest::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_blob_that_rotted_here_is_fetched_again() {
    let registry = Registry::start();
    let (dir, storage) = storage(&[&registry.host]);
    let (base, top) = (tar(&[("a", &noise(50_000, 4))]), tar(&[("b", b"b")]));
    let one = image("linux/amd64", std::slice::from_ref(&base), Flavour::OciTar);
    registry.push("rot", "1", &one).await;
    registry.push("rot", "2", &image("linux/amd64", &[top, base], Flavour::OciTar)).await;
    storage.pull(&reference(&registry.name("rot:1")), PullRequest::default()).await.unwrap();
    let file = dir.path().join("content/blobs/sha256").join(one.first_blob().hex());
    let mut bytes = std::fs::read(&file).unwrap();
    let good = bytes.clone();
    bytes[30_000] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    // The second image has the damaged layer in another place of its stack, so it must be unpacked anew.
    storage.pull(&reference(&registry.name("rot:2")), PullRequest::default()).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), good);
    assert_eq!(storage.metrics().blobs_damaged.load(Ordering::Relaxed), 1);

    // A damaged manifest is no image, and a pull mends it.
    let name = reference(&registry.name("rot:1"));
    std::fs::write(dir.path().join("content/blobs/sha256").join(one.digest().hex()), b"{}").unwrap();
    assert_eq!(storage.image(&name).unwrap(), None);
    storage.pull(&name, PullRequest::default()).await.unwrap();
    assert!(storage.image(&name).unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_errors_say_what_to_do() {
    let registry = Registry::start();
    let (_dir, storage) = storage(&[&registry.host, "127.0.0.1:1"]);
    registry.push("here", "1", &image("linux/amd64", &[tar(&[("a", b"1")])], Flavour::OciGzip)).await;
    let error = |name: String| {
        let storage = storage.clone();
        async move { storage.pull(&reference(&name), PullRequest::default()).await.unwrap_err() }
    };
    let gone = error(registry.name("here:2")).await;
    assert!(matches!(gone, PullError::Registry(RegistryError::NotFound { .. })), "{gone}");
    assert_eq!(
        gone.to_string(),
        format!("here:2 is not in registry {}: check the name and the tag", registry.host)
    );
    let gone = error(registry.name("nowhere:1")).await;
    assert!(matches!(gone, PullError::Registry(RegistryError::NotFound { .. })), "{gone}");
    let down = error("127.0.0.1:1/a".into()).await;
    assert_eq!(
        down.to_string(),
        "registry 127.0.0.1:1 cannot be reached at 127.0.0.1:1: nothing listens there"
    );
    // Plain HTTP is for who is configured so; loopback is nobody special.
    let port = registry.host.rsplit(':').next().unwrap();
    let plain = error(format!("localhost:{port}/here:1")).await.to_string();
    assert!(plain.contains("--insecure-registry"), "{plain}");
    let unknown = error("no-such-host.invalid/a".into()).await.to_string();
    assert!(unknown.contains("cannot be reached at no-such-host.invalid:443"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_password_is_used_and_asked_for() {
    let registry = Registry::start_with_password("user", "secret");
    let (_dir, storage) = storage(&[&registry.host]);
    let built = image("linux/amd64", &[tar(&[("a", b"1")])], Flavour::OciGzip);
    support::push(&registry.host, "private", "1", &built, Some(("user", "secret"))).await;
    let name = reference(&registry.name("private:1"));
    let pull = |password: Option<&str>| {
        let mut request = PullRequest::default();
        if let Some(password) = password {
            let credential = Credential::Basic { username: "user".into(), password: password.into() };
            request.credentials = Credentials::anonymous().with(&registry.host, credential);
        }
        storage.pull(&name, request)
    };
    for (password, with) in [(None, false), (Some("wrong"), true)] {
        let error = pull(password).await.unwrap_err();
        assert!(
            matches!(error, PullError::Registry(RegistryError::Unauthorized { with_credentials, .. }) if with_credentials == with),
            "{error}"
        );
    }
    pull(Some("secret")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn root_the_same_pull_is_made_once() {
    let registry = Registry::start();
    let proxy = Proxy::counting(&registry.host);
    let (_dir, storage) = storage(&[&proxy.host]);
    let built = image("linux/amd64", &[tar(&[("a", &noise(2_000_000, 5))])], Flavour::OciTar);
    registry.push("same", "1", &built).await;
    registry
        .push(
            "same",
            "2",
            &image(
                "linux/amd64",
                &[tar(&[("b", b"b")]), tar(&[("a", &noise(2_000_000, 5))])],
                Flavour::OciTar,
            ),
        )
        .await;
    let pulls = (0..8).map(|at| {
        let (storage, name) = (storage.clone(), reference(&format!("{}/same:{}", proxy.host, 1 + at % 2)));
        tokio::spawn(async move { storage.pull(&name, PullRequest::default()).await })
    });
    for pull in pulls.collect::<Vec<_>>() {
        pull.await.unwrap().unwrap();
    }
    let blob = format!("blobs/{}", built.first_blob());
    let fetched = proxy.seen().iter().filter(|line| line.contains(&blob)).count();
    assert_eq!(fetched, 1, "{:?}", proxy.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_removal_keeps_what_others_need() {
    let registry = Registry::start();
    let (dir, storage) = storage(&[&registry.host]);
    let base = tar(&[("base", &noise(10_000, 6))]);
    registry
        .push("rm", "1", &image("linux/amd64", &[base.clone(), tar(&[("one", b"1")])], Flavour::OciGzip))
        .await;
    registry.push("rm", "2", &image("linux/amd64", &[base, tar(&[("two", b"2")])], Flavour::OciGzip)).await;
    let names = ["rm:1", "rm:2"].map(|name| reference(&registry.name(name)));
    for name in &names {
        storage.pull(name, PullRequest::default()).await.unwrap();
    }
    assert_eq!(storage.snapshots().layers().len(), 3);
    let removed = storage.remove_image(ImageName::Reference(names[0].clone())).await.unwrap();
    // Its manifest, its configuration and its own layer.
    assert_eq!(
        (removed.references.as_slice(), removed.swept.blobs, removed.layers.len()),
        (&names[..1], 3, 1)
    );
    let left = storage.image(&names[1]).unwrap().unwrap();
    assert!(storage.is_unpacked(&left));
    assert_eq!(storage.image(&names[0]).unwrap(), None);
    assert!(storage.remove_image(ImageName::Reference(names[0].clone())).await.is_err());
    let removed = storage.remove_image(ImageName::Digest(left.id)).await.unwrap();
    assert_eq!((removed.swept.blobs, removed.layers.len()), (4, 2));
    assert_eq!(std::fs::read_dir(dir.path().join("content/blobs/sha256")).unwrap().count(), 0);
    assert!(storage.snapshots().layers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_an_image_stays_when_its_name_moves_on() {
    let registry = Registry::start();
    let (dir, storage) = storage(&[&registry.host]);
    let name = reference(&registry.name("move:latest"));
    let old = image("linux/amd64", &[tar(&[("old", b"1")])], Flavour::OciGzip);
    registry.push("move", "latest", &old).await;
    storage.pull(&name, PullRequest::default()).await.unwrap();
    let new = image("linux/amd64", &[tar(&[("new", b"2")])], Flavour::OciGzip);
    registry.push("move", "latest", &new).await;
    storage.pull(&name, PullRequest::default()).await.unwrap();
    drop(storage);
    let storage = storage_in(dir.path(), &[]);
    assert_eq!(storage.image(&name).unwrap().unwrap().digest, new.digest());
    let old = storage.image_by_digest(&old.digest()).unwrap().unwrap();
    assert_eq!(old.reference, None);
    assert!(storage.is_unpacked(&old));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_removals_and_pulls_at_once_leave_whole_images() {
    let registry = Registry::start();
    let (_dir, storage) = storage(&[&registry.host]);
    let base = tar(&[("base", &noise(200_000, 7))]);
    let mut names = Vec::new();
    for at in 0..4 {
        let own = tar(&[("own", format!("{at}").as_bytes())]);
        registry
            .push("churn", &at.to_string(), &image("linux/amd64", &[base.clone(), own], Flavour::OciGzip))
            .await;
        names.push(reference(&registry.name(&format!("churn:{at}"))));
    }
    let mut tasks = Vec::new();
    for name in names {
        let storage = storage.clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..6 {
                let pulled = storage.pull(&name, PullRequest::default()).await.unwrap();
                // Nobody else removes this name.
                assert!(storage.is_unpacked(&pulled), "{name}");
                assert_eq!(storage.image(&name).unwrap(), Some(pulled));
                storage.remove_image(ImageName::Reference(name.clone())).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(storage.images().unwrap().is_empty());
}

#[test]
fn root_a_registry_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (insecure, default) in
        [("http://x", "docker.io"), ("a:0", "docker.io"), ("a:1", "plainword"), ("a:1", "a/b")]
    {
        let mut options = options(dir.path(), &[insecure]);
        options.default_registry = default.to_owned();
        let error = stower_storage::Storage::open(options).unwrap_err();
        assert!(matches!(error, stower_storage::OpenStorageError::Registry(_)), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_layer_that_is_not_what_the_image_says_is_refused() {
    let registry = Registry::start();
    let (_dir, storage) = storage(&[&registry.host]);
    let mut built = image("linux/amd64", &[tar(&[("a", b"1")])], Flavour::OciTar);
    // Digest and size are right, but the configuration names another content.
    let other = tar(&[("evil", b"2")]);
    let manifest = String::from_utf8(built.manifests[0].1.clone()).unwrap();
    let old = built.first_blob();
    let manifest = manifest.replace(&old.to_string(), &stower_storage::Digest::of(&other).to_string());
    assert_eq!(other.len(), built.blobs[0].len());
    built.blobs[0] = other;
    built.manifests[0].1 = manifest.into_bytes();
    registry.push("lie", "1", &built).await;
    let name = reference(&registry.name("lie:1"));
    let error = storage.pull(&name, PullRequest::default()).await.unwrap_err();
    assert!(matches!(error, PullError::Unpack { .. }), "{error}");
    assert!(chain_text(&error).contains("diff id"), "{}", chain_text(&error));
    assert_eq!(storage.image(&name).unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_progress_is_told_to_all_who_wait() {
    let registry = Registry::start();
    let (_dir, storage) = storage(&[&registry.host]);
    let built = image("linux/amd64", &[tar(&[("a", &noise(2_000_000, 8))])], Flavour::OciTar);
    registry.push("bars", "1", &built).await;
    let name = reference(&registry.name("bars:1"));
    let pull = |_: usize| {
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let progress = move |event: &ProgressEvent| sink.lock().unwrap().push(event.clone());
        let request = PullRequest { progress: Some(Arc::new(progress)), ..PullRequest::default() };
        let (storage, name) = (storage.clone(), name.clone());
        tokio::spawn(async move { storage.pull(&name, request).await.map(|_| events) })
    };
    let pulls: Vec<_> = (0..3).map(pull).collect();
    for pull in pulls {
        let events = pull.await.unwrap().unwrap();
        let events = events.lock().unwrap();
        let resolved = events
            .iter()
            .any(|event| matches!(event, ProgressEvent::Resolved { layers, .. } if layers.len() == 1));
        assert!(resolved, "{events:?}");
        let last = events.iter().rfind(
            |event| matches!(event, ProgressEvent::Blob { digest, .. } if *digest == built.first_blob()),
        );
        let Some(ProgressEvent::Blob { done, total, .. }) = last else { panic!("{events:?}") };
        assert_eq!(done, total, "{events:?}");
    }
}
