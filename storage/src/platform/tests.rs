use super::*;

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

fn pick<'a>(here: &str, images: &[&'a str]) -> Option<&'a str> {
    let parsed: Vec<Platform> = images.iter().map(|text| platform(text)).collect();
    select(&platform(here), parsed.iter().map(Some)).map(|index| images[index])
}

#[test]
fn spellings_are_one() {
    assert_eq!(platform("linux/x86_64").to_string(), "linux/amd64");
    assert_eq!(platform("linux/aarch64"), platform("linux/arm64/v8"));
    assert_eq!(platform("linux/arm"), platform("linux/arm/v7"));
    assert!("linux".parse::<Platform>().is_err());
    assert!("linux/".parse::<Platform>().is_err());
    assert!("linux/a/b/c".parse::<Platform>().is_err());
}

#[test]
fn the_best_that_runs_is_picked() {
    let all = ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm64", "linux/amd64", "windows/amd64"];
    assert_eq!(pick("linux/amd64/v3", &all), Some("linux/amd64"));
    assert_eq!(pick("linux/arm/v7", &all), Some("linux/arm/v7"));
    assert_eq!(pick("linux/arm/v6", &all), Some("linux/arm/v6"));
    assert_eq!(pick("linux/arm/v5", &all[1..]), None);
    assert_eq!(pick("linux/arm/v8", &all), Some("linux/arm/v7"));
    assert_eq!(
        pick("linux/amd64/v3", &["linux/amd64", "linux/amd64/v4", "linux/amd64/v2"]),
        Some("linux/amd64/v2")
    );
    assert_eq!(pick("linux/amd64", &["linux/amd64/v2"]), None);
    assert_eq!(pick("linux/s390x", &all), None);
    assert_eq!(pick("linux/riscv64", &["linux/riscv64"]), Some("linux/riscv64"));
}

#[test]
fn the_host_runs_its_own() {
    let host = Platform::host();
    assert!(host.fit(&Platform::new("linux", std::env::consts::ARCH, None)).is_some());
    assert_eq!(host.fit(&Platform::new("linux", "s390x", None)), None);
}
