use proptest::prelude::*;
use reqwest::header::HeaderValue;

use super::*;

fn headers(values: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

#[test]
fn challenges_are_read() {
    let bearer = Challenge::Bearer {
        realm: url("https://auth.docker.io/token"),
        service: Some("registry.docker.io".into()),
        scope: Some("repository:library/a:pull,push".into()),
    };
    let text = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/a:pull,push""#;
    assert_eq!(challenges(&headers(&[text])), std::slice::from_ref(&bearer));
    // Bearer is preferred, in whichever order and in however many headers they come.
    assert_eq!(challenges(&headers(&[r#"Basic realm="x""#, text])), [bearer.clone(), Challenge::Basic]);
    assert_eq!(
        challenges(&headers(&[&format!(r#"Basic realm="a, b", {text}"#)])),
        [bearer, Challenge::Basic]
    );
    assert_eq!(challenges(&headers(&["Negotiate", "Digest realm=x"])), []);
    assert_eq!(challenges(&headers(&["Bearer", "Bearer realm=\"\"", "Bearer realm=\"not a url\""])), []);
}

#[test]
fn only_a_registrys_own_token_server_gets_its_credentials() {
    let registry = url("https://registry.example:5000/v2/a/");
    let allowed = |realm: &str, name: &str, configured: &[(String, String)]| {
        may_have_credentials(&url(realm), &registry, name, configured)
    };
    assert!(allowed("https://registry.example:5000/token", "registry.example:5000", &[]));
    assert!(allowed("https://registry.example/token", "registry.example:5000", &[]));
    assert!(!allowed("http://registry.example:5000/token", "registry.example:5000", &[]));
    for realm in [
        "https://evil.example/token",
        "https://registry.example.evil/",
        "https://xregistry.example/",
        "ftp://registry.example/",
    ] {
        assert!(!allowed(realm, "registry.example:5000", &[]), "{realm}");
    }
    let configured = [("registry.example:5000".to_owned(), "login.example".to_owned())];
    assert!(allowed("https://login.example/token", "registry.example:5000", &configured));
    assert!(!allowed("http://login.example/token", "registry.example:5000", &configured));
    assert!(!allowed("https://login.example/token", "other.example", &configured));
    let hub = url("https://registry-1.docker.io/v2/library/a/");
    assert!(may_have_credentials(&url("https://auth.docker.io/token"), &hub, "docker.io", &[]));
    let plain = url("http://10.0.0.1:5000/v2/a/");
    assert!(may_have_credentials(&url("http://10.0.0.1:5000/token"), &plain, "10.0.0.1:5000", &[]));
    assert!(!may_have_credentials(&url("http://10.0.0.1:5001/token"), &plain, "10.0.0.1:5000", &[]));
}

#[test]
fn docker_config_is_read() {
    let json = br#"{"auths": {
        "https://index.docker.io/v1/": {"auth": "dTpwOnc="},
        "ghcr.io": {"username": "a", "password": "b"},
        "idp.example": {"identitytoken": "i"}, "t.example:1": {"registrytoken": "t"}, "empty.example": {}
    }, "credsStore": "desktop"}"#;
    let all = Credentials::from_docker_config(json).unwrap();
    let basic = |username: &str, password: &str| Credential::Basic {
        username: username.into(),
        password: password.into(),
    };
    assert_eq!(all.get("docker.io"), Some(&basic("u", "p:w")));
    assert_eq!(all.get("ghcr.io"), Some(&basic("a", "b")));
    assert_eq!(all.get("idp.example"), Some(&Credential::Identity("i".into())));
    assert_eq!(all.get("t.example:1"), Some(&Credential::Bearer("t".into())));
    assert_eq!(all.get("t.example"), None);
    assert_eq!(all.get("empty.example"), None);
    assert_eq!(Credentials::from_docker_config(b"{\"auths\": 1}"), Err(ParseCredentialsError::Malformed));
    let bad = Credentials::from_docker_config(br#"{"auths": {"x": {"auth": "!!"}}}"#);
    assert_eq!(bad, Err(ParseCredentialsError::Auth("x".into())));
}

#[test]
fn secrets_are_not_printed() {
    let all = Credentials::anonymous()
        .with("a", Credential::Basic { username: "u".into(), password: "hunter2".into() })
        .with("b", Credential::Identity("hunter2".into()))
        .with("c", Credential::Bearer("hunter2".into()));
    assert!(!format!("{all:?}").contains("hunter2"));
}

proptest! {
    #[test]
    fn hostile_challenges_never_panic(text in "[a-zA-Z]{0,6}[ -~]{0,80}") {
        let _ = parse_challenges(&text);
    }
}
