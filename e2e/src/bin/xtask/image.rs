//! `cargo xtask image`: the agent's container image.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use stower_e2e::{agent_image, cargo::messages};

use crate::build::checkout;

const USAGE: &str = "image [--debug | --binary FILE] [--reference NAME] [DIR]";

/// Builds the program, unless one is named, then the image as `DIR/stower` (an OCI layout) and `DIR/stower.tar` (the same as an OCI
/// archive). One program makes one image, byte for byte, whoever builds it.
pub(crate) fn run(args: &[&str]) -> Result<()> {
    let mut debug = false;
    let mut binary = None;
    let mut reference = None;
    let mut folder = None;
    let mut args = args.iter().copied();
    while let Some(arg) = args.next() {
        match arg {
            "--debug" => debug = true,
            "--binary" => {
                let path = args.next().context("--binary needs the path of a stower")?;
                binary = Some(PathBuf::from(path));
            }
            "--reference" => {
                reference =
                    Some(args.next().context("--reference needs a name, such as example.org/stower:1")?);
            }
            _ if arg.starts_with('-') || folder.is_some() => bail!(USAGE),
            _ => folder = Some(PathBuf::from(arg)),
        }
    }
    let binary = match binary {
        Some(_) if debug => bail!("--debug is how to build, and --binary is built: {USAGE}"),
        Some(binary) => binary,
        None => build(debug)?,
    };
    let version = env!("CARGO_PKG_VERSION");
    let reference = reference.map_or_else(|| format!("stower:{version}"), str::to_owned);
    let folder = folder.unwrap_or_else(|| checkout().join("target/image"));
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let layout = folder.join("stower");
    if layout.exists() {
        fs::remove_dir_all(&layout).with_context(|| format!("remove the former {}", layout.display()))?;
    }
    let image = agent_image::write(&binary, version, &reference, &layout)?;
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

fn build(debug: bool) -> Result<PathBuf> {
    let mut build = vec!["build", "-p", "stower"];
    build.extend((!debug).then_some("--release"));
    let built = messages(&build)?;
    built
        .iter()
        .filter(|message| message["target"]["name"] == "stower")
        .find_map(|message| message["executable"].as_str())
        .map(PathBuf::from)
        .context("cargo built no program stower")
}
