//! Amounts: the cases of apimachinery's own tests, and properties.

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Quantity {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn canonical_texts() {
    for (text, canonical) in [
        ("0", "0"),
        ("0n", "0"),
        ("0Gi", "0"),
        ("1024", "1024"),
        ("1024Ki", "1Mi"),
        ("1Ki", "1Ki"),
        ("0.5Gi", "512Mi"),
        ("0.3Ki", "307200m"),
        ("1.5", "1500m"),
        ("100m", "100m"),
        ("0.1", "100m"),
        ("1000m", "1"),
        ("1000k", "1M"),
        ("1e3", "1e3"),
        ("12E2", "1200"),
        ("1E", "1E"),
        ("7Ei", "7Ei"),
        ("0.000000001", "1n"),
        ("0.0000000001", "1n"),
        ("1.", "1"),
        (".5", "500m"),
        ("64Mi", "64Mi"),
        ("1023Ki", "1023Ki"),
        ("+5", "5"),
        ("-5k", "-5k"),
    ] {
        assert_eq!(read(text).to_string(), canonical, "{text}");
    }
}

#[test]
fn units_are_rounded_up() {
    assert_eq!((read("1.5").units(), read("1.5").millis()), (Some(2), Some(1500)));
    assert_eq!((read("100u").units(), read("100u").millis()), (Some(1), Some(1)));
    assert_eq!(read("1Gi").units(), Some(1 << 30));
    assert_eq!(read("-1").units(), None);
    assert_eq!(read("1Ki"), read("1024"));
    assert!(read("1Gi") > read("1G"));
    assert!(!read("1m").is_zero() && read("0Ki").is_zero());
}

#[test]
fn what_is_no_amount() {
    use ParseQuantityError::{Syntax, TooLarge};
    for text in [
        "", "Mi", "1mi", "1 Mi", "1..2", "1.2.3", "0x10", "1e", "1e+", "1e100", "--1", "1K", "1Kib", ".", "١",
    ] {
        assert_eq!(text.parse::<Quantity>(), Err(Syntax), "{text}");
    }
    for text in ["8Ei", "9223372036854775808", "1e19", "99999999999999999999999999999999E", "1e99"] {
        assert_eq!(text.parse::<Quantity>(), Err(TooLarge), "{text}");
    }
    assert_eq!(read("9223372036854775807").units(), Some(u64::try_from(i64::MAX).unwrap()));
    assert_eq!(read(&format!("{}1", "0".repeat(1000))).units(), Some(1));
    assert_eq!(read(&format!("0.{}1Gi", "0".repeat(1000))).to_string(), "1n");
}

#[test]
fn json_has_numbers_and_texts() {
    assert_eq!(serde_json::from_str::<Quantity>("5").unwrap(), read("5"));
    assert_eq!(serde_json::to_string(&read("1024Ki")).unwrap(), "\"1Mi\"");
    assert!(serde_json::from_str::<Quantity>("0.5").is_err());
}

proptest! {
    #[test]
    fn the_canonical_text_reads_back(digits in "[0-9]{1,12}(\\.[0-9]{0,12})?", suffix in prop::sample::select(vec![
        "", "n", "u", "m", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "e2", "e-3", "E6",
    ])) {
        if let Ok(quantity) = format!("{digits}{suffix}").parse::<Quantity>() {
            let text = quantity.to_string();
            prop_assert_eq!(read(&text), quantity, "{}", &text);
            prop_assert_eq!(read(&text).to_string(), text);
        }
    }

    #[test]
    fn whole_numbers_are_exact(value in any::<i64>(), power in 0usize..6) {
        prop_assert_eq!(read(&value.to_string()), Quantity::from_int(value));
        let small = value.unsigned_abs() % 256;
        let (name, shift) = BINARY[power];
        if shift < 55 {
            prop_assert_eq!(read(&format!("{small}{name}")).units(), Some(small << shift));
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}", near in "[0-9.eEKMGTPinukm+-]{0,40}") {
        let _ = text.parse::<Quantity>();
        let _ = near.parse::<Quantity>();
    }
}
