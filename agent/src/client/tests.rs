use super::*;

#[test]
fn urls_encode_what_they_are_given() {
    let url =
        Url::new(&["apis", "stower.dev", "a/b"]).query("labelSelector", "app in (a, b)").maybe("x", None);
    assert_eq!(url.as_str(), "/apis/stower.dev/a%2Fb?labelSelector=app%20in%20%28a%2C%20b%29");
}

#[test]
fn a_status_is_printed_as_kubectl_does() {
    let body = br#"{"kind":"Status","status":"Failure","reason":"NotFound","message":"containers.stower.dev \"x\" not found","code":404}"#;
    let error = ClientError::Status(Status::read(404, body));
    assert_eq!(error.to_string(), r#"Error from server (NotFound): containers.stower.dev "x" not found"#);
    assert!(error.is_not_found());
    assert!(!error.is_gone());
}

#[test]
fn an_answer_that_is_no_status_still_says_something() {
    let status = Status::read(502, b"bad gateway\n");
    assert_eq!((status.reason.as_str(), status.message.as_str()), ("BadGateway", "bad gateway"));
}

#[tokio::test]
async fn without_an_agent_the_error_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let error = Client::new(&socket).get("/ping").await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "the agent does not answer on {}: is it running? start it with `stower agent`, or name its socket with --socket or STOWER_SOCKET",
            socket.display()
        )
    );
}
