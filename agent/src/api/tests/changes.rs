use super::*;

fn document(name: &str, image: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"image": image}})
}

#[tokio::test]
async fn apply_says_what_it_changed() {
    let served = served(&["a"]);
    for (name, image, outcome) in
        [("b", "x", "created"), ("b", "x", "unchanged"), ("b", "y", "configured"), ("a", "y", "configured")]
    {
        let (object, got) =
            served.client.apply(&format!("{BASE}/{name}"), &document(name, image)).await.unwrap();
        assert_eq!(got, outcome, "{name} {image}");
        assert_eq!(object["metadata"]["namespace"], "default");
        assert_eq!(object["kind"], "Container");
    }
}

#[tokio::test]
async fn apply_takes_yaml() {
    let served = served(&[]);
    let content = Content {
        media_type: body::APPLY,
        bytes: b"apiVersion: stower.dev/v1alpha1\nkind: Container\nmetadata:\n  name: a\nspec:\n  image: x\n"
            .to_vec(),
    };
    let object = served.client.json(Method::PATCH, &format!("{BASE}/a"), Some(content)).await.unwrap();
    assert_eq!(object["spec"]["image"], "x");
    let content = Content { media_type: body::APPLY, bytes: b"a: [\n".to_vec() };
    let refused = refused(&served.client, Method::PATCH, &format!("{BASE}/a"), Some(content)).await;
    assert_eq!(refused.0, 400);
    assert!(refused.2.starts_with("the body is not YAML: "), "{refused:?}");
}

#[tokio::test]
async fn what_get_printed_can_be_applied() {
    let served = served(&["a"]);
    let mut object = served.client.get(&format!("{BASE}/a")).await.unwrap();
    object["spec"]["image"] = "new".into();
    served.client.apply(&format!("{BASE}/a"), &object).await.unwrap();
    let asked = served.memory.asked().pop().unwrap();
    for field in ["uid", "resourceVersion", "generation", "annotations", "status"] {
        assert!(!asked.contains(&format!("{field:?}:")), "{field}: {asked}");
    }
    // The version it had is no longer the current one.
    let error = refusal(served.client.apply(&format!("{BASE}/a"), &object).await.unwrap_err());
    assert_eq!((error.code, error.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        error.message,
        "Operation cannot be fulfilled on containers.stower.dev \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let served = served(&["a"]);
    served.client.apply(&format!("{BASE}/b?dryRun=All"), &document("b", "x")).await.unwrap();
    assert_eq!(served.memory.view().objects.size(), 1);
    served.client.json(Method::DELETE, &format!("{BASE}/a?dryRun=All"), None).await.unwrap();
    assert_eq!(served.memory.view().objects.size(), 1);
    let refused = refused(&served.client, Method::DELETE, &format!("{BASE}/a?dryRun=Some"), None).await;
    assert_eq!(refused.0, 400);
}

#[tokio::test]
async fn create_and_replace_know_whether_it_is_there() {
    let served = served(&["a"]);
    let send = async |method, path: &str, object: &Value| {
        served.client.json(method, path, Some(Content::json(object))).await
    };
    assert_eq!(send(Method::POST, BASE, &document("b", "x")).await.unwrap()["metadata"]["name"], "b");
    let twice = refusal(send(Method::POST, BASE, &document("b", "x")).await.unwrap_err());
    assert_eq!((twice.code, twice.reason.as_str()), (409, "AlreadyExists"));
    assert_eq!(twice.message, "containers.stower.dev \"b\" already exists");
    let absent = refusal(send(Method::PUT, &format!("{BASE}/c"), &document("c", "x")).await.unwrap_err());
    assert_eq!(absent.code, 404);
    send(Method::PUT, &format!("{BASE}/b"), &document("b", "y")).await.unwrap();
    let nameless = refusal(send(Method::POST, BASE, &json!({"spec": {}})).await.unwrap_err());
    assert_eq!(nameless.code, 422);
}

#[tokio::test]
async fn objects_must_fit_their_path() {
    let served = served(&[]);
    for object in [
        document("other", "x"),
        json!({"kind": "Pod", "metadata": {"name": "a"}}),
        json!({"apiVersion": "v1", "metadata": {"name": "a"}}),
        json!({"metadata": {"name": "a", "namespace": "other"}}),
        json!({"metadata": {"name": 5}}),
        json!({"metadata": []}),
        json!([1]),
    ] {
        let error = refusal(served.client.apply(&format!("{BASE}/a"), &object).await.unwrap_err());
        assert_eq!(error.code, 400, "{object}");
    }
    let error = refusal(served.client.apply(&format!("{BASE}/a"), &document("a", "bad")).await.unwrap_err());
    assert_eq!(
        (error.code, error.reason.as_str(), error.message.as_str()),
        (422, "Invalid", "spec.image: bad")
    );
}

#[tokio::test]
async fn a_merge_patch_changes_what_it_names() {
    let served = served(&["a"]);
    let patch = |value: Value| Content { media_type: body::MERGE, bytes: value.to_string().into_bytes() };
    let path = format!("{BASE}/a");
    let changed = served
        .client
        .json(Method::PATCH, &path, Some(patch(json!({"spec": {"image": "new", "nodeName": null}}))))
        .await
        .unwrap();
    assert_eq!(changed["spec"], json!({"image": "new"}));
    let refused =
        refused(&served.client, Method::PATCH, &format!("{BASE}/none"), Some(patch(json!({})))).await;
    assert_eq!(refused.0, 404);
}

#[tokio::test]
async fn other_media_types_are_refused_by_name() {
    let served = served(&["a"]);
    for (method, path, media_type) in [
        (Method::PATCH, format!("{BASE}/a"), "application/json-patch+json"),
        (Method::POST, BASE.to_owned(), "text/plain"),
        (Method::POST, "/v1/images/pull".to_owned(), "application/x-www-form-urlencoded"),
    ] {
        let content = Content { media_type, bytes: b"{}".to_vec() };
        let refused = refused(&served.client, method, &path, Some(content)).await;
        assert_eq!((refused.0, refused.1.as_str()), (415, "UnsupportedMediaType"), "{path}");
        assert!(refused.2.contains(media_type), "{refused:?}");
    }
}

#[tokio::test]
async fn delete_takes_preconditions_and_refuses_what_it_cannot_do() {
    let served = served(&["a"]);
    let path = format!("{BASE}/a");
    let delete = async |body: Value| {
        served
            .client
            .json(Method::DELETE, &path, Some(Content::json(&body)))
            .await
            .map_err(|error| refusal(error).code)
    };
    assert_eq!(delete(json!({"preconditions": {"uid": "other"}})).await, Err(409));
    assert_eq!(delete(json!({"gracePeriodSeconds": 0})).await, Err(400));
    assert_eq!(delete(json!({"propagationPolicy": "Orphan"})).await, Err(400));
    let gone =
        delete(json!({"preconditions": {"uid": "uid-a"}, "propagationPolicy": "Background"})).await.unwrap();
    assert_eq!(gone["metadata"]["uid"], "uid-a");
    assert_eq!(delete(json!({})).await, Err(404));
}

#[tokio::test]
async fn holds_reach_the_node() {
    let served = served(&["a"]);
    let hold = async |name: &str, body: Value| {
        let path = format!("{BASE}/{name}/hold");
        served
            .client
            .json(Method::POST, &path, Some(Content::json(&body)))
            .await
            .map_err(|error| refusal(error).code)
    };
    hold("a", json!({"action": "stop", "gracePeriodSeconds": 5})).await.unwrap();
    hold("a", json!({"action": "start"})).await.unwrap();
    hold("a", json!({"action": "restart"})).await.unwrap();
    assert_eq!(served.memory.asked(), ["a Stop { grace: Some(5s) }", "a Start", "a Restart { grace: None }"]);
    assert_eq!(hold("x", json!({"action": "stop"})).await, Err(404));
    assert_eq!(hold("a", json!({"action": "pause"})).await, Err(400));
    assert_eq!(hold("a", json!({"action": "stop", "grace": 1})).await, Err(400));
    assert_eq!(hold("a", json!({"action": "start", "gracePeriodSeconds": 1})).await, Err(400));
}
