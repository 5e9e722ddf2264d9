//! Images from files.

mod support;

use std::path::{Path, PathBuf};

use serde_json::json;
use stower_storage::{Digest, ImportError, Reference, Storage};
use support::{Built, Flavour, config, gzip, image, index, noise, storage, tar, tar_file};

fn host() -> String {
    let (_dir, storage) = storage(&[]);
    storage.platform().to_string()
}

fn end(mut archive: Vec<u8>) -> Vec<u8> {
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn layout_archive(built: &Built, name: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    built.write_layout(dir.path(), name);
    let file = |path: &str| tar_file(path, &std::fs::read(dir.path().join(path)).unwrap());
    let mut out = file("oci-layout");
    for blob in built.blobs.iter().chain(built.manifests.iter().map(|(_, bytes)| bytes)) {
        out.extend(tar_file(&format!("blobs/sha256/{}", Digest::of(blob).hex()), blob));
    }
    out.extend(file("index.json"));
    end(out)
}

fn link(name: &str, to: &str) -> Vec<u8> {
    let mut header = tar_file(name, b"");
    header[156] = b'2';
    header[157..157 + to.len()].copy_from_slice(to.as_bytes());
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header[..512].iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// As `docker save` wrote them for years: layers first, the list at the end, a link for a layer that is there twice.
fn docker_archive(tags: &[&str], layers: &[Vec<u8>]) -> Vec<u8> {
    let with_twin: Vec<Vec<u8>> = layers.iter().chain([&layers[0]]).cloned().collect();
    let config = config(&host(), &with_twin);
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let mut out = Vec::new();
    let mut names = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        out.extend(tar_file(&format!("id{at}/VERSION"), b"1.0"));
        out.extend(tar_file(&format!("id{at}/layer.tar"), layer));
        names.push(format!("id{at}/layer.tar"));
    }
    out.extend(link("twin/layer.tar", "../id0/layer.tar"));
    names.push("twin/layer.tar".into());
    out.extend(tar_file(&config_name, &config));
    let list = json!([{ "Config": config_name, "RepoTags": tags, "Layers": names }]);
    out.extend(tar_file("manifest.json", list.to_string().as_bytes()));
    end(out)
}

async fn import(
    storage: &Storage,
    bytes: &[u8],
    name: Option<&str>,
) -> Result<Vec<stower_storage::Image>, ImportError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    storage.import(file.path().to_owned(), name.map(|name| name.parse().unwrap())).await
}

fn blobs(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("content/blobs/sha256")).unwrap().count()
}

fn familiar(images: &[stower_storage::Image]) -> Vec<String> {
    images.iter().map(|image| image.reference.as_ref().unwrap().familiar()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn root_layouts_come_from_directories_and_archives() {
    let built = image(&host(), &[tar(&[("a", &noise(50_000, 1))]), tar(&[("b", b"2")])], Flavour::OciZstd);
    let other = image("linux/s390x", &[tar(&[("a", b"s")])], Flavour::OciGzip);
    let all = index(&[("linux/s390x", other), (&host(), built.clone())]);
    for source in [built.clone(), all] {
        let (dir, storage) = storage(&[]);
        let layout = tempfile::tempdir().unwrap();
        source.write_layout(layout.path(), "app:1");
        let found = storage.import(layout.path().to_owned(), None).await.unwrap();
        assert_eq!(familiar(&found), ["app:1"]);
        assert_eq!((found[0].digest, found[0].manifest), (source.digest(), built.digest()));
        assert!(storage.is_unpacked(&found[0]));
        assert_eq!(storage.image(&"app:1".parse().unwrap()).unwrap(), Some(found[0].clone()));
        let there = blobs(dir.path());
        for archive in [
            layout_archive(&source, "app:2"),
            gzip(&layout_archive(&source, "app:3")),
            zstd::encode_all(&layout_archive(&source, "app:4")[..], 1).unwrap(),
        ] {
            let found = import(&storage, &archive, None).await.unwrap();
            assert_eq!(found[0].manifest, built.digest());
        }
        assert_eq!(storage.images().unwrap().len(), 4);
        // What is only for other machines does not stay.
        assert_eq!(blobs(dir.path()), there);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_docker_archives_of_the_old_kind() {
    let (dir, storage) = storage(&[]);
    let layers = [tar(&[("a", &noise(50_000, 2))]), tar(&[("b", b"2")])];
    let found = import(&storage, &docker_archive(&["app:1", "ex.com/app:2"], &layers), None).await.unwrap();
    assert_eq!(familiar(&found), ["app:1", "ex.com/app:2"]);
    assert!(found.iter().all(|image| storage.is_unpacked(image)));
    assert_eq!(found[0].layers.len(), 3);
    // Two layers, a configuration and the manifest that was made.
    assert_eq!(blobs(dir.path()), 4);
    let packed: Vec<Vec<u8>> = layers.to_vec();
    assert_eq!(
        familiar(&import(&storage, &docker_archive(&[], &packed), Some("named")).await.unwrap()),
        ["named:latest"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn root_bad_files_are_refused_and_leave_nothing() {
    let (dir, storage) = storage(&[]);
    let built = image(&host(), &[tar(&[("a", b"1")])], Flavour::OciGzip);
    let layers = [tar(&[("a", b"1")])];
    let good = layout_archive(&built, "app:1");
    let error = |bytes: Vec<u8>, name: Option<&'static str>| {
        let storage = storage.clone();
        async move { import(&storage, &bytes, name).await.unwrap_err() }
    };
    let no_image = |error: ImportError, part: &str| {
        assert!(
            matches!(error, ImportError::NotAnImage { .. }) && error.to_string().contains(part),
            "{error}"
        );
    };
    no_image(error(end(tar_file("etc/passwd", b"x")), None).await, "neither index.json nor manifest.json");
    no_image(error(layout_archive(&built, "latest"), None).await, "only a tag");
    no_image(error(docker_archive(&[], &layers), None).await, "has no name");
    // A member that is there twice could be one to us and the other to somebody else.
    let twice = [&tar_file("index.json", b"{}")[..], &good[..]].concat();
    no_image(error(twice, None).await, "index.json twice");
    let two = index(&[(&host(), built.clone()), ("linux/s390x", built.clone())]);
    let list = json!([
        { "Config": "c.json", "RepoTags": ["a:1"], "Layers": [] }, { "Config": "c.json", "RepoTags": ["b:1"], "Layers": [] }
    ]);
    no_image(
        error(end(tar_file("manifest.json", list.to_string().as_bytes())), Some("x")).await,
        "one name cannot name",
    );
    // Names are looked up among members, never on this machine.
    for name in ["/etc/passwd", "../../../../etc/passwd", "link"] {
        let list = json!([{ "Config": name, "RepoTags": ["a:1"], "Layers": [name] }]);
        let archive =
            [link("link", "/etc/passwd"), tar_file("manifest.json", list.to_string().as_bytes())].concat();
        no_image(error(end(archive), None).await, "has no member");
    }
    // A blob that is not what its name says.
    let config = built.blobs.last().unwrap();
    let mut wrong = good.clone();
    let at = wrong.windows(config.len()).position(|window| window == config.as_slice()).unwrap();
    wrong[at + 5] ^= 1;
    assert!(matches!(error(wrong, None).await, ImportError::Content(_)));
    assert!(matches!(error(good[..1500].to_vec(), None).await, ImportError::Archive { .. }));
    assert!(matches!(error(gzip(&good)[..300].to_vec(), None).await, ImportError::Archive { .. }));
    assert!(matches!(error(docker_archive(&["UPPER"], &layers), None).await, ImportError::Name { .. }));
    let foreign = image("linux/s390x", &layers, Flavour::OciGzip);
    let text = error(layout_archive(&foreign, "app:1"), None).await.to_string();
    assert!(text.contains("it is there for linux/s390x"), "{text}");
    let missing = storage.import(PathBuf::from("/no/such/file"), None).await.unwrap_err();
    assert_eq!(missing.to_string(), "cannot read /no/such/file");
    no_image(
        storage.import(PathBuf::from("/dev/zero"), None).await.unwrap_err(),
        "neither a file nor a directory",
    );
    drop(two);
    assert_eq!(blobs(dir.path()), 0);
    assert_eq!(std::fs::read_dir(dir.path().join("content/ingest")).unwrap().count(), 0);
    assert!(storage.images().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_an_archive_that_is_a_bomb_is_refused() {
    use std::error::Error;
    let (dir, storage) = storage(&[]);
    // 1.25 GiB of what is passed over, so that no other bound is reached, and then an image.
    let zeros = tar_file("old/json", &vec![0; 64 << 20]);
    let built = image(&host(), &[tar(&[("a", b"1")])], Flavour::OciGzip);
    let mut packed = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    for _ in 0..20 {
        std::io::Write::write_all(&mut packed, &zeros).unwrap();
    }
    std::io::Write::write_all(&mut packed, &layout_archive(&built, "app:1")).unwrap();
    let packed = packed.finish().unwrap();
    assert!(packed.len() < 1 << 20);
    let refused = import(&storage, &packed, None).await.unwrap_err();
    let why = refused.source().unwrap().to_string();
    assert!(why.contains("uncompressed bytes of an archive of its length"), "{refused}: {why}");
    assert_eq!(blobs(dir.path()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_layout_directory_is_not_trusted() {
    let (dir, storage) = storage(&[]);
    let built = image(&host(), &[tar(&[("a", b"1")])], Flavour::OciGzip);
    let layout = tempfile::tempdir().unwrap();
    built.write_layout(layout.path(), "app:1");
    let blob = layout.path().join("blobs/sha256").join(built.first_blob().hex());
    std::fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &blob).unwrap();
    assert!(matches!(storage.import(layout.path().to_owned(), None).await, Err(ImportError::Read { .. })));
    std::fs::remove_file(&blob).unwrap();
    let error = storage.import(layout.path().to_owned(), None).await.unwrap_err();
    assert!(error.to_string().contains(&format!("blob {} is missing", built.first_blob())), "{error}");
    assert_eq!(blobs(dir.path()), 0);
    let name: Reference = "app:1".parse().unwrap();
    assert_eq!(storage.image(&name).unwrap(), None);
}
