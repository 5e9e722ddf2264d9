//! Which machine an image is for, and which of an index fits here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Operating system, architecture and variant, in Go's words (OCI image specification, image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`, ...
    pub architecture: String,
    /// `v7`, `v8`, `v3`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// The text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("platform {0:?} is not os/architecture or os/architecture/variant")]
pub struct ParsePlatformError(String);

impl Platform {
    /// From its parts; the usual other spellings are made Go's (`x86_64` is `amd64`).
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, variant) = match (architecture, variant.filter(|v| !v.is_empty())) {
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", None) => ("arm", Some("v7")),
            ("armel", None) => ("arm", Some("v6")),
            ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", None),
            other => other,
        };
        let variant = match (architecture, variant) {
            // The least that the name promises; saying it or not is the same.
            ("arm64", Some("v8" | "8" | "v8.0")) | ("amd64", Some("v1")) => None,
            ("arm", None) => Some("v7".to_owned()),
            ("arm", Some(digit @ ("5" | "6" | "7" | "8"))) => Some(format!("v{digit}")),
            (_, variant) => variant.map(str::to_owned),
        };
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant }
    }

    /// This machine, with the highest variant that its processor has.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, host_variant())
    }

    /// How well an image for `image` runs on `self`: higher is better, `None` is not at all.
    pub fn fit(&self, image: &Self) -> Option<u32> {
        if self.os != image.os || self.architecture != image.architecture {
            return None;
        }
        if self.variant == image.variant {
            return Some(u32::MAX);
        }
        let (here, there) = (
            level(&self.architecture, self.variant.as_deref())?,
            level(&image.architecture, image.variant.as_deref())?,
        );
        (there <= here).then_some(there)
    }
}

/// Variants that include those before them.
fn level(architecture: &str, variant: Option<&str>) -> Option<u32> {
    let (base, max, variant) = match architecture {
        "amd64" => (1, 4, variant.unwrap_or("v1")),
        "arm" => (5, 8, variant.unwrap_or("v7")),
        "arm64" => (8, 9, variant.unwrap_or("v8")),
        _ => return None,
    };
    let (major, minor) =
        variant.strip_prefix('v')?.split_once('.').unwrap_or((variant.strip_prefix('v')?, "0"));
    let (major, minor) = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
    ((base..=max).contains(&major) && minor < 100).then_some(major * 100 + minor)
}

#[cfg(target_arch = "x86_64")]
fn host_variant() -> Option<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse3")
        && has!("ssse3")
        && has!("sse4.1")
        && has!("sse4.2")
        && has!("popcnt")
        && has!("cmpxchg16b");
    let v3 = v2
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let v4 =
        v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (v4, v3, v2) {
        (true, _, _) => Some("v4"),
        (_, true, _) => Some("v3"),
        (_, _, true) => Some("v2"),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn host_variant() -> Option<&'static str> {
    None
}

/// The index in `images` of the one that fits `here` best, the first of equals.
pub(crate) fn select<'a>(
    here: &Platform,
    images: impl Iterator<Item = Option<&'a Platform>>,
) -> Option<usize> {
    let mut best: Option<(u32, usize)> = None;
    for (index, image) in images.enumerate() {
        let Some(fit) = image.and_then(|image| here.fit(image)) else { continue };
        if best.is_none_or(|(other, _)| fit > other) {
            best = Some((fit, index));
        }
    }
    best.map(|(_, index)| index)
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &&str| {
            !part.is_empty()
                && part.len() <= 32
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        match parts.as_slice() {
            _ if !parts.iter().all(word) => Err(ParsePlatformError(text.chars().take(96).collect())),
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(ParsePlatformError(text.chars().take(96).collect())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests;
