//! Registries that no honest program plays: what they ask for and what they get.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use stower_storage::{Credential, Credentials, Digest, PullError, PullRequest, RegistryError, media};
use support::{Flavour, image, noise, options, tar};

/// Answers each request by a function of its path and its headers; remembers what it was told.
struct Server {
    host: String,
    seen: Arc<Mutex<Vec<String>>>,
}

type Answer = (String, Vec<(&'static str, String)>, Vec<u8>);

fn answer(status: &str, headers: Vec<(&'static str, String)>, body: &[u8]) -> Answer {
    (status.to_owned(), headers, body.to_vec())
}

impl Server {
    fn start(handle: impl Fn(&str, &[String]) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, handle) = (Arc::clone(&seen), Arc::new(handle));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), log, handle) = (stream, Arc::clone(&log), Arc::clone(&handle)) else {
                    continue;
                };
                std::thread::spawn(move || {
                    let mut lines = Vec::new();
                    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                        match line {
                            Ok(line) if line.is_empty() => break,
                            Ok(line) => lines.push(line),
                            Err(_) => return,
                        }
                    }
                    let Some(first) = lines.first() else { return };
                    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                    log.lock().unwrap().extend(lines.clone());
                    let (status, headers, body) = handle(&path, &lines);
                    let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
                    for (name, value) in headers {
                        head.push_str(&format!("{name}: {value}\r\n"));
                    }
                    if !head.contains("content-length") {
                        head.push_str(&format!("content-length: {}\r\n", body.len()));
                    }
                    let _ = stream
                        .write_all(format!("{head}\r\n").as_bytes())
                        .and_then(|()| stream.write_all(&body));
                });
            }
        });
        Self { host, seen }
    }

    fn told(&self, what: &str) -> bool {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.to_ascii_lowercase().contains(&what.to_ascii_lowercase()))
    }
}

const SECRET: &str = "dXNlcjpodW50ZXIy";

fn with_secret(host: &str) -> PullRequest {
    let credential = Credential::Basic { username: "user".into(), password: "hunter2".into() };
    PullRequest { credentials: Credentials::anonymous().with(host, credential), ..PullRequest::default() }
}

async fn pull(
    host: &str,
    insecure: &[&str],
    request: PullRequest,
) -> Result<stower_storage::Image, PullError> {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), insecure);
    options.registry.attempts = 2;
    let storage = stower_storage::Storage::open(options).unwrap();
    storage.pull(&format!("{host}/a:1").parse().unwrap(), request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn root_credentials_are_not_given_to_a_foreign_token_server() {
    let thief = Server::start(|_, _| answer("200 OK", vec![], br#"{"token": "t"}"#));
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", thief.host);
    let registry =
        Server::start(move |_, _| answer("401 Unauthorized", vec![("www-authenticate", realm.clone())], b""));
    let error = pull(&registry.host, &[&registry.host], with_secret(&registry.host)).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::ForeignTokenServer { .. })), "{error}");
    // Nor is anybody asked in plain HTTP who is not configured so, even without credentials.
    let error = pull(&registry.host, &[&registry.host], PullRequest::default()).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::InsecureRedirect { .. })), "{error}");
    assert!(!thief.told("get"));
    assert!(!registry.told("authorization"));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_token_is_asked_for_the_least_and_goes_to_the_registry_only() {
    let built = image("linux/amd64", &[tar(&[("a", &noise(20_000, 1))])], Flavour::OciGzip);
    let blobs = built.blobs.clone();
    let elsewhere = Server::start(move |path, _| {
        let blob = blobs.iter().find(|blob| path.ends_with(&Digest::of(blob).hex())).unwrap();
        answer("200 OK", vec![], blob)
    });
    let (manifest, to) = (built.manifests[0].1.clone(), elsewhere.host.clone());
    let own = Arc::new(Mutex::new(String::new()));
    let host = Arc::clone(&own);
    let registry = Server::start(move |path, headers| {
        if path.starts_with("/token") {
            return answer("200 OK", vec![], br#"{"access_token": "the-token"}"#);
        }
        if !headers.iter().any(|header| header.eq_ignore_ascii_case("authorization: Bearer the-token")) {
            let realm = format!(
                "Bearer realm=\"http://{}/token\",service=\"s\",scope=\"repository:a:push,pull,delete\"",
                host.lock().unwrap()
            );
            return answer("401 Unauthorized", vec![("www-authenticate", realm)], b"");
        }
        match path.rsplit('/').next().unwrap() {
            "1" => answer("200 OK", vec![("content-type", media::OCI_MANIFEST.into())], &manifest),
            digest => answer(
                "307 Temporary Redirect",
                vec![("location", format!("http://u:p@{to}/signed/{digest}"))],
                b"",
            ),
        }
    });
    *own.lock().unwrap() = registry.host.clone();
    pull(&registry.host, &[&registry.host, &elsewhere.host], with_secret(&registry.host)).await.unwrap();
    assert!(registry.told("scope=repository%3Aa%3Apull ") && !registry.told("scope=repository%3Aa%3Apush"));
    assert!(registry.told(SECRET) && registry.told("the-token"));
    assert!(elsewhere.told("/signed/") && !elsewhere.told("authorization"));
    // Without the host being configured, plain HTTP is not followed to it.
    let error = pull(&registry.host, &[&registry.host], PullRequest::default()).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::InsecureRedirect { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_answers_are_bounded() {
    let endless = |length: &'static str| {
        Server::start(move |_, _| {
            answer("200 OK", vec![("content-length", length.into())], &vec![b' '; 5 << 20])
        })
    };
    for length in ["99999999999", "5242880"] {
        let server = endless(length);
        let error = pull(&server.host, &[&server.host], PullRequest::default()).await.unwrap_err();
        assert!(matches!(error, PullError::Registry(RegistryError::TooLarge { .. })), "{error}");
    }
    let chunked = Server::start(|_, _| {
        let mut body = Vec::new();
        for _ in 0..50 {
            body.extend_from_slice(b"20000\r\n");
            body.extend_from_slice(&vec![b' '; 0x20000]);
            body.extend_from_slice(b"\r\n");
        }
        answer("200 OK", vec![("transfer-encoding", "chunked\r\nx-content-length: 0".into())], &body)
    });
    let error = pull(&chunked.host, &[&chunked.host], PullRequest::default()).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::TooLarge { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_loops_and_busy_servers_end() {
    let around = Server::start(|path, _| answer("302 Found", vec![("location", path.to_owned())], b""));
    let error = pull(&around.host, &[&around.host], PullRequest::default()).await.unwrap_err();
    assert!(error.to_string().contains("too many redirects"), "{error}");
    let busy = Server::start(|_, _| {
        answer("503 Service Unavailable", vec![], br#"{"errors": [{"code": "X", "message": "come back"}]}"#)
    });
    let error = pull(&busy.host, &[&busy.host], PullRequest::default()).await.unwrap_err();
    assert!(error.to_string().ends_with("answers 503 for a:1: come back"), "{error}");
    assert_eq!(busy.seen.lock().unwrap().iter().filter(|line| line.starts_with("GET")).count(), 2);
    let again = Server::start(|_, _| {
        answer("401 Unauthorized", vec![("www-authenticate", "Basic realm=x".into())], b"")
    });
    let error = pull(&again.host, &[&again.host], with_secret(&again.host)).await.unwrap_err();
    assert!(
        matches!(error, PullError::Registry(RegistryError::Unauthorized { with_credentials: true, .. })),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_manifest_must_be_what_its_digest_says() {
    let built = image("linux/amd64", &[tar(&[("a", b"1")])], Flavour::OciGzip);
    let manifest = built.manifests[0].1.clone();
    let expected = built.digest();
    let mut wrong = manifest.clone();
    wrong.push(b' ');
    let lying = Server::start(move |_, _| {
        let headers = vec![
            ("content-type", media::OCI_MANIFEST.into()),
            ("docker-content-digest", expected.to_string()),
        ];
        answer("200 OK", headers, &wrong)
    });
    let error = pull(&lying.host, &[&lying.host], PullRequest::default()).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::WrongDigest { .. })), "{error}");
    let confused = Server::start(move |_, _| {
        answer("200 OK", vec![("content-type", media::OCI_INDEX.into())], &manifest)
    });
    let error = pull(&confused.host, &[&confused.host], PullRequest::default()).await.unwrap_err();
    assert!(
        matches!(error, PullError::Manifest { source: stower_storage::ManifestError::Ambiguous(_), .. }),
        "{error}"
    );
}
