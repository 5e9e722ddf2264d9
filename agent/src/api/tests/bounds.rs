use super::*;

#[tokio::test]
async fn a_long_body_is_refused() {
    let served = served(&[]);
    let content = Content { media_type: body::APPLY, bytes: vec![b' '; body::MAX_BODY + 1] };
    let refused = refused(&served.client, Method::PATCH, &format!("{BASE}/a"), Some(content)).await;
    assert_eq!((refused.0, refused.1.as_str()), (413, "RequestEntityTooLarge"));
}

#[tokio::test]
async fn a_long_head_is_refused() {
    let served = served(&[]);
    let request = format!("GET /ping HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(500 << 10));
    let mut stream = UnixStream::connect(&served.socket).await.unwrap();
    // The server may close before it has read all of it.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_no_head_is_cut_off() {
    let served = served(&[]);
    let mut stream = UnixStream::connect(&served.socket).await.unwrap();
    stream.write_all(b"GET /ping HTTP/1.1\r\nhost").await.unwrap();
    let mut answer = Vec::new();
    let begun = tokio::time::Instant::now();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(begun.elapsed() >= Limits::default().head);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_no_body_is_told() {
    let served = served(&[]);
    let request = format!(
        "PATCH {BASE}/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {}\r\ncontent-length: 10\r\n\r\n{{",
        body::APPLY
    );
    let answer = raw(&served.socket, &request).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_off() {
    let limits = Limits { stall: Duration::from_secs(5), ..Limits::default() };
    let names: Vec<_> = (0..2000).map(|n| format!("a{n}")).collect();
    let served = serve_limited(&names.iter().map(String::as_str).collect::<Vec<_>>(), limits);
    let mut stream = UnixStream::connect(&served.socket).await.unwrap();
    stream.write_all(format!("GET {BASE} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let whole = served.client.get(BASE).await.unwrap().to_string().len();
    assert!(
        answer.len() < whole,
        "it was cut off before the {whole} bytes were through, at {}",
        answer.len()
    );
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let served = serve_limited(&["a"], Limits { connections: 1, ..Limits::default() });
    let mut watch = served.client.stream(Method::GET, &format!("{BASE}?watch=1"), None).await.unwrap();
    watch.event().await.unwrap();
    let error = served.client.get("/version").await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Status(status) if status.code == 503 && status.message.contains("as many connections")),
        "{error}"
    );
    drop(watch);
    // The slot is free once the server has seen the end of the watch.
    loop {
        if served.client.get("/version").await.is_ok() {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn readers_do_not_wait_for_a_writer() {
    let served = served(&["a"]);
    // A change that never ends: its body does not come.
    let mut writer = UnixStream::connect(&served.socket).await.unwrap();
    let head = format!(
        "PATCH {BASE}/b HTTP/1.1\r\nhost: x\r\ncontent-type: {}\r\ncontent-length: 10\r\n\r\n",
        body::APPLY
    );
    writer.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(served.client.get(BASE).await.unwrap()["items"].as_array().unwrap().len(), 1);
    served.client.apply(&format!("{BASE}/c"), &json!({"metadata": {"name": "c"}})).await.unwrap();
}

#[tokio::test]
async fn stopping_ends_every_connection_and_removes_the_socket() {
    let served = served(&["a"]);
    let mut watch = served.client.stream(Method::GET, &format!("{BASE}?watch=1"), None).await.unwrap();
    watch.event().await.unwrap();
    served.task.abort();
    assert!(!matches!(watch.event().await, Ok(Some(_))));
    assert!(matches!(served.client.get(BASE).await, Err(ClientError::NoAgent { .. })));
    assert!(!served.socket.exists());
}
