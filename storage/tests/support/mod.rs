//! A real registry on loopback, images to put into it, and a proxy that breaks connections.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use stower_storage::{Digest, RegistryOptions, Storage, StorageOptions, media};
use tempfile::TempDir;

/// Debian's `docker-registry`; it ends with the value.
pub struct Registry {
    child: Child,
    pub host: String,
    pub dir: TempDir,
}

impl Registry {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With `name:password` allowed in and nobody else.
    pub fn start_with_password(name: &str, password: &str) -> Self {
        let out = Command::new("htpasswd")
            .args(["-Bbn", name, password])
            .output()
            .expect("htpasswd of apache2-utils");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), out.stdout).unwrap();
        let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.path().display());
        let registry = Self::start_with(&auth);
        // Read when the registry first asks for a password.
        std::fs::rename(file.path(), registry.dir.path().join("htpasswd")).unwrap();
        std::os::unix::fs::symlink(registry.dir.path().join("htpasswd"), file.path()).unwrap();
        let _ = file.keep();
        registry
    }

    pub fn start_with(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: '127.0.0.1:0', secret: x}}\n{more}",
            dir.path().join("data").display()
        );
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the Debian package docker-registry is needed");
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        let host = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "registry ended: {seen}");
            seen.push_str(&line);
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ' ', '\n']).next().unwrap().to_owned();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, host, dir }
    }

    /// The file of a blob in the registry.
    pub fn blob_file(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.dir.path().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    pub async fn push(&self, repository: &str, tag: &str, image: &Built) {
        push(&self.host, repository, tag, image, None).await;
    }

    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An image that exists nowhere yet.
#[derive(Clone)]
pub struct Built {
    pub blobs: Vec<Vec<u8>>,
    /// Manifests of an index come before it; each has its media type.
    pub manifests: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Flavour {
    OciGzip,
    OciZstd,
    OciTar,
    Docker,
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// One regular file in tar's words.
pub fn tar_file(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = header.to_vec();
    out.extend_from_slice(content);
    out.resize(out.len().div_ceil(512) * 512, 0);
    out
}

pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out: Vec<u8> = files.iter().flat_map(|(name, content)| tar_file(name, content)).collect();
    out.resize(out.len() + 1024, 0);
    out
}

/// Bytes that do not compress.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut word = word;
    (0..length.div_ceil(8)).flat_map(|_| word()).take(length).collect()
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() })
}

pub fn config(platform: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let mut parts = platform.split('/');
    let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    json!({
        "os": os, "architecture": architecture, "variant": parts.next(), "created": "2024-01-01T00:00:00Z",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["/hello"], "ExposedPorts": {"80/tcp": {}}, "Labels": {"a": "b"} },
        "rootfs": { "type": "layers", "diff_ids": diff_ids }, "history": [],
    })
    .to_string()
    .into_bytes()
}

/// An image of uncompressed `layers` for `platform`.
pub fn image(platform: &str, layers: &[Vec<u8>], flavour: Flavour) -> Built {
    let (manifest_type, config_type, layer_type) = match flavour {
        Flavour::OciGzip => (media::OCI_MANIFEST, media::OCI_CONFIG, media::OCI_LAYER_GZIP),
        Flavour::OciZstd => (media::OCI_MANIFEST, media::OCI_CONFIG, media::OCI_LAYER_ZSTD),
        Flavour::OciTar => (media::OCI_MANIFEST, media::OCI_CONFIG, media::OCI_LAYER),
        Flavour::Docker => (media::DOCKER_MANIFEST, media::DOCKER_CONFIG, media::DOCKER_LAYER_GZIP),
    };
    let pack = |layer: &Vec<u8>| match flavour {
        Flavour::OciTar => layer.clone(),
        Flavour::OciZstd => zstd::encode_all(layer.as_slice(), 1).unwrap(),
        _ => gzip(layer),
    };
    let config = config(platform, layers);
    let packed: Vec<Vec<u8>> = layers.iter().map(pack).collect();
    let entries: Vec<Value> = packed.iter().map(|layer| descriptor(layer_type, layer)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": manifest_type,
        "config": descriptor(config_type, &config), "layers": entries,
    });
    let mut blobs = packed;
    blobs.push(config);
    Built { blobs, manifests: vec![(manifest_type.into(), manifest.to_string().into_bytes())] }
}

/// An index of images, each with its platform.
pub fn index(images: &[(&str, Built)]) -> Built {
    let mut all = Built { blobs: Vec::new(), manifests: Vec::new() };
    let mut entries = Vec::new();
    for (platform, image) in images {
        let (media_type, bytes) = image.manifests.last().unwrap();
        let mut entry = descriptor(media_type, bytes);
        let mut parts = platform.split('/');
        entry["platform"] =
            json!({ "os": parts.next(), "architecture": parts.next(), "variant": parts.next() });
        entries.push(entry);
        all.blobs.extend(image.blobs.clone());
        all.manifests.extend(image.manifests.clone());
    }
    let index = json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": entries });
    all.manifests.push((media::OCI_INDEX.into(), index.to_string().into_bytes()));
    all
}

impl Built {
    /// What a name of it means.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifests.last().unwrap().1)
    }

    /// Of the first layer.
    pub fn first_blob(&self) -> Digest {
        Digest::of(&self.blobs[0])
    }

    /// As an OCI layout directory.
    pub fn write_layout(&self, dir: &Path, name: &str) {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for blob in self.blobs.iter().chain(self.manifests.iter().map(|(_, bytes)| bytes)) {
            std::fs::write(blobs.join(Digest::of(blob).hex()), blob).unwrap();
        }
        let (media_type, bytes) = self.manifests.last().unwrap();
        let mut entry = descriptor(media_type, bytes);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
        std::fs::write(dir.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    }
}

pub async fn push(host: &str, repository: &str, tag: &str, image: &Built, password: Option<(&str, &str)>) {
    let client = client();
    let auth = |request: reqwest::RequestBuilder| match password {
        Some((name, password)) => request.basic_auth(name, Some(password)),
        None => request,
    };
    for blob in &image.blobs {
        let start =
            auth(client.post(format!("http://{host}/v2/{repository}/blobs/uploads/"))).send().await.unwrap();
        assert_eq!(start.status(), 202, "{}", start.text().await.unwrap());
        let location = start.headers()["location"].to_str().unwrap();
        let mut url = start.url().join(location).unwrap();
        url.query_pairs_mut().append_pair("digest", &Digest::of(blob).to_string());
        let put = auth(client.put(url).body(blob.clone())).send().await.unwrap();
        assert_eq!(put.status(), 201);
    }
    let last = image.manifests.len() - 1;
    for (at, (media_type, bytes)) in image.manifests.iter().enumerate() {
        let name = if at == last { tag.to_owned() } else { Digest::of(bytes).to_string() };
        let url = format!("http://{host}/v2/{repository}/manifests/{name}");
        let put = auth(client.put(url).header("content-type", media_type).body(bytes.clone()))
            .send()
            .await
            .unwrap();
        assert_eq!(put.status(), 201, "{}", put.text().await.unwrap());
    }
}

pub fn client() -> reqwest::Client {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap()
}

/// Storage in a directory of its own, for which `insecure` may be spoken to in plain HTTP.
pub fn storage(insecure: &[&str]) -> (TempDir, Storage) {
    let dir = tempfile::tempdir().unwrap();
    let storage = storage_in(dir.path(), insecure);
    (dir, storage)
}

pub fn options(dir: &Path, insecure: &[&str]) -> StorageOptions {
    let mut options = StorageOptions::new(dir);
    options.registry = RegistryOptions {
        insecure: insecure.iter().map(|host| (*host).to_owned()).collect(),
        backoff: std::time::Duration::from_millis(1),
        ..RegistryOptions::default()
    };
    options
}

pub fn storage_in(dir: &Path, insecure: &[&str]) -> Storage {
    Storage::open(options(dir, insecure)).unwrap()
}

/// The same with a driver that is named.
pub fn storage_with(driver: &str) -> (TempDir, Storage) {
    let dir = tempfile::tempdir().unwrap();
    let storage =
        Storage::open(StorageOptions { driver: Some(driver.to_owned()), ..options(dir.path(), &[]) })
            .unwrap();
    (dir, storage)
}

/// Between a client and a registry: counts and changes what goes to the client.
pub struct Proxy {
    pub host: String,
    pub requests: Arc<Mutex<Vec<String>>>,
    pub connections: Arc<AtomicU64>,
}

impl Proxy {
    /// Each connection is closed after `cut` bytes to the client, `cuts` times.
    pub fn cutting(to: &str, cut: usize, cuts: u64) -> Self {
        let left = Arc::new(AtomicU64::new(cuts));
        Self::start(to, move || {
            let take = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
            if take { cut } else { usize::MAX }
        })
    }

    pub fn counting(to: &str) -> Self {
        Self::start(to, || usize::MAX)
    }

    fn start(to: &str, budget: impl Fn() -> usize + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (to, requests) = (to.to_owned(), Arc::<Mutex<Vec<String>>>::default());
        let (seen, connections) = (Arc::clone(&requests), Arc::<AtomicU64>::default());
        let (budget, counter) = (Arc::new(budget), Arc::clone(&connections));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(&to)) else { continue };
                counter.fetch_add(1, Ordering::SeqCst);
                let (seen, budget) = (Arc::clone(&seen), Arc::clone(&budget));
                std::thread::spawn(move || relay(client, server, &seen, &*budget));
            }
        });
        Self { host, requests, connections }
    }

    /// Request lines and range headers.
    pub fn seen(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn relay(
    mut client: TcpStream,
    mut server: TcpStream,
    seen: &Arc<Mutex<Vec<String>>>,
    budget: &dyn Fn() -> usize,
) {
    let (from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let seen = Arc::clone(seen);
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = String::new();
        while from.read_line(&mut line).is_ok_and(|read| read > 0) {
            let lower = line.to_ascii_lowercase();
            if ["get ", "range:", "authorization:"].iter().any(|prefix| lower.starts_with(prefix)) {
                seen.lock().unwrap().push(line.trim().to_owned());
            }
            if to.write_all(line.as_bytes()).is_err() {
                break;
            }
            line.clear();
        }
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut left = None;
    let mut buffer = [0u8; 4096];
    while let Ok(read @ 1..) = server.read(&mut buffer) {
        // Only answers with blobs are cut: those that are longer than a manifest.
        let big = seen_big(&buffer[..read]);
        if big && left.is_none() {
            left = Some(budget());
        }
        let take = left.map_or(read, |left| read.min(left));
        if client.write_all(&buffer[..take]).is_err() {
            break;
        }
        if let Some(left) = &mut left {
            *left -= take;
            if *left == 0 {
                break;
            }
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}

fn seen_big(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    text.starts_with("http/1.1 20") && text.contains("content-type: application/octet-stream")
}
