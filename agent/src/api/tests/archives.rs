use super::*;

async fn whole(
    client: &Client,
    method: Method,
    path: &str,
    content: Option<Content>,
) -> Result<Vec<u8>, ClientError> {
    let mut stream = client.stream(method, path, content).await?;
    let mut out = Vec::new();
    while let Some(piece) = stream.chunk().await? {
        out.extend_from_slice(&piece);
    }
    Ok(out)
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_come_whole() {
    let served = served(&["small", "large", "empty"]);
    for (name, length) in [("small", 5), ("large", 5_000_000), ("empty", 0)] {
        let got = whole(&served.client, Method::GET, &format!("{BASE}/{name}/export"), None).await.unwrap();
        assert_eq!(got.len(), length, "{name}");
    }
    let content = Content::json(&json!({"references": ["small"]}));
    let got = whole(&served.client, Method::POST, "/v1/images/save", Some(content)).await.unwrap();
    assert_eq!(got, b"small");
}

/// Nobody takes half an archive for a whole one.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_fails_is_refused_or_breaks_off() {
    let served = served(&["refused", "breaks"]);
    let error =
        whole(&served.client, Method::GET, &format!("{BASE}/refused/export"), None).await.unwrap_err();
    assert_eq!(refusal(error).code, 409);
    let error = whole(&served.client, Method::GET, &format!("{BASE}/breaks/export"), None).await.unwrap_err();
    assert!(matches!(error, ClientError::Broken { .. }), "{error}");
    let error = whole(&served.client, Method::GET, &format!("{BASE}/none/export"), None).await.unwrap_err();
    assert!(error.is_not_found());
    let content = Content::json(&json!({"references": []}));
    assert_eq!(refused(&served.client, Method::POST, "/v1/images/save", Some(content)).await.0, 400);
}

/// Who reads slowly makes the disk wait; who leaves ends it.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_ends_with_its_reader() {
    let served = served(&["endless"]);
    let mut stream =
        served.client.stream(Method::GET, &format!("{BASE}/endless/export"), None).await.unwrap();
    assert!(stream.chunk().await.unwrap().is_some());
    drop(stream);
    let ended = async {
        while !served.memory.asked().iter().any(|said| said.starts_with("ended ")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it goes on without a reader");
}

#[tokio::test]
async fn commits_and_changes_are_asked_for() {
    let served = served(&["a"]);
    let list = served.client.get(&format!("{BASE}/a/diff")).await.unwrap();
    assert_eq!(list["items"], json!([{"path": "/new", "kind": "Added"}]));
    let body = json!({"reference": "x:1", "changes": ["CMD a"], "pause": false});
    let path = format!("{BASE}/a/commit");
    served.client.json(Method::POST, &path, Some(Content::json(&body))).await.unwrap();
    let asked = served.memory.asked().pop().unwrap();
    assert!(asked.contains("CMD a") && asked.contains("pause: false"), "{asked}");
    let unknown = Some(Content::json(&json!({"puase": false})));
    assert_eq!(refused(&served.client, Method::POST, &path, unknown).await.0, 400);
    assert_eq!(refused(&served.client, Method::GET, &format!("{BASE}/b/diff"), None).await.0, 404);
}
