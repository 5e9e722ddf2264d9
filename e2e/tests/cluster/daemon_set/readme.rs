//! The quick start on Kubernetes, as the README of the project has it.

use std::fs;

use anyhow::{Context, Result};
use stower_e2e::cargo;

const HEADING: &str = "\n## On Kubernetes\n";

fn text() -> Result<String> {
    fs::read_to_string(cargo::checkout().join("README.md")).context("read README.md")
}

/// Its commands: the indented lines below the heading, up to the first line of text after them, by words and without remarks.
pub(super) fn commands() -> Result<Vec<Vec<String>>> {
    let text = text()?;
    let section = text.split_once(HEADING).context("README.md has no section `On Kubernetes`")?.1;
    let lines = section.lines().skip_while(|line| !line.starts_with("    "));
    let lines = lines.take_while(|line| line.starts_with("    "));
    let words = |line: &str| -> Vec<String> {
        line.split_once(" # ")
            .map_or(line, |(command, _)| command)
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    Ok(lines.map(words).collect())
}

/// Its first manifest, with `spec` in the place of the line that names the image.
pub(super) fn web(spec: &[&str]) -> Result<String> {
    let text = text()?;
    let block =
        text.split("```").find(|block| block.starts_with("yaml\n")).context("README.md has no manifest")?;
    let mut made = String::new();
    for line in block.lines().skip(1) {
        if line.trim_start().starts_with("image: ") {
            made.extend(spec.iter().map(|field| format!("  {field}\n")));
        } else {
            made += line;
            made.push('\n');
        }
    }
    Ok(made)
}
