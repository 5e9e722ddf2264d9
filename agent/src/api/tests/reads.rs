use super::*;

#[tokio::test]
async fn a_list_has_its_kind_version_and_items() {
    let served = served(&["a", "b"]);
    let list = served.client.get(BASE).await.unwrap();
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("ContainerList"), &json!("stower.dev/v1alpha1"))
    );
    assert_eq!(list["metadata"]["resourceVersion"], "2");
    assert_eq!(list["items"][1]["metadata"]["resourceVersion"], "2");
    assert_eq!(list["items"][1]["metadata"]["annotations"][SOURCE_ANNOTATION], "local API");
    let all = served.client.get("/apis/stower.dev/v1alpha1/containers").await.unwrap();
    assert_eq!(all["items"], list["items"]);
    let other = served.client.get(&BASE.replace("default", "other")).await.unwrap();
    assert_eq!(other["items"], json!([]));
}

#[tokio::test]
async fn selectors_select() {
    let served = served(&["a", "b"]);
    served.memory.set(labelled("c", 3, "db"));
    for (query, want) in [
        ("labelSelector=app%3Ddb", vec!["c"]),
        ("labelSelector=app!=db", vec!["a", "b"]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=spec.nodeName%3Dhere,metadata.name!=b", vec!["a", "c"]),
        ("fieldSelector=spec.nodeName%3Dthere", vec![]),
    ] {
        let list = served.client.get(&format!("{BASE}?{query}")).await.unwrap();
        let names: Vec<_> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| o["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, want, "{query}");
    }
}

#[tokio::test]
async fn commands_are_read_strictly_and_need_an_upgrade() {
    let served = served(&["a"]);
    let post = async |path: &str| refused(&served.client, Method::POST, path, None).await;
    assert_eq!(post(&format!("{BASE}/a/exec?stdin=true")).await.0, 400);
    assert_eq!(post(&format!("{BASE}/a/exec?command=ls&shell=true")).await.0, 400);
    assert_eq!(post(&format!("{BASE}/a/exec?command=ls&tty=true&rows=70000")).await.0, 400);
    let plain = post(&format!("{BASE}/a/exec?command=ls")).await;
    assert!(plain.0 == 426 && plain.2.contains("Upgrade: channels.stower.dev/v1"), "{plain:?}");
    assert_eq!(post(&format!("{BASE}/a/copyto?path=%2Ftmp&name=a%2Fb")).await.0, 400);
    assert_eq!(post(&format!("{BASE}/a/copyfrom")).await.0, 400);
    let query = "command=ls&command=&env=A%3Db&tty=true&rows=3&columns=4&stdin=true";
    let error = served.client.upgrade(&format!("{BASE}/a/exec?{query}")).await.unwrap_err();
    assert!(error.to_string().contains("this node runs nothing"), "{error}");
    assert_eq!(
        served.memory.asked(),
        [
            "exec a ExecOptions { command: [\"ls\", \"\"], env: [\"A=b\"], working_dir: None, user: None, tty: Some((3, 4)), \
          streams: [true, false, false] }"
        ]
    );
}

#[tokio::test]
async fn refusals_are_statuses() {
    let served = served(&["a"]);
    let get = async |path: &str| refused(&served.client, Method::GET, path, None).await;
    let not_found = "containers.stower.dev \"x\" not found";
    assert_eq!(get(&format!("{BASE}/x")).await, (404, "NotFound".into(), not_found.into()));
    assert_eq!(get("/nowhere").await.0, 404);
    assert_eq!(get("/nowhere").await.1, "NotFound");
    assert_eq!(get(&BASE.replace("containers", "pods")).await.1, "NotFound");
    assert_eq!(get(&format!("{BASE}/Not%20A%20Name")).await.0, 422);
    assert_eq!(get(&format!("{BASE}?labelSelector=a%3Db%3Dc")).await.0, 400);
    assert_eq!(get(&format!("{BASE}?fieldSelector=spec.image%3Dx")).await.1, "BadRequest");
    let unknown = get(&format!("{BASE}?continue=abc")).await;
    assert_eq!(unknown.2, "the query parameter \"continue\" is not supported here");
    assert_eq!(get(&format!("{BASE}/a/hold")).await.0, 405);
    assert_eq!(get(&format!("{BASE}/a/exec")).await.0, 405);
    assert_eq!(get(&format!("{BASE}/a/nothing")).await.0, 404);
    let put = refused(&served.client, Method::PUT, BASE, None).await;
    assert_eq!((put.0, put.1.as_str()), (405, "MethodNotAllowed"));
}

#[tokio::test]
async fn a_wrong_method_says_which_are_right() {
    let served = served(&[]);
    let answer =
        raw(&served.socket, &format!("PUT {BASE} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("\r\nallow: get,head,post\r\n"), "{answer}");
    assert!(answer.contains("\"kind\":\"Status\""), "{answer}");
}

#[tokio::test]
async fn discovery_names_what_there_is() {
    let served = served(&[]);
    let groups = served.client.get("/apis").await.unwrap();
    assert_eq!(groups["groups"][0]["preferredVersion"]["groupVersion"], "stower.dev/v1alpha1");
    let group = served.client.get("/apis/stower.dev").await.unwrap();
    assert_eq!((&group["kind"], &group["name"]), (&json!("APIGroup"), &json!("stower.dev")));
    assert_eq!(
        served.client.get("/version").await.unwrap()["gitVersion"],
        concat!("v", env!("CARGO_PKG_VERSION"))
    );
}

#[tokio::test]
async fn the_node_says_how_it_is() {
    let served = served(&[]);
    assert_eq!(served.client.text("/ping").await.unwrap(), "ok");
    assert_eq!(served.client.text("/healthz").await.unwrap(), "ok");
    assert_eq!(served.client.text("/metrics").await.unwrap(), "stower_up 1\n");
    assert_eq!(served.client.text("/v1/dump").await.unwrap(), "all is well\n");
    let ready = refusal(served.client.text("/readyz").await.unwrap_err());
    assert_eq!((ready.code, ready.message.as_str()), (503, "[-]manifests not read yet\nreadyz check failed"));
    assert_eq!(served.client.get("/v1/plan").await.unwrap()["actions"], json!(["start default/web"]));
    let head = raw(&served.socket, "HEAD /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn events_are_those_of_core_v1() {
    let served = served(&[]);
    served.memory.happened("a", "Started", 1);
    served.memory.happened("b", "Killed", 2);
    let list = served.client.get("/api/v1/events?fieldSelector=involvedObject.name%3Db").await.unwrap();
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("EventList"), 1));
    let event = &list["items"][0];
    assert_eq!(
        (&event["reason"], &event["type"], &event["count"]),
        (&json!("Killed"), &json!("Normal"), &json!(1))
    );
    assert_eq!(event["lastTimestamp"], "1970-01-01T00:00:02Z");
    let none = served.client.get("/api/v1/namespaces/other/events").await.unwrap();
    assert_eq!(none["items"], json!([]));
}

#[tokio::test]
async fn a_watch_of_events_goes_on_where_the_list_ended() {
    let served = served(&[]);
    served.memory.happened("a", "Started", 1);
    let list = served.client.get("/api/v1/events").await.unwrap();
    served.memory.happened("a", "Killed", 2);
    let path = format!(
        "/api/v1/events?watch=1&resourceVersion={}",
        list["metadata"]["resourceVersion"].as_str().unwrap()
    );
    let mut stream = served.client.stream(Method::GET, &path, None).await.unwrap();
    served.memory.happened("a", "Restarted", 3);
    for want in ["Killed", "Restarted"] {
        assert_eq!(stream.event().await.unwrap().unwrap()["object"]["reason"], want);
    }
}

#[tokio::test]
async fn images_are_listed_pulled_imported_and_removed() {
    let served = served(&[]);
    let list = served.client.get("/v1/images").await.unwrap();
    assert_eq!(list["items"][0]["digest"], "sha256:ab");
    let pull = async |name: &str| {
        let body = Content::json(&json!({"reference": name}));
        let mut stream = served.client.stream(Method::POST, "/v1/images/pull", Some(body)).await.unwrap();
        let mut reports = 0;
        loop {
            match stream.event().await {
                Ok(Some(event)) if event["type"] == "PROGRESS" => reports += 1,
                end => return (reports, end),
            }
        }
    };
    let (reports, end) = pull("nginx").await;
    assert_eq!((reports, end.unwrap().unwrap()["object"]["digest"].clone()), (100, json!("sha256:ab")));
    let (reports, end) = pull("none").await;
    assert_eq!((reports, refusal(end.unwrap_err()).message), (100, "no registry".to_owned()));
    let import = async |path: &str| {
        let body = Content::json(&json!({"path": path}));
        served.client.json(Method::POST, "/v1/images/import", Some(body)).await
    };
    assert_eq!(import("/x.tar").await.unwrap()["items"][0]["size"], 7);
    assert_eq!(refusal(import("x.tar").await.unwrap_err()).code, 400);
    let removed = served.client.json(Method::DELETE, "/v1/images?reference=nginx", None).await.unwrap();
    assert_eq!(removed["message"], "removed nginx");
    assert_eq!(refused(&served.client, Method::DELETE, "/v1/images", None).await.0, 400);
}

async fn told(stream: &mut crate::client::Stream) -> (String, String) {
    let event = stream.event().await.unwrap().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
}

fn pair(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn a_watch_tells_what_is_there_and_what_changes() {
    let served = served(&["a", "b"]);
    let mut stream = served.client.stream(Method::GET, &format!("{BASE}?watch=true"), None).await.unwrap();
    assert_eq!(told(&mut stream).await, pair("ADDED", "a"));
    assert_eq!(told(&mut stream).await, pair("ADDED", "b"));
    served.memory.set(container("a", 3));
    served.memory.set(container("c", 4));
    served.memory.remove(&key("b"));
    assert_eq!(told(&mut stream).await, pair("MODIFIED", "a"));
    assert_eq!(told(&mut stream).await, pair("ADDED", "c"));
    assert_eq!(told(&mut stream).await, pair("DELETED", "b"));
}

#[tokio::test]
async fn a_watch_from_a_version_misses_nothing() {
    let served = served(&["a"]);
    // The hub must have begun before versions can be asked of it.
    let version =
        served.client.get(BASE).await.unwrap()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    served.memory.set(container("b", 2));
    served.memory.remove(&key("a"));
    let path = format!("{BASE}?watch=1&resourceVersion={version}");
    let mut stream = served.client.stream(Method::GET, &path, None).await.unwrap();
    assert_eq!(told(&mut stream).await, pair("ADDED", "b"));
    let gone = stream.event().await.unwrap().unwrap();
    assert_eq!(
        (&gone["type"], &gone["object"]["metadata"]["resourceVersion"]),
        (&json!("DELETED"), &json!("3"))
    );
}

#[tokio::test]
async fn objects_come_into_a_selection_and_leave_it() {
    let served = served(&["a"]);
    let path = format!("{BASE}?watch=1&labelSelector=app%3Ddb");
    let mut stream = served.client.stream(Method::GET, &path, None).await.unwrap();
    served.memory.set(labelled("a", 2, "db"));
    assert_eq!(told(&mut stream).await, pair("ADDED", "a"));
    served.memory.set(labelled("a", 3, "db"));
    assert_eq!(told(&mut stream).await, pair("MODIFIED", "a"));
    served.memory.set(labelled("a", 4, "web"));
    assert_eq!(told(&mut stream).await, pair("DELETED", "a"));
    served.memory.set(labelled("a", 5, "web"));
    served.memory.remove(&key("a"));
    served.memory.set(labelled("b", 7, "db"));
    assert_eq!(told(&mut stream).await, pair("ADDED", "b"));
}

#[tokio::test]
async fn versions_that_are_not_kept_are_gone() {
    let served = served(&["a", "b", "c"]);
    for version in ["1", "99"] {
        let path = format!("{BASE}?watch=1&resourceVersion={version}");
        let error = served.client.stream(Method::GET, &path, None).await.unwrap_err();
        assert!(error.is_gone(), "{error}");
    }
    let path = format!("{BASE}?watch=1&resourceVersion=x");
    assert_eq!(refusal(served.client.stream(Method::GET, &path, None).await.unwrap_err()).code, 400);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_when_it_was_asked_to() {
    let served = served(&[]);
    let path = format!("{BASE}?watch=1&timeoutSeconds=100&allowWatchBookmarks=true");
    let mut stream = served.client.stream(Method::GET, &path, None).await.unwrap();
    let bookmark = stream.event().await.unwrap().unwrap();
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("Container")));
    assert_eq!(stream.event().await.unwrap(), None);
}
