//! Cargo as a tool of the tests: what of the workspace they run elsewhere is built by it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The top of the checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(1).map_or_else(PathBuf::new, Path::to_owned)
}

/// Cargo in the checkout, without what the cargo that runs this program told it about itself: build scripts that look
/// at such variables would run anew.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text.starts_with("CARGO_BIN_")
        {
            command.env_remove(&name);
        }
    }
    command.current_dir(checkout());
    command
}

/// Runs `cargo ARGS --message-format=json` and gives its messages (doc.rust-lang.org/cargo/reference/external-tools.html).
/// What the compiler has to say goes to standard error.
pub fn messages(args: &[&str]) -> Result<Vec<Value>> {
    let output = cargo()
        .args(args)
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("run cargo")?;
    ensure!(output.status.success(), "cargo {}: {}", args.join(" "), output.status);
    let text = String::from_utf8(output.stdout).context("cargo's messages are no text")?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
