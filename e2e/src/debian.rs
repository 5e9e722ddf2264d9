//! Software out of Debian packages, without installing any of it: packages are fetched into the cache and unpacked
//! there, so no daemon starts on the host and no file of the host changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cache, process};

/// Raise it when unpacking changes, so that older trees are not used.
const FORMAT: &str = "2";

/// A folder with the files of some packages and of the libraries they depend on, `/usr`-merged.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The folder.
    pub path: PathBuf,
    /// A digest of the package names and versions in it.
    pub key: String,
}

impl Tree {
    /// Fetches and unpacks `packages`, what they depend on among the libraries, and the dependencies named by
    /// `also` (a prefix each). Other dependencies (scripts for set-up, documentation) are left out on purpose.
    /// The caller holds the cache's lock.
    pub fn of(packages: &[&str], also: &[&str]) -> Result<Self> {
        let closure = match closure(packages, also) {
            Ok(closure) => closure,
            // A new machine has no package lists yet.
            Err(_) => {
                update()?;
                closure(packages, also)?
            }
        };
        let listed: String = closure.iter().map(|(name, version)| format!("{name}={version}\n")).collect();
        let key = cache::sha256(format!("{FORMAT}\n{listed}").as_bytes())[..16].to_owned();
        let path = cache::once("trees", &key, |staging| {
            for folder in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64"] {
                fs::create_dir_all(staging.join(folder))?;
            }
            for link in ["bin", "sbin", "lib", "lib64"] {
                symlink(format!("usr/{link}"), staging.join(link))?;
            }
            for (name, version) in &closure {
                unpack(&fetch(name, version)?, staging)?;
            }
            Ok(())
        })
        .with_context(|| format!("prepare the Debian packages {packages:?}"))?;
        Ok(Self { path, key })
    }

    /// A command that runs a program of the tree on the host, with the tree's own libraries.
    pub fn command(&self, program: &str) -> Result<Command> {
        let path = self.path.join(program.trim_start_matches('/'));
        let path =
            path.canonicalize().with_context(|| format!("find {program} in {}", self.path.display()))?;
        let libraries = self.library_folders()?;
        let loader = self.path.join("usr/lib64/ld-linux-x86-64.so.2");
        let loader = match fs::read_link(&loader) {
            // An absolute link, as Debian's package has it, would lead to the host's loader.
            Ok(target) if target.is_absolute() => self.path.join(target.strip_prefix("/").unwrap_or(&target)),
            _ => loader,
        };
        let mut command = Command::new(loader);
        command.arg("--library-path").arg(libraries).arg(path);
        Ok(command)
    }

    fn library_folders(&self) -> Result<OsString> {
        let triple = Path::new("usr/lib/x86_64-linux-gnu");
        let folders = [self.path.join(triple), self.path.join("usr/lib")];
        std::env::join_paths(folders).context("the cache's path must have no colon")
    }
}

/// Name and version of each package in the closure.
fn closure(packages: &[&str], also: &[&str]) -> Result<BTreeMap<String, String>> {
    let mut closure = BTreeMap::new();
    let mut seen: BTreeSet<String> = packages.iter().map(|&name| name.to_owned()).collect();
    let mut next: Vec<String> = seen.iter().cloned().collect();
    while !next.is_empty() {
        let mut args = vec!["show".to_owned(), "--no-all-versions".to_owned()];
        args.append(&mut next);
        let text = process::run("apt-cache", &args)?;
        for stanza in text.split("\n\n").filter(|stanza| !stanza.trim().is_empty()) {
            let field =
                |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let (Some(name), Some(version)) = (field("Package"), field("Version")) else {
                bail!("apt-cache show gave no package and version in {stanza:?}")
            };
            closure.insert(name.to_owned(), version.to_owned());
            let depends = [field("Depends"), field("Pre-Depends")];
            for wanted in
                depends.into_iter().flatten().flat_map(|list| list.split(',')).filter_map(first_choice)
            {
                if follows(wanted, also) && seen.insert(wanted.to_owned()) {
                    next.push(wanted.to_owned());
                }
            }
        }
    }
    if let Some(missing) = packages.iter().find(|&&name| !closure.contains_key(name)) {
        bail!("Debian's package lists do not have {missing}: apt-get update");
    }
    Ok(closure)
}

fn first_choice(dependency: &str) -> Option<&str> {
    dependency.split('|').next()?.trim().split([' ', ':']).next()
}

/// Libraries, except the compiler's: PostgreSQL uses LLVM only to compile queries, which is switched off.
fn follows(package: &str, also: &[&str]) -> bool {
    let library = (package.starts_with("lib") && !package.starts_with("libllvm")) || package == "zlib1g";
    library || also.iter().any(|prefix| package.starts_with(prefix))
}

fn update() -> Result<()> {
    process::run("apt-get", ["update", "-qq"]).map(drop).context("apt-get update")
}

/// The package's file in the cache.
fn fetch(name: &str, version: &str) -> Result<PathBuf> {
    let folder = cache::root()?.join("packages");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    // apt writes a colon of the version as %3a.
    let file = format!("{name}_{}_", version.replace(':', "%3a"));
    let find = || -> Result<Option<PathBuf>> {
        let mut found = None;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let text = path.file_name().and_then(|text| text.to_str()).unwrap_or_default();
            if text.starts_with(&file) && text.ends_with(".deb") {
                found = Some(path);
            }
        }
        Ok(found)
    };
    if let Some(path) = find()? {
        return Ok(path);
    }
    let download = || {
        let mut command = Command::new("apt-get");
        command.args(["download", "-q", "-o", "APT::Sandbox::User=root"]).arg(format!("{name}={version}"));
        process::run_command(command.current_dir(&folder))
    };
    // The lists may name a version that the mirror has replaced since.
    if download().is_err() {
        update()?;
        download().with_context(|| format!("fetch the Debian package {name} {version}"))?;
    }
    find()?.with_context(|| format!("apt-get download left no {file}*.deb in {}", folder.display()))
}

fn unpack(package: &Path, into: &Path) -> Result<()> {
    let script =
        "set -e; dpkg-deb --fsys-tarfile \"$1\" | tar -x --keep-directory-symlink --numeric-owner -C \"$2\"";
    let args = [OsString::from("-c"), script.into(), "unpack".into(), package.into(), into.into()];
    process::run("bash", [OsString::from("-o"), "pipefail".into()].into_iter().chain(args))
        .map(drop)
        .with_context(|| format!("unpack {}", package.display()))
}
