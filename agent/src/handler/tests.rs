//! Against real servers, through the real dialer. The container is this process itself, in its own network namespace, which the
//! dialer's thread enters all the same: that needs root.

use std::{net::Ipv4Addr, os::fd::OwnedFd, time::Duration};

use hyper::body::Bytes;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use stower_crds::{GrpcAction, GrpcMode, HttpGetAction, HttpHeader, HttpProtocol, UriScheme};
use stower_runtime::{ShimRecord, proc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

/// A handle on this process in the place of a shim and of a first process.
fn container() -> Arc<ShimHandle> {
    assert!(rustix::process::geteuid().is_root(), "this test enters a namespace: run it as root");
    let (pid, start) = (std::process::id(), proc::start_time(std::process::id()).unwrap().unwrap());
    let record = ShimRecord {
        version: 1,
        boot_id: proc::boot_id().unwrap(),
        shim_pid: pid,
        shim_start: start,
        init_pid: pid,
        init_start: start,
        run: 1,
        started_at: String::new(),
        shim: String::new(),
        contract: 1,
        extra: serde_json::Map::new(),
    };
    let dir: OwnedFd = std::fs::File::open("/").unwrap().into();
    Arc::new(ShimHandle::open(dir, record).unwrap().unwrap())
}

fn handlers() -> Handlers {
    Handlers::new(Runtime::new().unwrap(), PathBuf::new())
}

fn action(port: u16, path: &str) -> HttpGetAction {
    HttpGetAction {
        port: IntOrString::Int(port.into()),
        path: path.into(),
        host: None,
        scheme: UriScheme::Http,
        http_headers: Vec::new(),
        protocol: None,
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A server of HTTP/1.1: `/status/CODE`, `/to/WHERE` (a redirect), `/big`, and whatever else gives the request back.
async fn serve() -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    if stream.read_buf(&mut request).await.unwrap() == 0 {
                        return;
                    }
                }
                let request = String::from_utf8(request).unwrap();
                let path = request.split(' ').nth(1).unwrap();
                let answer = if let Some(code) = path.strip_prefix("/status/") {
                    format!("HTTP/1.1 {code} Status\r\nContent-Length: 2\r\n\r\nok")
                } else if let Some(to) = path.strip_prefix("/to/") {
                    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 4\r\n\r\nmove")
                } else if path == "/big" {
                    format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(1_000_000))
                } else {
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{request}", request.len())
                };
                // A client that has read enough is gone.
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    port
}

async fn get(port: u16, path: &str) -> Result<HttpAnswer, HandlerError> {
    handlers().http_get(&container(), &action(port, path), &[]).await
}

#[tokio::test]
async fn root_a_request_is_as_kubelet_makes_it() {
    let port = serve().await;
    let ask = async |action: &HttpGetAction| {
        let answer = handlers().http_get(&container(), action, &[]).await.unwrap();
        (answer.status, String::from_utf8(answer.body).unwrap().to_lowercase())
    };
    let mut plain = action(port, "/a/b?c=d&e#f");
    let (status, echoed) = ask(&plain).await;
    assert_eq!(status, 200);
    assert!(echoed.starts_with("get /a/b?c=d&e http/1.1\r\n"), "{echoed}");
    for line in [
        format!("host: localhost:{port}"),
        format!("user-agent: stower-probe/{}", env!("CARGO_PKG_VERSION")),
        "accept: */*".into(),
        "connection: close".into(),
    ] {
        assert!(echoed.lines().any(|have| have == line), "{line} is not in {echoed}");
    }
    // A path never names a host.
    plain.path = "//elsewhere.example/x".into();
    assert!(ask(&plain).await.1.starts_with("get //elsewhere.example/x "));
    let header = |name: &str, value: &str| HttpHeader { name: name.into(), value: value.into() };
    plain.http_headers = vec![
        header("Host", "Example.com"),
        header("X-A", "1"),
        header("x-a", "2"),
        header("User-Agent", "mine"),
        header("Accept", ""),
    ];
    let (_, echoed) = ask(&plain).await;
    for line in ["host: example.com", "x-a: 1", "x-a: 2", "user-agent: mine"] {
        assert!(echoed.lines().any(|have| have == line), "{line} is not in {echoed}");
    }
    assert!(!echoed.contains("accept:"), "{echoed}");
}

#[tokio::test]
async fn root_codes_are_told_and_bodies_are_bounded() {
    let port = serve().await;
    for code in [200, 204, 304, 399, 404, 500] {
        assert_eq!(get(port, &format!("/status/{code}")).await.unwrap().status, code);
    }
    let answer = get(port, "/big").await.unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, http::MAX_BODY));
}

#[tokio::test]
async fn root_redirects_stay_on_the_host() {
    let port = serve().await;
    for to in [format!("http://localhost:{port}/status/204"), "/status/204".into(), "../status/204".into()] {
        assert_eq!(get(port, &format!("/to/{to}")).await.unwrap().status, 204, "{to}");
    }
    // Another host is not asked, whoever it is.
    let away = get(port, "/to/http://127.0.0.1:9/").await.unwrap();
    assert_eq!((away.status, away.body.as_slice()), (302, &b"move"[..]));
    assert_eq!(get(port, "/to/ftp://localhost/").await.unwrap().status, 302);
    // `/to//to//to/…` would take more than ten.
    let many = format!("{}/status/200", "/to/".repeat(11).replace("//", "/"));
    let answer = get(port, &many).await;
    assert!(matches!(answer, Err(HandlerError::Redirects)) || answer.is_ok(), "{answer:?}");
    let (listener, circle) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 307 X\r\nLocation: /\r\nContent-Length: 0\r\n\r\n").await;
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    assert!(matches!(get(circle, "/").await, Err(HandlerError::Redirects)));
}

#[tokio::test]
async fn root_a_question_that_is_given_up_leaves_nothing() {
    let (listener, port) = listen().await;
    let hung = tokio::time::timeout(Duration::from_millis(50), get(port, "/"));
    let (asked, accepted) = tokio::join!(hung, listener.accept());
    assert!(asked.is_err(), "it was answered by nobody");
    // The end of the connection is seen, so nobody holds it any more.
    let mut request = Vec::new();
    accepted.unwrap().0.read_to_end(&mut request).await.unwrap();
    assert!(request.starts_with(b"GET / HTTP/1.1"));
}

#[tokio::test]
async fn root_nobody_there_is_told_with_its_address() {
    let (listener, port) = listen().await;
    drop(listener);
    let error = get(port, "/").await.unwrap_err();
    assert!(!error.is_ours());
    assert_eq!(error.to_string(), format!("dial tcp 127.0.0.1:{port}: connect"));
    let none = handlers().connect(&container(), Some("no-such-host.invalid"), 1).await.unwrap_err();
    assert!(matches!(none, HandlerError::NoAddress { .. }), "{none:?}");
}

#[tokio::test]
async fn root_the_thread_is_one_and_ends_with_its_dialer() {
    let port = serve().await;
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        tasks
            .filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|it| it == "netns\n"))
            .count()
    };
    let (handlers, container) = (handlers(), container());
    let before = threads();
    for _ in 0..50 {
        assert!(handlers.connect(&container, None, port).await.is_ok());
    }
    // Other tests of this process have threads of their own, which come and go.
    assert!(threads() <= before + 8);
    drop(handlers);
}

/// A server of HTTP/2 that answers `code` with a body and gRPC trailers.
async fn serve_http2(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    body: &'static [u8],
    trailers: &'static [(&'static str, &'static str)],
) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert!(matches!(request.uri().path(), "/grpc.health.v1.Health/Check" | "/h2c"), "{request:?}");
        let response =
            hyper::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut stream = respond.send_response(response, false).unwrap();
        stream.send_data(Bytes::from_static(body), false).unwrap();
        let trailers = trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        stream.send_trailers(trailers.collect()).unwrap();
    }
}

const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];

#[tokio::test]
async fn root_h2c_is_spoken_where_a_field_says_so() {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_http2(stream, b"hello", &[]));
        }
    });
    let mut action = action(port, "/h2c");
    action.protocol = Some(HttpProtocol::Http2);
    let answer = handlers().http_get(&container(), &action, &[]).await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hello"[..]));
    // A server of HTTP/1.1 is no such server, and the other way about.
    action.port = IntOrString::Int(serve().await.into());
    assert!(matches!(handlers().http_get(&container(), &action, &[]).await, Err(HandlerError::Http2(_))));
    assert!(get(port, "/h2c").await.is_err());
}

#[tokio::test]
async fn root_health_is_what_the_service_says() {
    type Said = (&'static [u8], &'static [(&'static str, &'static str)], Health);
    let cases: [Said; 6] = [
        (SERVING, &[("grpc-status", "0")], Health::Serving),
        (&[0, 0, 0, 0, 2, 8, 2], &[("grpc-status", "0")], Health::Not("NOT_SERVING".into())),
        (&[0, 0, 0, 0, 0], &[("grpc-status", "0")], Health::Not("UNKNOWN".into())),
        (
            &[],
            &[("grpc-status", "12"), ("grpc-message", "unknown service")],
            Health::Unimplemented("code = Unimplemented desc = unknown service".into()),
        ),
        (&[], &[("grpc-status", "5")], Health::Failed("code = NotFound desc = ".into())),
        (
            &[1, 0, 0, 0, 2, 8, 1],
            &[("grpc-status", "0")],
            Health::Failed("the answer is no HealthCheckResponse".into()),
        ),
    ];
    for (body, trailers, health) in cases {
        let (listener, port) = listen().await;
        tokio::spawn(async move { serve_http2(listener.accept().await.unwrap().0, body, trailers).await });
        let action = GrpcAction { port, service: Some("shop".into()), mode: None };
        let said = handlers().health(&container(), &action).await.unwrap();
        assert_eq!(said, health, "{body:?} {trailers:?}");
    }
}

/// Of a server whose certificate nobody would trust: made for no name, by itself, for a day long past.
const CERTIFICATE: &str = "MIIBdzCCAR2gAwIBAgIUWkmgheAdBbKv0UJQt8QTIhjm414wCgYIKoZIzj0EAwIwETEPMA0GA1UEAwwGbm9ib2R5MB4XDTI2MTEzMDE2NTAzOVoXDTI2MTIwMTE2NTAzOVowETEPMA0GA1UEAwwGbm9ib2R5MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEi2RP/mqNaBKKtIIs0TwZuRtN2KaP3mYSME2nqBbhG4WMnV33uiPw7ZyuXDB648/FZHkg1UH2Ht77ikmBnQVAPqNTMFEwHQYDVR0OBBYEFAMMyhHvdNHWBiddpu6Gi2oEHLGBMB8GA1UdIwQYMBaAFAMMyhHvdNHWBiddpu6Gi2oEHLGBMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhAOhKHCwoC1dvfrzZaD+99FYirD2lRGfHifqmNvK3YgQLAiAfPF1jTEtQD6vG5FcLp8W1HFxV74pOI1epAkTp35FmzQ==";
const KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgAnswK2GG+FnnjmuMcmwXDXFplfmai/XM7uttDcU/v6KhRANCAASLZE/+ao1oEoq0gizRPBm5G03Ypo/eZhIwTaeoFuEbhYydXfe6I/DtnK5cMHrjz8VkeSDVQfYe3vuKSYGdBUA+";

fn decode(text: &str) -> Vec<u8> {
    let digit = |c: u8| {
        u32::try_from(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
                .iter()
                .position(|have| *have == c)
                .unwrap(),
        )
        .unwrap()
    };
    let text = text.trim_end_matches('=').as_bytes();
    let chunks = text.chunks(4).flat_map(|chunk| {
        let bits = chunk.iter().fold(0, |bits, c| bits << 6 | digit(*c)) << (6 * (4 - chunk.len()));
        bits.to_be_bytes()[1..chunk.len()].to_vec()
    });
    chunks.collect()
}

#[tokio::test]
async fn root_certificates_are_not_checked() {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = |protocols: &[&[u8]]| {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(decode(CERTIFICATE))],
                PrivatePkcs8KeyDer::from(decode(KEY)).into(),
            )
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        tokio_rustls::TlsAcceptor::from(Arc::new(config))
    };
    let (listener, port) = listen().await;
    let acceptor = config(&[]);
    tokio::spawn(async move {
        let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        let _ = stream.shutdown().await;
    });
    let mut secure = action(port, "/");
    secure.scheme = UriScheme::Https;
    let answer = handlers().http_get(&container(), &secure, &[]).await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ok"[..]));
    let (listener, port) = listen().await;
    let acceptor = config(&[b"h2"]);
    tokio::spawn(async move {
        let stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        serve_http2(stream, SERVING, &[("grpc-status", "0")]).await;
    });
    let action = GrpcAction { port, service: None, mode: Some(GrpcMode::Tls) };
    assert_eq!(handlers().health(&container(), &action).await.unwrap(), Health::Serving);
}

#[test]
fn messages_are_read_whole_or_not_at_all() {
    assert_eq!(grpc::question(""), b"");
    assert_eq!(grpc::question("ab"), b"\x0a\x02ab");
    assert_eq!(grpc::question(&"x".repeat(300))[..3], [0x0a, 0xac, 0x02]);
    assert_eq!(grpc::unframed(SERVING), Some(&[8, 1][..]));
    for short in 0..SERVING.len() {
        assert_eq!(grpc::unframed(&SERVING[..short]).filter(|_| short < 7), None);
    }
    // Fields of a newer service are passed over.
    assert_eq!(grpc::serving(&[0x12, 2, 9, 9, 8, 2, 0x1d, 0, 0, 0, 0]), Some(2));
    assert_eq!(grpc::serving(&[0x12, 200]), None);
    assert_eq!(grpc::serving(&[0xff; 11]), None);
    assert_eq!(grpc::serving(&[]), Some(0));
}

#[test]
fn ports_are_numbers_or_names() {
    let named = ContainerPort {
        name: Some("web".into()),
        container_port: 8080,
        host_port: None,
        host_ip: None,
        protocol: stower_crds::Protocol::Tcp,
    };
    let find = |it| port(&it, std::slice::from_ref(&named)).map_err(|error| error.to_string());
    assert_eq!(find(IntOrString::Int(80)), Ok(80));
    assert_eq!(find(IntOrString::String("web".into())), Ok(8080));
    assert_eq!(find(IntOrString::String("81".into())), Ok(81));
    assert!(find(IntOrString::Int(0)).is_err() && find(IntOrString::Int(65_536)).is_err());
    assert_eq!(
        find(IntOrString::String("other".into())),
        Err("no port is named \"other\"; name it in spec.ports".into())
    );
}
