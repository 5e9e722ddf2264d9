use proptest::prelude::*;

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn full(text: &str) -> String {
    text.parse::<Reference>().unwrap_or_else(|error| panic!("{text}: {error}")).to_string()
}

#[test]
fn shortcuts_are_those_of_docker() {
    for (text, expected) in [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("grafana/grafana", "docker.io/grafana/grafana:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b:t"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("ghcr.io/x/y", "ghcr.io/x/y:latest"),
        ("Registry/x", "Registry/x:latest"),
    ] {
        assert_eq!(full(text), expected, "{text}");
    }
    assert_eq!(full(&format!("a@sha256:{HEX}")), format!("docker.io/library/a@sha256:{HEX}"));
    assert_eq!(full(&format!("a:t@sha256:{HEX}")), format!("docker.io/library/a:t@sha256:{HEX}"));
    assert_eq!("busybox".parse::<Reference>().unwrap().familiar(), "busybox:latest");
}

#[test]
fn another_default_registry_has_no_library() {
    let name = Reference::parse("busybox", "10.0.0.1:5000").unwrap();
    assert_eq!(name.to_string(), "10.0.0.1:5000/busybox:latest");
}

#[test]
fn bad_names_say_what_is_wrong() {
    use ParseReferenceError as E;
    let error = |text: &str| text.parse::<Reference>().unwrap_err();
    assert_eq!(error(""), E::Empty);
    assert_eq!(error("Busybox"), E::UpperCase("Busybox".into()));
    assert!(matches!(error(HEX), E::BareId(_)));
    assert!(matches!(error("a..b"), E::Repository(_)));
    assert!(matches!(error("a/../b"), E::Repository(_)));
    assert!(matches!(error("a//b"), E::Repository(_)));
    assert!(matches!(error("ex.com:99999/a"), E::Registry(_)));
    assert!(matches!(error("ex.com/"), E::Repository(_)));
    assert!(matches!(error("a:"), E::Tag(_)));
    assert!(matches!(error("a:.x"), E::Tag(_)));
    assert!(matches!(error("a@sha256:12"), E::Digest(_)));
    assert!(matches!(error("user@host/a"), E::Digest(_)));
    assert_eq!(error(&"a".repeat(256)), E::TooLong);
    assert_eq!(error(&"a".repeat(100_000)), E::TooLong);
}

proptest! {
    // Capitals are left out: Docker takes `A/b` for a registry, the other does not.
    // The grammar agrees with an independent implementation of it, on text that is likely to be near it.
    #[test]
    fn agrees_with_oci_spec(text in "([a-z.:0-9]{1,9}/)?[a-z0-9._/-]{1,12}(:[a-z0-9._-]{0,6})?") {
        let ours = text.parse::<Reference>();
        let theirs = oci_spec::distribution::Reference::try_from(text.as_str());
        if let (Ok(ours), Ok(theirs)) = (&ours, &theirs) {
            prop_assert_eq!(ours.to_string(), theirs.to_string());
        } else if let (Err(error), Ok(_)) = (&ours, &theirs) {
            // Stricter only in what no registry can be reached by.
            prop_assert!(matches!(error, ParseReferenceError::Registry(_) | ParseReferenceError::UpperCase(_)), "{}: {}", text, error);
        } else if let (Ok(ours), Err(error)) = (&ours, &theirs) {
            prop_assert!(false, "{} accepted as {}, the other says {}", text, ours, error);
        }
    }

    #[test]
    fn what_is_printed_is_read_back(text in "\\PC{0,80}") {
        if let Ok(name) = text.parse::<Reference>() {
            prop_assert_eq!(name.to_string().parse::<Reference>().unwrap(), name);
        }
    }
}
