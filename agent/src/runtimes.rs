//! Other OCI runtimes on this machine: where their programs are, what they say of themselves, and the scripts by which they are run.
//!
//! A script is named by the digest of what is in it and never changes, so a container is always operated by the very words that it
//! was started with, whatever the configuration says by then.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stower_runtime::outside;

use crate::{
    config::{Config, RuntimeConfig},
    paths::private_dir,
};

/// How long a runtime may take to tell its features.
const FEATURES_LIMIT: Duration = Duration::from_secs(5);

/// Where the program of a runtime is.
///
/// # Errors
/// When it is not there, or cannot be executed.
pub(crate) fn program(config: &RuntimeConfig) -> Result<PathBuf, String> {
    let path = &config.path;
    let is_program = |path: &Path| {
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if path.is_absolute() {
        return if is_program(path) {
            Ok(path.clone())
        } else {
            Err(format!("{} is no program on this node", path.display()))
        };
    }
    let found = outside::PATH.split(':').map(|dir| Path::new(dir).join(path)).find(|path| is_program(path));
    found.ok_or_else(|| format!("{} is not in {}", path.display(), outside::PATH))
}

/// The script that becomes the runtime, made where it is not there.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn script(data: &Path, name: &str, config: &RuntimeConfig, program: &Path) -> io::Result<PathBuf> {
    let words = [program.to_string_lossy().into_owned()].into_iter().chain(config.args.iter().cloned());
    let words: Vec<String> = words.map(|word| quoted(&word)).collect();
    let text = format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "));
    let digest: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let dir = data.join("runtimes").join(digest);
    let path = dir.join(name);
    // What a power cut left short is written again.
    if fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(path);
    }
    private_dir(&dir)?;
    let new = dir.join(format!(".{name}.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    drop(file);
    fs::rename(&new, &path)?;
    Ok(path)
}

/// A word of a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Removes the scripts that no container was started with. The next start makes those that it needs.
pub(crate) fn remove_stale(data: &Path, run: &Path) -> io::Result<()> {
    let mut used = BTreeSet::new();
    for entry in fs::read_dir(run.join("c"))? {
        match outside::Runtime::of(&directory(&entry?.path())) {
            Ok(Some(runtime)) => used.extend(runtime.program.parent().map(Path::to_owned)),
            Ok(None) => {}
            // It may be any.
            Err(error) => return Err(error),
        }
    }
    let scripts = match fs::read_dir(data.join("runtimes")) {
        Ok(scripts) => scripts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in scripts {
        let path = entry?.path();
        if !used.contains(&path) {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// The directory for another runtime, of a container's run directory.
pub(crate) fn directory(run_dir: &Path) -> PathBuf {
    run_dir.join("outside")
}

/// What is wrong with the runtimes of a configuration, on this machine.
pub(crate) fn problems(config: &Config) -> Vec<String> {
    let found = config.runtimes.iter();
    found
        .filter_map(|(name, runtime)| {
            program(runtime).err().map(|problem| format!("runtimes.{name}.path: {problem}"))
        })
        .collect()
}

/// All runtimes, with what they say of themselves. Runs programs.
pub(crate) fn survey(config: &Config) -> Vec<Value> {
    let mut all = vec![json!({"name": crate::config::BUILT_IN, "builtIn": true})];
    for (name, runtime) in &config.runtimes {
        let mut shown = json!({"name": name, "path": runtime.path, "args": runtime.args});
        match program(runtime) {
            Ok(program) => {
                shown["path"] = json!(program);
                match outside::features(&program, FEATURES_LIMIT) {
                    Ok(features) => shown["features"] = features,
                    Err(error) => shown["message"] = crate::effects::chain(&error).into(),
                }
            }
            Err(problem) => {
                tracing::error!(runtime = name, problem, "a configured runtime cannot be used");
                shown["problem"] = problem.into();
            }
        }
        all.push(shown);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path: &str, args: &[&str]) -> RuntimeConfig {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        RuntimeConfig { path: path.into(), args, create_args: Vec::new() }
    }

    #[test]
    fn a_script_is_named_by_what_is_in_it_and_stays_while_it_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let (data, run) = (dir.path().join("data"), dir.path().join("run"));
        let echo = Path::new("/bin/echo");
        let first = script(&data, "r", &config("/bin/echo", &["it's", "a b", "$HOME"]), echo).unwrap();
        let second = script(&data, "r", &config("/bin/echo", &[]), echo).unwrap();
        assert_ne!(first, second);
        assert_eq!(script(&data, "r", &config("/bin/echo", &[]), echo).unwrap(), second);
        let said = std::process::Command::new(&first).arg("x y").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), "it's a b $HOME x y\n");
        // What was cut short is mended.
        fs::write(&second, "#!").unwrap();
        script(&data, "r", &config("/bin/echo", &[]), echo).unwrap();
        assert!(fs::read_to_string(&second).unwrap().ends_with("\"$@\"\n"));

        let used = directory(&run.join("c/u"));
        fs::create_dir_all(&used).unwrap();
        let record = json!({"name": "r", "program": first});
        fs::write(used.join("runtime.json"), record.to_string()).unwrap();
        remove_stale(&data, &run).unwrap();
        assert!(first.exists() && !second.exists());
    }

    #[test]
    fn a_program_is_looked_up_and_must_be_one() {
        assert!(program(&config("sh", &[])).unwrap().ends_with("sh"));
        assert_eq!(program(&config("/bin/sh", &[])).unwrap(), Path::new("/bin/sh"));
        for path in ["no-such-runtime", "/etc/passwd", "/bin"] {
            assert!(program(&config(path, &[])).is_err(), "{path}");
        }
    }
}
