//! `cargo xtask image`: the agent's container image.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use stower_e2e::{agent_image, cargo::messages};

use crate::build::checkout;

/// Builds the program, then the image as `DIR/stower` (an OCI layout) and `DIR/stower.tar` (the same as an OCI archive).
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let mut release = true;
    let mut reference = None;
    let mut folder = None;
    let mut args = args.iter().copied();
    while let Some(arg) = args.next() {
        match arg {
            "--debug" => release = false,
            "--reference" => {
                reference =
                    Some(args.next().context("--reference needs a name, such as example.org/stower:1")?);
            }
            _ if arg.starts_with('-') || folder.is_some() => {
                bail!("image [--debug] [--reference NAME] [DIR]")
            }
            _ => folder = Some(PathBuf::from(arg)),
        }
    }
    let mut build = vec!["build", "-p", "stower"];
    build.extend(release.then_some("--release"));
    let built = messages(&build)?;
    let binary = built
        .iter()
        .filter(|message| message["target"]["name"] == "stower")
        .find_map(|message| message["executable"].as_str())
        .context("cargo built no program stower")?;
    let version = env!("CARGO_PKG_VERSION");
    let reference = reference.map_or_else(|| format!("stower:{version}"), str::to_owned);
    let folder = folder.unwrap_or_else(|| checkout().join("target/image"));
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let layout = folder.join("stower");
    if layout.exists() {
        fs::remove_dir_all(&layout).with_context(|| format!("remove the former {}", layout.display()))?;
    }
    let image = agent_image::write(binary.as_ref(), version, &reference, &layout)?;
    let archive = folder.join("stower.tar");
    image.write_oci_archive(&archive)?;
    println!("{reference} {}", image.digest);
    println!("  {}  an OCI layout: skopeo copy oci:{} docker://…", layout.display(), layout.display());
    println!(
        "  {}  an OCI archive: ctr -n k8s.io images import, docker load, stower image import",
        archive.display()
    );
    Ok(())
}
