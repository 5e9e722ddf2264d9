//! Other OCI runtimes, by name, as Docker's `runtimes` has them.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::layers::Merged;

/// What the built-in runtime is called.
pub const BUILT_IN: &str = "stower";
/// No name is longer, in bytes.
const MAX_NAME: usize = 63;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// The program: a path, or a name to be looked up.
    pub path: PathBuf,
    /// Arguments before the command of the runtime.
    pub args: Vec<String>,
    /// Options of its `create`.
    pub create_args: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    path: PathBuf,
    #[serde(default)]
    runtime_args: Vec<String>,
    #[serde(default)]
    options: Options,
}

/// Names and meanings are those of containerd's options of runc.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
struct Options {
    no_pivot_root: bool,
    no_new_keyring: bool,
    systemd_cgroup: bool,
}

pub(super) fn derive(merged: &mut Merged) -> BTreeMap<String, RuntimeConfig> {
    let mut found = BTreeMap::new();
    for (name, value) in merged.entries("runtimes") {
        let at = |part: &str| format!("runtimes.{name}{part}");
        if !is_name(&name) {
            merged.wrong(
                at(""),
                "a name has letters, digits, `-`, `_` and `.`, at most 63, and begins with a letter or digit",
            );
            continue;
        }
        if name == BUILT_IN {
            merged.wrong(at(""), "is the built-in runtime, which is not configured; take another name");
            continue;
        }
        let written: Written = match serde_json::from_value(value) {
            Ok(written) => written,
            Err(error) => {
                merged.wrong(at(""), error.to_string());
                continue;
            }
        };
        let Written { path, runtime_args, options } = written;
        let plain = path.components().count() == 1;
        if path.as_os_str().is_empty() || !(path.is_absolute() || plain) {
            merged.wrong(
                at(".path"),
                format!("{path:?} is neither an absolute path nor the name of a program"),
            );
        }
        if options.systemd_cgroup {
            let message = "cannot be: the groups of containers are the agent's own; leave it out";
            merged.wrong(at(".options.SystemdCgroup"), message);
        }
        let mut create_args = Vec::new();
        for (is_set, arg) in
            [(options.no_pivot_root, "--no-pivot"), (options.no_new_keyring, "--no-new-keyring")]
        {
            create_args.extend(is_set.then(|| arg.to_owned()));
        }
        found.insert(name, RuntimeConfig { path, args: runtime_args, create_args });
    }
    found
}

fn is_name(name: &str) -> bool {
    let usual = |byte: u8| byte.is_ascii_alphanumeric();
    name.len() <= MAX_NAME
        && name.bytes().next().is_some_and(usual)
        && name.bytes().all(|byte| usual(byte) || b"-_.".contains(&byte))
}

impl RuntimeConfig {
    /// As it is written.
    pub(super) fn to_json(&self) -> Value {
        let has = |arg: &str| self.create_args.iter().any(|it| it == arg);
        let mut options = serde_json::Map::new();
        for (name, arg) in [("NoPivotRoot", "--no-pivot"), ("NoNewKeyring", "--no-new-keyring")] {
            if has(arg) {
                options.insert(name.to_owned(), true.into());
            }
        }
        let mut written = json!({"path": self.path});
        if !self.args.is_empty() {
            written["runtimeArgs"] = json!(self.args);
        }
        if !options.is_empty() {
            written["options"] = options.into();
        }
        written
    }
}
