use super::*;

fn event() -> WrittenEvent {
    let at = |second| Timestamp::from_second(second).unwrap();
    let word = |text: &str| text.to_owned();
    let about = About {
        api_version: word("stower.dev/v1alpha1"),
        kind: word("Container"),
        namespace: word("shop"),
        name: word("web"),
        uid: word("u-1"),
    };
    let what = Occurrence { about, warning: true, reason: word("BackOff"), message: word("back-off") };
    WrittenEvent { name: word("web.1"), what, count: 3, first: at(0), last: at(60) }
}

#[test]
fn an_event_is_that_of_kubelet() {
    assert_eq!(
        body(&event(), "n1"),
        json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": "web.1", "namespace": "shop"},
            "involvedObject": {"apiVersion": "stower.dev/v1alpha1", "kind": "Container", "namespace": "shop", "name": "web", "uid": "u-1"},
            "type": "Warning", "reason": "BackOff", "message": "back-off", "count": 3,
            "firstTimestamp": "1970-01-01T00:00:00Z", "lastTimestamp": "1970-01-01T00:01:00Z",
            "source": {"component": "stower-agent", "host": "n1"},
            "reportingComponent": "stower-agent", "reportingInstance": "n1",
        })
    );
    assert_eq!(
        counted(&event()),
        json!({"count": 3, "lastTimestamp": "1970-01-01T00:01:00Z", "message": "back-off"})
    );
}

#[test]
fn an_event_of_the_node_is_in_the_default_namespace() {
    let mut event = event();
    event.what.about = About {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        namespace: String::new(),
        name: "n1".to_owned(),
        uid: "n1".to_owned(),
    };
    let body = body(&event, "n1");
    assert_eq!(body["metadata"]["namespace"], "default");
    assert_eq!(
        body["involvedObject"],
        json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1"})
    );
}
