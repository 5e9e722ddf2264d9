use std::io::Read;

use proptest::prelude::*;

use super::*;

const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn text_and_back() {
    assert_eq!(Digest::of(b"").to_string(), EMPTY);
    assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(b""));
    assert_eq!(serde_json::to_string(&Digest::of(b"")).unwrap(), format!("{EMPTY:?}"));
    assert_eq!(serde_json::from_str::<DiffId>(&format!("{EMPTY:?}")).unwrap().0, Digest::of(b""));
}

#[test]
fn what_is_no_digest_is_refused_and_never_becomes_a_path() {
    let up = EMPTY.to_uppercase();
    for bad in [
        "",
        "sha256:",
        "sha256:abc",
        &up,
        &EMPTY[7..],
        "sha256:../../etc/passwd",
        &format!("{EMPTY}/"),
        &format!("{EMPTY}\n"),
    ] {
        assert!(
            matches!(
                bad.parse::<Digest>(),
                Err(ParseDigestError::Malformed(_) | ParseDigestError::Algorithm(_))
            ),
            "{bad}"
        );
    }
    let sha512 = format!("sha512:{}", "0".repeat(128)).parse::<Digest>().unwrap_err();
    assert_eq!(sha512.to_string(), "digest algorithm \"sha512\" is not supported, only sha256 is");
}

#[test]
fn chain_ids_are_those_of_the_specification() {
    let (a, b) = (DiffId(Digest::of(b"a")), DiffId(Digest::of(b"b")));
    let chain = ChainId::all(&[a, b]);
    assert_eq!(chain[0].0, a.0);
    assert_eq!(chain[1].0, Digest::of(format!("{a} {b}").as_bytes()));
}

fn verify(bytes: &[u8], expected: Digest, size: Option<u64>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    VerifyReader::new(bytes, expected, size).read_to_end(&mut out).map(|_| out)
}

#[test]
fn wrong_content_is_told_by_kind() {
    let good = Digest::of(b"hello");
    assert_eq!(verify(b"hello", good, Some(5)).unwrap(), b"hello");
    let wrong = |r: io::Result<Vec<u8>>| WrongContent::of(&r.unwrap_err()).unwrap().clone();
    assert_eq!(wrong(verify(b"hell", good, Some(5))), WrongContent::Truncated { expected: 5, found: 4 });
    assert_eq!(wrong(verify(b"hello!", good, Some(5))), WrongContent::TooLong { expected: 5 });
    assert!(matches!(wrong(verify(b"jello", good, Some(5))), WrongContent::Digest { .. }));
    assert!(matches!(wrong(verify(b"hell", good, None)), WrongContent::Digest { .. }));
}

#[test]
fn the_verdict_stays() {
    let mut reader = VerifyReader::new(&b"x"[..], Digest::of(b"y"), None);
    let mut buffer = [0; 8];
    assert_eq!(reader.read(&mut buffer).unwrap(), 1);
    assert!(reader.read(&mut buffer).is_err());
    assert!(reader.read(&mut buffer).is_err());
}

proptest! {
    #[test]
    fn parsing_never_panics_and_round_trips(text in ".{0,100}") {
        if let Ok(digest) = text.parse::<Digest>() {
            prop_assert_eq!(digest.to_string(), text);
        }
    }

    #[test]
    fn one_changed_byte_is_seen(mut bytes in proptest::collection::vec(any::<u8>(), 1..4096), at in any::<prop::sample::Index>()) {
        let (good, size) = (Digest::of(&bytes), bytes.len() as u64);
        prop_assert!(verify(&bytes, good, Some(size)).is_ok());
        let at = at.index(bytes.len());
        bytes[at] ^= 1;
        prop_assert!(verify(&bytes, good, Some(size)).is_err());
    }
}
